// Time: the TSC calibrated against the 8254 timer, wall time from the CMOS clock, and one-shot
// deadlines by the local APIC timer.
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

#define ARM_MAX_NS 4000000000u

static uint64_t tsc_base, tsc_hz, apic_hz;
static uint64_t tsc_to_ns; // nanoseconds per TSC tick, 32.32 fixed point
static int64_t realtime_offset;
static volatile uint64_t alarm_deadline = UINT64_MAX;
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
// the shortest of several counts is the truest.
static void calibrate(void) {
    uint32_t pit_count = (uint32_t)((uint64_t)PIT_HZ * CALIBRATE_US / 1000000);
    uint64_t best_tsc = UINT64_MAX, best_apic = UINT64_MAX, tsc, ticks;
    for (int i = 0; i < CALIBRATE_ROUNDS; i++) {
        if (!count_ticks(pit_count, &tsc, &ticks)) {
            tsc_hz = 1000000000;
            apic_hz = tsc_hz / 16;
            return;
        }
        best_tsc = tsc < best_tsc ? tsc : best_tsc;
        best_apic = ticks < best_apic ? ticks : best_apic;
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

// Seconds since 1970 from the CMOS clock, which is taken to be UTC.
static int64_t read_rtc(void) {
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
    unsigned hour = from_bcd(a[2] & 0x7F, bcd);
    if (!(format & 2)) { // 12-hour clock
        hour = hour % 12 + (pm ? 12 : 0);
    }
    int64_t days = days_from_civil(2000 + from_bcd(a[5], bcd), from_bcd(a[4], bcd),
        from_bcd(a[3], bcd));
    return ((days * 24 + hour) * 60 + from_bcd(a[1], bcd)) * 60 + from_bcd(a[0], bcd);
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
    realtime_offset = read_rtc() * 1000000000;
}

uint64_t clock_ns(void) {
    return tsc_hz ? (uint64_t)((unsigned __int128)(rdtsc() - tsc_base) * tsc_to_ns >> 32) : 0;
}

uint64_t clock_tsc_hz(void) {
    return tsc_hz;
}

int64_t clock_realtime_offset_ns(void) {
    return realtime_offset;
}

void clock_set_realtime(int64_t ns) {
    uint64_t flags = irq_save();
    realtime_offset = ns - (int64_t)clock_ns();
    write_rtc(ns / 1000000000);
    irq_restore(flags);
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
    return alarm_deadline;
}

void clock_alarm(uint64_t deadline) {
    uint64_t flags = sched_lock_irq();
    alarm_deadline = deadline;
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
    if (this_cpu()->id == 0 && clock_ns() >= alarm_deadline) {
        alarm_deadline = UINT64_MAX;
        if (kernel_hooks.alarm) {
            kernel_hooks.alarm();
        }
        clock_interrupted();
    }
    sched_timer_interrupt();
}
