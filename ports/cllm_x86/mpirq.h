// From interrupts to Python: device lines and the alarm as scheduled callbacks.
#ifndef CLLM_MPIRQ_H
#define CLLM_MPIRQ_H

#include "py/obj.h"

#define MPIRQ_LINES 64 // IRQ_LINES of machine.h

// Installs the kernel's hooks. Callbacks live in root pointers and are gone after a soft reset.
void mpirq_init(void);
// Masks every line and forgets the alarm.
void mpirq_deinit(void);
// `callback(line)` runs from the scheduler after each interrupt of `line`; None masks the line.
void mpirq_set(unsigned line, mp_obj_t callback);
// `callback(0)` runs from the scheduler when the alarm armed by mpirq_alarm_at() is due.
void mpirq_set_alarm(mp_obj_t callback);
// `callback(n)` runs from the scheduler after n presses of the power button. With None, a press
// switches the machine off at once.
void mpirq_set_power_button(mp_obj_t callback);
// Arms the alarm for clock_ns() >= ns; UINT64_MAX disarms. Soft timers (machine.Timer) share the
// kernel's one alarm with it.
void mpirq_alarm_at(uint64_t ns);

// Ends what devices do that called _x86.at_reset(). Before DMA memory is freed.
void x86_reset_devices(void);

#endif
