// The machine module of this port (included by extmod/modmachine.c).

#include "machine_port.h"

extern const mp_obj_type_t machine_rtc_type;

// Power-on is the only cause there is: the machine keeps nothing across a reset.
#define MICROPY_PY_MACHINE_EXTRA_GLOBALS \
    { MP_ROM_QSTR(MP_QSTR_PWRON_RESET), MP_ROM_INT(1) }, \
    { MP_ROM_QSTR(MP_QSTR_RTC), MP_ROM_PTR(&machine_rtc_type) }, \
    { MP_ROM_QSTR(MP_QSTR_Timer), MP_ROM_PTR(&machine_timer_type) }, \
    MACHINE_PORT_GLOBALS

static void mp_machine_idle(void) {
    mp_event_wait_indefinite();
}

NORETURN static void mp_machine_reset(void) {
    machine_reboot();
}

static mp_int_t mp_machine_reset_cause(void) {
    return 1;
}
