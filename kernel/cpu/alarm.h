// The application's one alarm (clock_alarm() of machine.h).
#ifndef CLLM_CPU_ALARM_H
#define CLLM_CPU_ALARM_H

// Handles core 0's timer interrupt, before sched_timer_interrupt().
void alarm_interrupt(void);

#endif
