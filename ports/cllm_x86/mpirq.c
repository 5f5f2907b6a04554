// From interrupts to Python. The kernel's hooks run in interrupt context, so this file, like
// py/scheduler.c, which they call, is compiled for general registers only. They put one
// preallocated node per source on MicroPython's scheduler, so a burst of interrupts never
// overflows its queue.
#include "py/mpstate.h"
#include "py/runtime.h"
#include "shared/runtime/softtimer.h"
#include "mpirq.h"

// Callbacks by line, then the alarm's and the power button's.
MP_REGISTER_ROOT_POINTER(mp_obj_t mpirq_callbacks[66]);

#define ALARM MPIRQ_LINES
#define POWER (MPIRQ_LINES + 1)
#define SOFT_TIMER (MPIRQ_LINES + 2)
#define N_NODES (MPIRQ_LINES + 3)

static mp_sched_node_t nodes[N_NODES];

// The kernel has one alarm; these two deadlines (ns of clock_ns(), UINT64_MAX: none) share it.
static uint64_t alarm_deadline = UINT64_MAX, soft_timer_deadline = UINT64_MAX;

static void run(unsigned i) {
    mp_obj_t callback = MP_STATE_VM(mpirq_callbacks)[i];
    if (callback != MP_OBJ_NULL && callback != mp_const_none) {
        mp_call_function_1_protected(callback, MP_OBJ_NEW_SMALL_INT(i == ALARM ? 0 : i));
        if (i != ALARM) {
            irq_unmask(i);
        }
    }
}

static void run_power(void) {
    mp_obj_t callback = MP_STATE_VM(mpirq_callbacks)[POWER];
    if (callback == MP_OBJ_NULL || callback == mp_const_none) {
        machine_exit(0); // no handler to ask
    }
    mp_call_function_1_protected(callback, MP_OBJ_NEW_SMALL_INT(power_presses(true)));
}

static void run_node(mp_sched_node_t *node) {
    if (node == &nodes[SOFT_TIMER]) {
        soft_timer_handler();
    } else if (node == &nodes[POWER]) {
        run_power();
    } else {
        run((unsigned)(node - nodes));
    }
}

static void fire(unsigned i) {
    mp_sched_schedule_node(&nodes[i], run_node);
}

static void on_irq(unsigned line) {
    fire(line);
}

static void arm(void) {
    clock_alarm(alarm_deadline < soft_timer_deadline ? alarm_deadline : soft_timer_deadline);
}

static void on_alarm(void) {
    uint64_t now = clock_ns();
    if (alarm_deadline <= now) {
        alarm_deadline = UINT64_MAX;
        fire(ALARM);
    }
    if (soft_timer_deadline <= now) {
        soft_timer_deadline = UINT64_MAX;
        fire(SOFT_TIMER);
    }
    arm();
}

static void set_deadline(uint64_t *which, uint64_t ns) {
    uint64_t flags = irq_save();
    *which = ns;
    arm();
    irq_restore(flags);
}

void mpirq_alarm_at(uint64_t ns) {
    set_deadline(&alarm_deadline, ns);
}

// shared/runtime/softtimer.c asks every port for these two.
uint32_t soft_timer_get_ms(void) {
    return (uint32_t)(clock_ns() / 1000000);
}

void soft_timer_schedule_at_ms(uint32_t ticks_ms) {
    uint64_t now = clock_ns() / 1000000;
    int32_t left = soft_timer_ticks_diff(ticks_ms, (uint32_t)now);
    set_deadline(&soft_timer_deadline, left <= 0 ? 0 : (now + (uint32_t)left) * 1000000);
}

static void on_interrupt_char(void) {
    mp_sched_keyboard_interrupt();
}

static void on_power_button(void) {
    fire(POWER);
}

void mpirq_init(void) {
    for (unsigned i = 0; i <= POWER; i++) {
        MP_STATE_VM(mpirq_callbacks)[i] = mp_const_none;
    }
    kernel_hooks.irq = on_irq;
    kernel_hooks.alarm = on_alarm;
    kernel_hooks.interrupt_char = on_interrupt_char;
    kernel_hooks.power_button = on_power_button;
}

void mpirq_deinit(void) {
    set_deadline(&alarm_deadline, UINT64_MAX);
    set_deadline(&soft_timer_deadline, UINT64_MAX);
    for (unsigned i = 0; i < MPIRQ_LINES; i++) {
        if (MP_STATE_VM(mpirq_callbacks)[i] != mp_const_none) {
            irq_mask(i);
        }
        MP_STATE_VM(mpirq_callbacks)[i] = mp_const_none;
    }
    irq_free_messages();
    MP_STATE_VM(mpirq_callbacks)[ALARM] = mp_const_none;
    MP_STATE_VM(mpirq_callbacks)[POWER] = mp_const_none;
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

void mpirq_set_power_button(mp_obj_t callback) {
    MP_STATE_VM(mpirq_callbacks)[POWER] = callback;
    if (callback != mp_const_none && power_presses(false)) {
        fire(POWER); // pressed before there was a handler
    }
}
