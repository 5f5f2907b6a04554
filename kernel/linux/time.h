// Linux's times, also as deadlines of clock_ns().
#ifndef CLLM_LINUX_TIME_H
#define CLLM_LINUX_TIME_H

#include "linux/linux.h"

#define CLOCK_THREAD_CPUTIME_ID 3
#define TIMER_ABSTIME 1

uint64_t timespec_ns(const struct timespec *ts);
bool timespec_is_valid(const struct timespec *ts);
// The clock_ns() that is `ts` from now; UINT64_MAX, never, for far times.
uint64_t timespec_after(const struct timespec *ts);
// The clock_ns() of the point in time `ts` of wall time or of the monotonic clock.
uint64_t timespec_at(const struct timespec *ts, bool realtime);

#endif
