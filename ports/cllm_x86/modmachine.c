// The machine module of this port (included by extmod/modmachine.c).

#include "machine_port.h"

extern const mp_obj_type_t machine_rtc_type;

#define PWRON_RESET 1
#define HARD_RESET 2
#define WDT_RESET 3 // a death; machine.last_crash() knows of what

MP_DECLARE_CONST_FUN_OBJ_0(machine_last_crash_obj); // modcrash.c

#define MICROPY_PY_MACHINE_EXTRA_GLOBALS \
    { MP_ROM_QSTR(MP_QSTR_PWRON_RESET), MP_ROM_INT(PWRON_RESET) }, \
    { MP_ROM_QSTR(MP_QSTR_HARD_RESET), MP_ROM_INT(HARD_RESET) }, \
    { MP_ROM_QSTR(MP_QSTR_WDT_RESET), MP_ROM_INT(WDT_RESET) }, \
    { MP_ROM_QSTR(MP_QSTR_last_crash), MP_ROM_PTR(&machine_last_crash_obj) }, \
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
    const struct crash_record *r = crash_last();
    return r && r->boots == 1 ? WDT_RESET : crash_boots() ? HARD_RESET : PWRON_RESET;
}
