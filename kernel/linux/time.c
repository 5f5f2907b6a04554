// Clocks and sleeping.
// Sources: clock_gettime(2), clock_nanosleep(2).
#include "linux/time.h"

#include "cpu/sched.h"
#include "cpu/thread.h"
#include "dev/calendar.h"

uint64_t timespec_ns(const struct timespec *ts) {
    return (uint64_t)ts->sec * 1000000000u + (uint64_t)ts->nsec;
}

bool timespec_is_valid(const struct timespec *ts) {
    return ts->sec >= 0 && ts->nsec >= 0 && ts->nsec < 1000000000;
}

uint64_t timespec_after(const struct timespec *ts) {
    return ts->sec < INT32_MAX ? clock_ns() + timespec_ns(ts) : UINT64_MAX;
}

uint64_t timespec_at(const struct timespec *ts, bool realtime) {
    if (ts->sec >= INT64_MAX / 1000000000) {
        return UINT64_MAX;
    }
    int64_t at = (int64_t)timespec_ns(ts) - (realtime ? calendar_offset_ns() : 0);
    return at > 0 ? (uint64_t)at : 0;
}

int64_t sys_clock_gettime(const uint64_t arg[6]) {
    uint64_t id = arg[0], out = arg[1];
    struct timespec *ts = (struct timespec *)out;
    bool realtime = id == 0 || id == 5; // CLOCK_REALTIME, CLOCK_REALTIME_COARSE
    int64_t ns = realtime ? clock_realtime_ns()
                          : (int64_t)(id == CLOCK_THREAD_CPUTIME_ID ? thread_ran_ns() : clock_ns());
    ts->sec = ns / 1000000000;
    ts->nsec = ns % 1000000000;
    return 0;
}

int64_t sys_nanosleep(const uint64_t arg[6]) {
    uint64_t ts = arg[0];
    const struct timespec *t = (const struct timespec *)ts;
    if (!timespec_is_valid(t)) {
        return -L_EINVAL;
    }
    sched_sleep(timespec_after(t));
    return 0;
}

int64_t sys_clock_nanosleep(const uint64_t arg[6]) {
    uint64_t id = arg[0], flags = arg[1], ts = arg[2];
    const struct timespec *t = (const struct timespec *)ts;
    if (!timespec_is_valid(t)) {
        return -L_EINVAL;
    }
    sched_sleep(flags & TIMER_ABSTIME ? timespec_at(t, id == 0) : timespec_after(t));
    return 0;
}
