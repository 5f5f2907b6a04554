// From interrupts to Python. The hooks run in interrupt context: this file, like py/scheduler.c which
// they call, is compiled for general registers only. They put one preallocated node per source on
// MicroPython's scheduler, so a burst of interrupts never overflows its queue.
#include "py/mpstate.h"
#include "py/runtime.h"
#include "mpirq.h"

// Callbacks by line, then the alarm's.
MP_REGISTER_ROOT_POINTER(mp_obj_t mpirq_callbacks[17]);

#define ALARM MPIRQ_LINES

static mp_sched_node_t nodes[MPIRQ_LINES + 1];

static void run(unsigned i) {
    mp_obj_t callback = MP_STATE_VM(mpirq_callbacks)[i];
    if (callback != MP_OBJ_NULL && callback != mp_const_none) {
        mp_call_function_1_protected(callback, MP_OBJ_NEW_SMALL_INT(i == ALARM ? 0 : i));
        if (i != ALARM) {
            irq_unmask(i);
        }
    }
}

static void run_node(mp_sched_node_t *node) {
    run((unsigned)(node - nodes));
}

static void fire(unsigned i) {
    mp_sched_schedule_node(&nodes[i], run_node);
}

static void on_irq(unsigned line) {
    fire(line);
}

static void on_alarm(void) {
    fire(ALARM);
}

static void on_interrupt_char(void) {
    mp_sched_keyboard_interrupt();
}

void mpirq_init(void) {
    for (unsigned i = 0; i <= MPIRQ_LINES; i++) {
        MP_STATE_VM(mpirq_callbacks)[i] = mp_const_none;
    }
    kernel_hooks = (struct kernel_hooks) {on_irq, on_alarm, on_interrupt_char};
}

void mpirq_deinit(void) {
    clock_alarm(UINT64_MAX);
    for (unsigned i = 0; i < MPIRQ_LINES; i++) {
        if (MP_STATE_VM(mpirq_callbacks)[i] != mp_const_none) {
            irq_mask(i);
        }
        MP_STATE_VM(mpirq_callbacks)[i] = mp_const_none;
    }
    MP_STATE_VM(mpirq_callbacks)[ALARM] = mp_const_none;
}

void mpirq_set(unsigned line, mp_obj_t callback) {
    MP_STATE_VM(mpirq_callbacks)[line] = callback;
    if (callback == mp_const_none) {
        irq_mask(line);
    } else {
        irq_unmask(line);
    }
}

void mpirq_set_alarm(mp_obj_t callback) {
    MP_STATE_VM(mpirq_callbacks)[ALARM] = callback;
}
