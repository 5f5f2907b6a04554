// Wall time.
#ifndef CLLM_DEV_CALENDAR_H
#define CLLM_DEV_CALENDAR_H

#include "include/machine.h"

// Sets wall time from the CMOS clock. After tsc_init().
void calendar_init(void);
// clock_realtime_ns() = clock_ns() + this, until the next pause.
int64_t calendar_offset_ns(void);

#endif
