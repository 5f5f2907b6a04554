// Deaths, watchdogs, boot phases and the screen for Python: machine.last_crash() and functions of
// _x86 (in the tables of modmachine.c and modx86.c). Argument conversion only.
#include <string.h>

#include "py/mphal.h"
#include "py/runtime.h"

static void store(mp_obj_t dict, qstr key, mp_obj_t value) {
    mp_obj_dict_store(dict, MP_OBJ_NEW_QSTR(key), value);
}

// A list of the lines of `text`; with a prefix, of those that begin with it, without it.
static mp_obj_t lines(const char *text, const char *prefix) {
    mp_obj_t list = mp_obj_new_list(0, NULL);
    size_t skip = strlen(prefix);
    while (*text) {
        const char *end = strchr(text, '\n');
        size_t n = end ? (size_t)(end - text) : strlen(text);
        if (!strncmp(text, prefix, skip)) {
            vstr_t line;
            vstr_init(&line, n - skip + 1);
            for (const char *c = text + skip; c < text + n; c++) {
                // The log may hold anything.
                vstr_add_char(&line, *c >= ' ' && *c <= '~' ? *c : '?');
            }
            mp_obj_list_append(list, mp_obj_new_str_from_vstr(&line));
        }
        text += n + (end != NULL);
    }
    return list;
}

// last_crash() -> dict or None: the last death since power-on. reason: one line. uptime: seconds
// since boot. time: seconds since 1970. count: deaths since power-on; streak: of them, in a row
// and each soon after its boot. boots: 1 in the run after it. registers, backtrace (innermost
// first), python (the backtrace's Python lines), log: lists of lines.
static mp_obj_t machine_last_crash(void) {
    const struct crash_record *r = crash_last();
    if (!r) {
        return mp_const_none;
    }
    mp_obj_t dict = mp_obj_new_dict(11);
    store(dict, MP_QSTR_reason, mp_obj_new_str(r->reason, strlen(r->reason)));
    store(dict, MP_QSTR_uptime, mp_obj_new_float((mp_float_t)(r->uptime_ns / 1000000) / 1000));
    store(dict, MP_QSTR_time, mp_obj_new_int_from_ll(r->realtime_ns / 1000000000));
    store(dict, MP_QSTR_count, mp_obj_new_int_from_uint(r->count));
    store(dict, MP_QSTR_streak, mp_obj_new_int_from_uint(r->streak));
    store(dict, MP_QSTR_boots, mp_obj_new_int_from_uint(r->boots));
    store(dict, MP_QSTR_registers, lines(r->registers, ""));
    store(dict, MP_QSTR_backtrace, lines(r->backtrace, ""));
    store(dict, MP_QSTR_python, lines(r->backtrace, "python "));
    store(dict, MP_QSTR_log, lines(r->log, ""));
    return dict;
}
MP_DEFINE_CONST_FUN_OBJ_0(machine_last_crash_obj, machine_last_crash);

// watchdog(timeout_ms): starts the event loop's watchdog; 0 stops it. It ends the machine after
// that long without watchdog_feed() or progress of the engine. From repl_char() to the next
// watchdog_feed() time does not count, because a line at the prompt may take as long as it likes.
static mp_obj_t x86_watchdog(mp_obj_t timeout) {
    mp_int_t ms = mp_obj_get_int(timeout);
    if (ms < 0) {
        mp_raise_ValueError(NULL);
    }
    watchdog_start(WATCHDOG_LOOP, "the event loop", (uint64_t)ms * 1000000);
    return mp_const_none;
}
MP_DEFINE_CONST_FUN_OBJ_1(x86_watchdog_obj, x86_watchdog);

static mp_obj_t x86_watchdog_feed(void) {
    watchdog_hold(WATCHDOG_LOOP, false);
    return mp_const_none;
}
MP_DEFINE_CONST_FUN_OBJ_0(x86_watchdog_feed_obj, x86_watchdog_feed);

// boot_phase(name): records that the phase `name` of booting ends now.
static mp_obj_t x86_boot_phase(mp_obj_t name) {
    boot_phase(qstr_str(mp_obj_str_get_qstr(name)));
    return mp_const_none;
}
MP_DEFINE_CONST_FUN_OBJ_1(x86_boot_phase_obj, x86_boot_phase);

// boot_phases() -> [(name, milliseconds)], in order.
static mp_obj_t x86_boot_phases(void) {
    mp_obj_t list = mp_obj_new_list(0, NULL);
    for (size_t i = 0; i < n_boot_phases; i++) {
        if (i == 0 && boot_began == 0 && crash_boots()) {
            continue; // the counter went on through a warm reset
        }
        uint64_t ticks = boot_phases[i].tsc - (i ? boot_phases[i - 1].tsc : boot_began);
        mp_obj_t item[2] = {
            mp_obj_new_str_from_cstr(boot_phases[i].name),
            mp_obj_new_float((mp_float_t)ticks * 1000 / (mp_float_t)clock_tsc_hz()),
        };
        mp_obj_list_append(list, mp_obj_new_tuple(2, item));
    }
    return list;
}
MP_DEFINE_CONST_FUN_OBJ_0(x86_boot_phases_obj, x86_boot_phases);

// status(line, text): sets line 0 to 3 at the top of the screen.
static mp_obj_t x86_status(mp_obj_t line, mp_obj_t text) {
    size_t n;
    const char *s = mp_obj_str_get_data(text, &n);
    mp_int_t i = mp_obj_get_int(line);
    if (i < 0 || i >= CONSOLE_STATUS) {
        mp_raise_ValueError(NULL);
    }
    console_status((unsigned)i, s, n);
    return mp_const_none;
}
MP_DEFINE_CONST_FUN_OBJ_2(x86_status_obj, x86_status);
