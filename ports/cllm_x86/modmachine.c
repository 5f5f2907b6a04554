// The machine module of this port (included by extmod/modmachine.c).

#include "machine_port.h"
#include "mpirq.h"

extern const mp_obj_type_t machine_rtc_type;

#define PWRON_RESET 1
#define HARD_RESET 2
#define WDT_RESET 3 // any death; machine.last_crash() says which

MP_DECLARE_CONST_FUN_OBJ_0(machine_last_crash_obj); // modcrash.c

// power_button(handler): handler(n) runs from the scheduler after n presses of the power button
// since it last ran. With None, a press switches the machine off at once.
static mp_obj_t machine_power_button(mp_obj_t handler) {
    if (handler != mp_const_none && !mp_obj_is_callable(handler)) {
        mp_raise_TypeError(MP_ERROR_TEXT("handler must be callable or None"));
    }
    mpirq_set_power_button(handler);
    return mp_const_none;
}
static MP_DEFINE_CONST_FUN_OBJ_1(machine_power_button_obj, machine_power_button);

// power_off(): switches the machine off.
NORETURN static mp_obj_t machine_power_off(void) {
    machine_exit(0);
}
static MP_DEFINE_CONST_FUN_OBJ_0(machine_power_off_obj, machine_power_off);

#define MICROPY_PY_MACHINE_EXTRA_GLOBALS \
    {MP_ROM_QSTR(MP_QSTR_power_button), MP_ROM_PTR(&machine_power_button_obj)}, \
        {MP_ROM_QSTR(MP_QSTR_power_off), MP_ROM_PTR(&machine_power_off_obj)}, \
        {MP_ROM_QSTR(MP_QSTR_PWRON_RESET), MP_ROM_INT(PWRON_RESET)}, \
        {MP_ROM_QSTR(MP_QSTR_HARD_RESET), MP_ROM_INT(HARD_RESET)}, \
        {MP_ROM_QSTR(MP_QSTR_WDT_RESET), MP_ROM_INT(WDT_RESET)}, \
        {MP_ROM_QSTR(MP_QSTR_last_crash), MP_ROM_PTR(&machine_last_crash_obj)}, \
        {MP_ROM_QSTR(MP_QSTR_RTC), MP_ROM_PTR(&machine_rtc_type)}, \
        {MP_ROM_QSTR(MP_QSTR_Timer), MP_ROM_PTR(&machine_timer_type)}, MACHINE_PORT_GLOBALS

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
