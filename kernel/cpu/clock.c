// Time: the TSC calibrated against the 8254 timer, wall time from the CMOS clock, and one-shot
// deadlines by the local APIC timer.
//
// Two clocks count the TSC. clock_ns() leaves pauses out: a hypervisor that stops the machine, a
// host that sleeps or swaps. Deadlines are of this clock, so a pause is no time in which somebody
// could have answered, fed a watchdog or sent a packet. Wall time goes on through a pause. (Linux
// has the same two, CLOCK_MONOTONIC and CLOCK_REALTIME, around a suspend.)
// Sources: SDM vol. 3A 12.5.4 (APIC timer), 18.17 (TSC); Intel 8254 datasheet; MC146818A datasheet.
#include "kernel.h"
#include "cpu/apic.h"
#include "cpu/io.h"
#include "cpu/sched.h"
#include "cpu/smp.h"
#include "cpu/trap.h"

#define PIT_HZ 1193182u
#define CALIBRATE_US 1500u
#define CALIBRATE_ROUNDS 16
#define CALIBRATE_AGREE 5000 // a 5000th apart

#define ARM_MAX_NS 4000000000u

// Core 0's timer fires at least this often, so the clock is read at least this often. Nobody read
// it for longer than PAUSE_NS: nobody ran.
#define BEAT_NS 250000000
#define PAUSE_NS 1000000000

static uint64_t tsc_base, tsc_hz, apic_hz;
static uint64_t tsc_to_ns; // nanoseconds per TSC tick, 32.32 fixed point
// Read by all cores without a lock: while `changes` is odd or differs afterwards, what was read in
// between may not belong together.
static volatile uint32_t changes;
static volatile uint64_t seen;    // raw_ns() of a reading, at most BEAT_NS before the last one
static volatile uint64_t skipped; // what clock_ns() leaves out of raw_ns()
static volatile uint64_t paused;  // of it, what pauses took
static volatile int64_t realtime_offset; // wall time = raw_ns() + this
static int64_t cmos_ahead;        // seconds, when the clock was last set
static volatile uint64_t alarm_deadline = UINT64_MAX;
static volatile uint64_t beat;    // when core 0 is to read the clock; 0 until its timer first fires
static volatile bool interrupted; // a device or the alarm was handled since the last clock_wait()
static struct thread *volatile waiting; // the main thread in clock_wait(); guarded as `interrupted`

// TSC and APIC timer ticks while channel 2 of the 8254 counts CALIBRATE_US down. Its gate and output
// are bits 0 and 5 of port 61h. False when the output never rises: there is no 8254.
static bool count_ticks(uint32_t pit_count, uint64_t *tsc, uint64_t *apic_ticks) {
    outb(0x61, (inb(0x61) & ~2u) | 1u); // speaker off, gate on
    outb(0x43, 0xB0);                   // channel 2, low then high byte, mode 0
    outb(0x42, (uint8_t)pit_count);
    apic_timer_start(UINT32_MAX);
    uint64_t t0 = rdtsc();
    outb(0x42, (uint8_t)(pit_count >> 8)); // counting starts
    uint64_t limit = 1000000;
    while (!(inb(0x61) & 0x20) && --limit) {
    }
    *tsc = rdtsc() - t0;
    *apic_ticks = UINT32_MAX - apic_timer_left();
    apic_timer_start(0);
    return limit;
}

// A virtual processor may be descheduled in the middle of a count, which only ever makes it longer:
// the shortest of several counts is the truest. Two that agree are enough.
static void calibrate(void) {
    uint32_t pit_count = (uint32_t)((uint64_t)PIT_HZ * CALIBRATE_US / 1000000);
    uint64_t best_tsc = UINT64_MAX, best_apic = UINT64_MAX, tsc, ticks;
    for (int i = 0; i < CALIBRATE_ROUNDS; i++) {
        if (!count_ticks(pit_count, &tsc, &ticks)) {
            tsc_hz = 1000000000;
            apic_hz = tsc_hz / 16;
            return;
        }
        uint64_t apart = tsc > best_tsc ? tsc - best_tsc : best_tsc - tsc;
        best_tsc = tsc < best_tsc ? tsc : best_tsc;
        best_apic = ticks < best_apic ? ticks : best_apic;
        if (apart < best_tsc / CALIBRATE_AGREE) {
            break;
        }
    }
    tsc_hz = best_tsc * PIT_HZ / pit_count;
    apic_hz = best_apic * PIT_HZ / pit_count;
}

static uint8_t cmos(uint8_t reg) {
    outb(0x70, reg);
    return inb(0x71);
}

