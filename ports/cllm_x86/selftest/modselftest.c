// _x86.crash() and _x86.stress(): argument conversion for the tests that an image may carry in
// itself.
#include "py/mperrno.h"
#include "py/mphal.h"
#include "py/runtime.h"
#include "selftest/deaths.h"
#include "selftest/stress.h"

// crash(kind, core=0): dies by null, text (a write to code), data (its execution), stack, divide,
// double (fault), hang (until a watchdog bites), panic or abort. On another core a new thread
// does. ValueError for a kind or core that there is none of.
static mp_obj_t x86_crash(size_t n_args, const mp_obj_t *args) {
    mp_int_t core = n_args > 1 ? mp_obj_get_int(args[1]) : 0;
    if (core < 0 || (mp_uint_t)core >= cpu_count()) {
        mp_raise_ValueError(MP_ERROR_TEXT("no such core"));
    }
    die(mp_obj_str_get_str(args[0]), (unsigned)core);
    mp_raise_ValueError(MP_ERROR_TEXT("no such way to die"));
}
MP_DEFINE_CONST_FUN_OBJ_VAR_BETWEEN(x86_crash_obj, 1, 2, x86_crash);

// stress(threads, ms) -> dict: runs the test of stress.h while the network goes on. OSError if the
// threads cannot be started, RuntimeError if they hang for longer than `ms` and 60 s.
static mp_obj_t x86_stress(mp_obj_t threads_in, mp_obj_t ms_in) {
    mp_int_t n = mp_obj_get_int(threads_in), ms = mp_obj_get_int(ms_in);
    if (n < 1 || n > 256 || ms < 0 || ms > 24 * 3600 * 1000) {
        mp_raise_ValueError(NULL);
    }
    int err = stress_start((unsigned)n, (unsigned)ms);
    if (err) {
        mp_raise_OSError(err);
    }
    uint64_t hung = clock_ns() + (uint64_t)(ms + 60000) * 1000000;
    while (stress_running()) {
        mp_event_wait_ms(10);
        if (clock_ns() > hung) {
            mp_raise_msg_varg(&mp_type_RuntimeError, MP_ERROR_TEXT("%u threads hang"),
                stress_running());
        }
    }
    struct stress_result r;
    stress_finish(&r);
    const struct {
        qstr key;
        uint64_t value;
    } counts[] = {
        {MP_QSTR_vectors, r.vectors},
        {MP_QSTR_locks, r.locks},
        {MP_QSTR_signals, r.signals},
        {MP_QSTR_sleeps, r.sleeps},
        {MP_QSTR_maps, r.maps},
        {MP_QSTR_children, r.children},
        {MP_QSTR_ticks, r.ticks},
        {MP_QSTR_errors, r.errors},
        {MP_QSTR_vector_bits, r.vector_bits},
    };
    mp_obj_t dict = mp_obj_new_dict(10);
    for (size_t i = 0; i < MP_ARRAY_SIZE(counts); i++) {
        mp_obj_dict_store(dict, MP_OBJ_NEW_QSTR(counts[i].key),
            mp_obj_new_int_from_ull(counts[i].value));
    }
    mp_obj_dict_store(dict, MP_OBJ_NEW_QSTR(MP_QSTR_error),
        r.error ? mp_obj_new_str_from_cstr(r.error) : mp_const_none);
    return dict;
}
MP_DEFINE_CONST_FUN_OBJ_2(x86_stress_obj, x86_stress);
