// Wall time for this port (included by extmod/modtime.c): whole seconds since 1970, UTC.
#include <string.h>

#include "py/mphal.h"
#include "shared/timeutils/timeutils.h"

static mp_obj_t mp_time_time_get(void) {
    return mp_obj_new_int_from_ull(mp_hal_time_ns() / 1000000000);
}

// localtime(), gmtime() and mktime() replace extmod/modtime.c's. There, mktime() is unsigned,
// wrong before 1901 and counts days month by month, and localtime() cuts years to 16 bits.
#define FIRST_SECOND (-62135596800) // of year 1
#define LAST_SECOND 253402300799    // of year 9999

static mp_obj_t time_localtime(size_t n_args, const mp_obj_t *args) {
    bool now = n_args == 0 || args[0] == mp_const_none;
    mp_int_t seconds = now ? (mp_int_t)(mp_hal_time_ns() / 1000000000) : mp_obj_get_int(args[0]);
    if (seconds < FIRST_SECOND || seconds > LAST_SECOND) {
        mp_raise_msg(&mp_type_OverflowError, MP_ERROR_TEXT("timestamp out of range"));
    }
    timeutils_struct_time_t tm;
    timeutils_seconds_since_epoch_to_struct_time(seconds, &tm);
    mp_obj_t tuple[8] = {
        MP_OBJ_NEW_SMALL_INT(tm.tm_year),
        MP_OBJ_NEW_SMALL_INT(tm.tm_mon),
        MP_OBJ_NEW_SMALL_INT(tm.tm_mday),
        MP_OBJ_NEW_SMALL_INT(tm.tm_hour),
        MP_OBJ_NEW_SMALL_INT(tm.tm_min),
        MP_OBJ_NEW_SMALL_INT(tm.tm_sec),
        MP_OBJ_NEW_SMALL_INT(tm.tm_wday),
        MP_OBJ_NEW_SMALL_INT(tm.tm_yday),
    };
    return mp_obj_new_tuple(8, tuple);
}
static MP_DEFINE_CONST_FUN_OBJ_VAR_BETWEEN(time_localtime_obj, 0, 1, time_localtime);

static mp_int_t floor_divide(mp_int_t number, mp_int_t divisor) {
    return number / divisor - (number % divisor < 0);
}

// Days from 1970-01-01 to the first of a month in the Gregorian calendar. month: from 0. Years
// begin with March here, so that the leap day is their last.
static mp_int_t days_to_month(mp_int_t year, mp_int_t month) {
    year -= month < 2;
    month = (month + 10) % 12;
    mp_int_t leap_days = floor_divide(year, 4) - floor_divide(year, 100) + floor_divide(year, 400);
    return 365 * year + leap_days + (153 * month + 2) / 5 - 719468;
}

// Like CPython's, carries over fields that are out of their range.
static mp_obj_t time_mktime(mp_obj_t fields_in) {
    size_t len;
    mp_obj_t *items;
    mp_obj_get_array(fields_in, &len, &items);
    if (len < 8 || len > 9) {
        mp_raise_TypeError(MP_ERROR_TEXT("mktime needs a tuple of length 8 or 9"));
    }
    // Conversions may run Python (__int__), which may change the list.
    mp_obj_t objects[6];
    memcpy(objects, items, sizeof(objects));
    mp_int_t fields[6]; // year, month, day, hours, minutes, seconds
    for (size_t i = 0; i < 6; i++) {
        fields[i] = mp_obj_get_int(objects[i]);
        if (fields[i] < -(1LL << 40) || fields[i] > 1LL << 40) {
            goto out_of_range;
        }
    }
    mp_int_t month = fields[1] - 1;
    mp_int_t year = fields[0] + floor_divide(month, 12);
    if (year < 1 || year > 9999) {
        goto out_of_range;
    }
    mp_int_t days = days_to_month(year, month - 12 * floor_divide(month, 12)) + fields[2] - 1;
    return mp_obj_new_int_from_ll(days * 86400 + fields[3] * 3600 + fields[4] * 60 + fields[5]);

out_of_range:
    mp_raise_msg(&mp_type_OverflowError, MP_ERROR_TEXT("mktime argument out of range"));
}
static MP_DEFINE_CONST_FUN_OBJ_1(time_mktime_obj, time_mktime);

#define MICROPY_PY_TIME_EXTRA_GLOBALS \
    {MP_ROM_QSTR(MP_QSTR_gmtime), MP_ROM_PTR(&time_localtime_obj)}, \
        {MP_ROM_QSTR(MP_QSTR_localtime), MP_ROM_PTR(&time_localtime_obj)}, \
        {MP_ROM_QSTR(MP_QSTR_mktime), MP_ROM_PTR(&time_mktime_obj)},