static unsigned from_bcd(unsigned v, bool bcd) {
    return bcd ? (v >> 4) * 10 + (v & 15) : v;
}

// Days since 1970-01-01 of a Gregorian date; years start in March so that the leap day is last.
static int64_t days_from_civil(int64_t y, unsigned m, unsigned d) {
    y -= m <= 2;
    int64_t era = y / 400;
    unsigned yoe = (unsigned)(y - era * 400);
    unsigned doy = (153 * (m + (m > 2 ? -3 : 9)) + 2) / 5 + d - 1;
    unsigned doe = yoe * 365 + yoe / 4 - yoe / 100 + doy;
    return era * 146097 + doe - 719468;
}

// Seconds since 1970 from the CMOS clock, which is taken to be UTC. False when it shows no date:
// there is none.
static bool read_rtc(int64_t *seconds) {
    uint8_t a[6], b[6];
    static const uint8_t regs[6] = {0, 2, 4, 7, 8, 9};
    for (int tries = 0; tries < 100; tries++) {
        bool same = true;
        for (int i = 0; i < 6; i++) {
            a[i] = cmos(regs[i]);
        }
        for (int i = 0; i < 6; i++) {
            b[i] = cmos(regs[i]);
            same &= a[i] == b[i];
        }
        if (same && !(cmos(0x0A) & 0x80)) { // not in the middle of an update
            break;
        }
    }
    uint8_t format = cmos(0x0B);
    bool bcd = !(format & 4), pm = a[2] & 0x80;
    unsigned second = from_bcd(a[0], bcd), minute = from_bcd(a[1], bcd);
    unsigned hour = from_bcd(a[2] & 0x7F, bcd), day = from_bcd(a[3], bcd);
    unsigned month = from_bcd(a[4], bcd), year = from_bcd(a[5], bcd);
    if (!(format & 2)) { // 12-hour clock
        hour = hour % 12 + (pm ? 12 : 0);
    }
    if (second > 59 || minute > 59 || hour > 23 || !day || day > 31 || !month || month > 12
        || year > 99) {
        return false;
    }
    int64_t days = days_from_civil(2000 + year, month, day);
    *seconds = ((days * 24 + hour) * 60 + minute) * 60 + second;
    return true;
}

static void cmos_write(uint8_t reg, unsigned v) {
    outb(0x70, reg);
    outb(0x71, (uint8_t)v);
}

// The inverse of days_from_civil().
static void civil_from_days(int64_t days, unsigned *y, unsigned *m, unsigned *d) {
    unsigned z = (unsigned)(days + 719468); // from 0000-03-01
    unsigned era = z / 146097, doe = z % 146097;
    unsigned yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365;
    unsigned doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    unsigned mp = (5 * doy + 2) / 153;
    *d = doy - (153 * mp + 2) / 5 + 1;
    *m = mp < 10 ? mp + 3 : mp - 9;
    *y = yoe + era * 400 + (*m <= 2);
}

// Writes `seconds` since 1970 in the format that register B asks for. Its SET bit halts the clock's
// own update meanwhile.
static void write_rtc(int64_t seconds) {
    int64_t days = seconds / 86400;
    unsigned second = (unsigned)(seconds % 86400), year, month, day;
    civil_from_days(days, &year, &month, &day);
    uint8_t format = cmos(0x0B);
    unsigned hour = second / 3600, pm = 0;
    if (!(format & 2)) { // 12-hour clock
        pm = hour >= 12 ? 0x80 : 0;
        hour = (hour + 11) % 12 + 1;
    }
    // 1970-01-01 was a Thursday; the clock counts from Sunday as 1.
    unsigned values[7] = {second % 60, second / 60 % 60, hour, (unsigned)((days + 4) % 7) + 1, day,
                          month, year % 100};
    static const uint8_t regs[7] = {0, 2, 4, 6, 7, 8, 9};
    cmos_write(0x0B, format | 0x80u);
    for (int i = 0; i < 7; i++) {
        unsigned v = values[i];
        v = format & 4 ? v : v / 10 << 4 | v % 10;
        cmos_write(regs[i], i == 2 ? v | pm : v);
    }
    cmos_write(0x0B, format & 0x7Fu);
}

void clock_init(void) {
    calibrate();
    tsc_base = rdtsc();
    tsc_to_ns = (1000000000ul << 32) / tsc_hz;
    int64_t seconds;
    if (read_rtc(&seconds)) {
        realtime_offset = seconds * 1000000000;
    }
}

static uint64_t raw_ns(void) {
    return (uint64_t)((unsigned __int128)(rdtsc() - tsc_base) * tsc_to_ns >> 32);
}

