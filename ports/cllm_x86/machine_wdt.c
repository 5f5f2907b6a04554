// machine.WDT for this port (included by extmod/machine_wdt.c): one watchdog, which cannot be
// stopped and which only feed() feeds. The event loop has another (_x86.watchdog).
#include "extmod/modmachine.h"

typedef struct _machine_wdt_obj_t {
    mp_obj_base_t base;
} machine_wdt_obj_t;

static machine_wdt_obj_t machine_wdt = {{&machine_wdt_type}};

static void mp_machine_wdt_timeout_ms_set(machine_wdt_obj_t *self, mp_int_t timeout_ms) {
    (void)self;
    if (timeout_ms <= 0) {
        mp_raise_ValueError(MP_ERROR_TEXT("timeout must be positive"));
    }
    watchdog_start(WATCHDOG_PYTHON, "machine.WDT", (uint64_t)timeout_ms * 1000000);
}

static machine_wdt_obj_t *mp_machine_wdt_make_new_instance(mp_int_t id, mp_int_t timeout_ms) {
    if (id != 0) {
        mp_raise_ValueError(MP_ERROR_TEXT("there is one watchdog, 0"));
    }
    mp_machine_wdt_timeout_ms_set(&machine_wdt, timeout_ms);
    return &machine_wdt;
}

static void mp_machine_wdt_feed(machine_wdt_obj_t *self) {
    (void)self;
    watchdog_feed(WATCHDOG_PYTHON);
}
