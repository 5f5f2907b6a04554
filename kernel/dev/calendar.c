// Wall time: read from the CMOS clock at boot, counted by the TSC from there.
// Source: Motorola MC146818A datasheet.
#include "dev/calendar.h"

#include "cpu/io.h"
#include "cpu/tsc.h"

static volatile int64_t offset; // wall time = tsc_wall_ns() + this
static int64_t cmos_ahead;      // seconds by which the CMOS clock differed when it was last set

static uint8_t cmos(uint8_t reg) {
    outb(0x70, reg);
    return inb(0x71);
}

static unsigned from_bcd(unsigned v, bool bcd) {
    return bcd ? (v >> 4) * 10 + (v & 15) : v;
}

// Days since 1970-01-01 of a Gregorian date. Years start in March, so that the leap day is last.
static int64_t days_from_civil(int64_t y, unsigned m, unsigned d) {
    y -= m <= 2;
    int64_t era = y / 400;
    unsigned yoe = (unsigned)(y - era * 400);
    unsigned doy = (153 * (m + (m > 2 ? -3 : 9)) + 2) / 5 + d - 1;
    unsigned doe = yoe * 365 + yoe / 4 - yoe / 100 + doy;
    return era * 146097 + doe - 719468;
}

// Reads seconds since 1970 from the CMOS clock, which counts UTC. False when it shows no date:
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

// Writes `seconds` since 1970 in the format that register B asks for. Its SET bit stops the
// clock's own update for that time.
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

void calendar_init(void) {
    int64_t seconds;
    if (read_rtc(&seconds)) {
        clock_step(seconds * 1000000000);
    }
}

int64_t clock_realtime_ns(void) {
    return (int64_t)tsc_wall_ns() + offset;
}

int64_t calendar_offset_ns(void) {
    return offset + (int64_t)tsc_wall_ahead_ns();
}

void clock_step(int64_t ns) {
    offset = ns - (int64_t)tsc_wall_ns();
}

void clock_set_realtime(int64_t ns) {
    uint64_t flags = irq_save();
    clock_step(ns);
    write_rtc(ns / 1000000000);
    // A clock that cannot be set, or not to this year, keeps showing something else. Only a change
    // of that difference is news later.
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