// Notes the reading `raw`; `last` and `then` are `seen` and `changes` before it. A gap is left out:
// a pause, or a counter that ran back, as after a move to another host. clock_ns() goes on with a
// time that nobody has read yet.
static void note(uint64_t raw, uint64_t last, uint32_t then) {
    uint64_t flags = irq_save();
    if (__atomic_compare_exchange_n(&changes, &then, then + 1, false, __ATOMIC_ACQUIRE,
        __ATOMIC_RELAXED)) {
        int64_t gap = (int64_t)(raw - last);
        if (gap > PAUSE_NS || gap < -PAUSE_NS) {
            skipped += (uint64_t)(gap - BEAT_NS);
            paused += gap > 0 ? (uint64_t)gap : PAUSE_NS;
            realtime_offset -= gap > 0 ? 0 : gap - BEAT_NS; // the CMOS clock tells more
        }
        seen = raw;
        __atomic_store_n(&changes, then + 2, __ATOMIC_RELEASE);
    }
    irq_restore(flags);
}

uint64_t clock_ns(void) {
    if (!tsc_hz) {
        return 0;
    }
    for (;;) {
        uint32_t then = changes;
        uint64_t out = skipped, last = seen, raw = raw_ns();
        int64_t gap = (int64_t)(raw - last);
        if ((then & 1) || then != changes) {
            __builtin_ia32_pause();
        } else if (gap > BEAT_NS || gap < -PAUSE_NS) {
            note(raw, last, then);
        } else {
            return raw - out;
        }
    }
}

uint64_t clock_paused_ns(void) {
    return paused;
}

uint64_t clock_tsc_hz(void) {
    return tsc_hz;
}

int64_t clock_realtime_ns(void) {
    clock_ns(); // notes a counter that ran back
    return (int64_t)raw_ns() + realtime_offset;
}

int64_t clock_realtime_offset_ns(void) {
    return realtime_offset + (int64_t)skipped;
}

void clock_step(int64_t ns) {
    realtime_offset = ns - (int64_t)raw_ns();
}

void clock_set_realtime(int64_t ns) {
    uint64_t flags = irq_save();
    clock_step(ns);
    write_rtc(ns / 1000000000);
    // What a clock shows that cannot be set, or not to such a year, is no news later.
    int64_t seconds;
    cmos_ahead = read_rtc(&seconds) ? seconds - ns / 1000000000 : 0;
    irq_restore(flags);
}

bool clock_cmos(int64_t *seconds) {
    if (!read_rtc(seconds)) {
        return false;
    }
    *seconds -= cmos_ahead;
    return true;
}

// Fires at `deadline` or earlier (at most ARM_MAX_NS ahead, so that the product below fits in 64 bits):
// whoever waits looks at the clock.
void clock_start_timer(uint64_t deadline) {
    if (deadline == UINT64_MAX) {
        apic_timer_start(0);
        return;
    }
    uint64_t now = clock_ns();
    uint64_t ns = deadline > now ? deadline - now : 1;
    if (ns > ARM_MAX_NS) {
        ns = ARM_MAX_NS;
    }
    uint64_t ticks = ns * apic_hz / 1000000000 + 1;
    apic_timer_start(ticks < UINT32_MAX ? (uint32_t)ticks : UINT32_MAX);
}

uint64_t clock_alarm_deadline(void) {
    return alarm_deadline < beat ? alarm_deadline : beat;
}

void clock_alarm(uint64_t deadline) {
    uint64_t flags = sched_lock_irq();
    alarm_deadline = deadline;
    sched_set_timer();
    sched_unlock_irq(flags);
}

void clock_rearm(void) {
    uint64_t flags = sched_lock_irq();
    sched_set_timer();
    sched_unlock_irq(flags);
}

void clock_wait(uint64_t deadline) {
    uint64_t flags = sched_lock_irq();
    if (interrupted || clock_ns() >= deadline) {
        interrupted = false;
        sched_unlock_irq(flags);
        return;
    }
    waiting = current_thread();
    sched_block(deadline);
    waiting = NULL;
    interrupted = false;
    irq_restore(flags);
}

void clock_interrupted(void) {
    uint64_t flags = sched_lock_irq();
    interrupted = true;
    if (waiting) {
        sched_wake(waiting, true);
    }
    sched_unlock_irq(flags);
}

void timer_interrupt(void) {
    if (this_cpu()->id == 0) {
        uint64_t now = clock_ns();
        beat = now + BEAT_NS;
        if (now >= alarm_deadline) {
            alarm_deadline = UINT64_MAX;
            if (kernel_hooks.alarm) {
                kernel_hooks.alarm();
            }
            clock_interrupted();
        }
    }
    sched_timer_interrupt();
}
