// machine.RTC: the machine's wall clock, in UTC. The kernel reads it from the CMOS clock at
// power-on and counts it by the TSC. Setting it sets both, so it outlives a reset.
#include "py/mphal.h"
#include "py/runtime.h"
#include "shared/timeutils/timeutils.h"

extern const mp_obj_type_t machine_rtc_type;

static const mp_obj_base_t machine_rtc = {&machine_rtc_type};

// RTC() or RTC(0). ValueError for another id: there is one clock.
static mp_obj_t machine_rtc_make_new(const mp_obj_type_t *type, size_t n_args, size_t n_kw,
    const mp_obj_t *args) {
    mp_arg_check_num(n_args, n_kw, 0, 1, false);
    if (n_args == 1 && mp_obj_get_int(args[0]) != 0) {
        mp_raise_ValueError(MP_ERROR_TEXT("RTC doesn't exist"));
    }
    return MP_OBJ_FROM_PTR(&machine_rtc);
}

// datetime() -> (year, month, day, weekday, hours, minutes, seconds, microseconds), weekday 0 being
// Monday. datetime(tuple) sets the clock; the weekday is ignored. ValueError for an invalid date
// or a year outside 2000 to 2099.
static mp_obj_t machine_rtc_datetime(size_t n_args, const mp_obj_t *args) {
    if (n_args == 1) {
        uint64_t ns = mp_hal_time_ns();
        timeutils_struct_time_t tm;
        timeutils_seconds_since_epoch_to_struct_time(ns / 1000000000, &tm);
        mp_obj_t tuple[8] = {
            MP_OBJ_NEW_SMALL_INT(tm.tm_year),
            MP_OBJ_NEW_SMALL_INT(tm.tm_mon),
            MP_OBJ_NEW_SMALL_INT(tm.tm_mday),
            MP_OBJ_NEW_SMALL_INT(tm.tm_wday),
            MP_OBJ_NEW_SMALL_INT(tm.tm_hour),
            MP_OBJ_NEW_SMALL_INT(tm.tm_min),
            MP_OBJ_NEW_SMALL_INT(tm.tm_sec),
            MP_OBJ_NEW_SMALL_INT(ns / 1000 % 1000000),
        };
        return mp_obj_new_tuple(MP_ARRAY_SIZE(tuple), tuple);
    }
    mp_obj_t *items;
    mp_obj_get_array_fixed_n(args[1], 8, &items);
    mp_int_t v[8];
    for (size_t i = 0; i < 8; i++) {
        v[i] = mp_obj_get_int(items[i]);
    }
    // The CMOS clock counts years of one century only.
    if (v[0] < 2000 || v[0] > 2099 || v[1] < 1 || v[1] > 12 || v[2] < 1
        || v[2] > (mp_int_t)timeutils_days_in_month(v[0], v[1]) || v[4] < 0 || v[4] > 23 || v[5] < 0
        || v[5] > 59 || v[6] < 0 || v[6] > 59 || v[7] < 0 || v[7] > 999999) {
        mp_raise_ValueError(MP_ERROR_TEXT("no such date or time"));
    }
    uint64_t seconds = timeutils_seconds_since_epoch(v[0], v[1], v[2], v[4], v[5], v[6]);
    clock_set_realtime((int64_t)(seconds * 1000000000 + (uint64_t)v[7] * 1000));
    return mp_const_none;
}
static MP_DEFINE_CONST_FUN_OBJ_VAR_BETWEEN(machine_rtc_datetime_obj, 1, 2, machine_rtc_datetime);

static const mp_rom_map_elem_t machine_rtc_locals_table[] = {
    {MP_ROM_QSTR(MP_QSTR_datetime), MP_ROM_PTR(&machine_rtc_datetime_obj)},
};
static MP_DEFINE_CONST_DICT(machine_rtc_locals, machine_rtc_locals_table);

MP_DEFINE_CONST_OBJ_TYPE(machine_rtc_type, MP_QSTR_RTC, MP_TYPE_FLAG_NONE, make_new,
    machine_rtc_make_new, locals_dict, &machine_rtc_locals);
