// The `_engine` module: argument conversion around native/engine.
//
//   Engine(...)                               engine_type.c
//   Sampler                                   sampler_type.c
//   version() -> str
//   cpu(name=None) -> str                     the build of ggml's CPU code in use, "" before the
//                                             first Engine; a name chooses one first ("": the best
//                                             for this processor). Error: there is none of that
//                                             name, or it cannot be used here or now
//   gpu() -> dict or None                     GPUs: name of the first, kind, fault ("" while they
//                                             work), devices (how many), memory, used (bytes),
//                                             launches, graph_launches, round_trips, copied, losses
//   log(callback)                             callback(level, text), or None for silence
//   crash(kind, engine=None)                  dies in C++, for tests: "assert" (GGML_ASSERT),
//                                             "throw" (an exception that nobody catches); with an
//                                             Engine, on the thread that computes for it
//   Error(RuntimeError), NoSlot(Error), Aborted(Error), Limit(Error), Assertion(Error),
//   BadNumbers(Error), Lost(Error)
//
// Job (job_type.c), Chat and Reply (chat_type.c) come from methods only. engine.h describes what
// each call does. Wrong arguments raise ValueError, too little memory MemoryError, the rest Error.
#include <stdio.h>
#include <string.h>

#include "py/gc.h"
#include "py/objexcept.h"
#include "py/objlist.h"

#include "modengine.h"

#define ENGINE_EXCEPTION(name, parent_type) \
    MP_DEFINE_CONST_OBJ_TYPE(engine_type_##name, MP_QSTR_##name, MP_TYPE_FLAG_NONE, make_new, \
        mp_obj_exception_make_new, print, mp_obj_exception_print, attr, mp_obj_exception_attr, \
        parent, &parent_type)

ENGINE_EXCEPTION(Error, mp_type_RuntimeError);
static ENGINE_EXCEPTION(NoSlot, engine_type_Error);
static ENGINE_EXCEPTION(Aborted, engine_type_Error);
static ENGINE_EXCEPTION(Limit, engine_type_Error);
static ENGINE_EXCEPTION(Assertion, engine_type_Error);
static ENGINE_EXCEPTION(BadNumbers, engine_type_Error);
static ENGINE_EXCEPTION(Lost, engine_type_Error);

void modengine_check(int code) {
    if (code == ENGINE_OK) {
        return;
    }
    const mp_obj_type_t *type = &engine_type_Error;
    if (code == ENGINE_NO_SLOT) {
        type = &engine_type_NoSlot;
    } else if (code == ENGINE_ABORTED) {
        type = &engine_type_Aborted;
    } else if (code == ENGINE_LIMIT) {
        type = &engine_type_Limit;
    } else if (code == ENGINE_EASSERT || code == ENGINE_EBROKEN) {
        type = &engine_type_Assertion;
    } else if (code == ENGINE_ENUMBERS) {
        type = &engine_type_BadNumbers;
    } else if (code == ENGINE_ELOST) {
        type = &engine_type_Lost;
    } else if (code == ENGINE_EINVAL) {
        type = &mp_type_ValueError;
    } else if (code == ENGINE_ENOMEM) {
        type = &mp_type_MemoryError;
    }
    const char *reason = engine_error();
    mp_obj_t text = mp_obj_new_str(reason, strlen(reason));
    nlr_raise(mp_obj_new_exception_arg1(type, text));
}

mp_obj_t modengine_bool(int answer) {
    if (answer < 0) {
        modengine_check(answer);
    }
    return mp_obj_new_bool(answer);
}

int32_t modengine_int32(mp_obj_t obj) {
    mp_int_t value = mp_obj_get_int(obj);
    if (value != (int32_t)value) {
        mp_raise_ValueError(MP_ERROR_TEXT("integer outside 32 bits"));
    }
    return value;
}

size_t modengine_size(mp_obj_t obj) {
    mp_int_t value = mp_obj_get_int(obj);
    if (value < 0) {
        mp_raise_ValueError(MP_ERROR_TEXT("negative number"));
    }
    return value;
}

int32_t *modengine_int32s(mp_obj_t list, size_t *n) {
    mp_obj_t *items;
    mp_obj_get_array(list, n, &items);
    int32_t *values = m_new(int32_t, *n);
    for (size_t i = 0; i < *n; i++) {
        values[i] = modengine_int32(items[i]);
    }
    return values;
}

uint32_t modengine_count(mp_int_t value, qstr name) {
    if (value < 0 || value > INT32_MAX) {
        mp_raise_msg_varg(&mp_type_ValueError, MP_ERROR_TEXT("%q is out of range"), name);
    }
    return value;
}

mp_obj_t modengine_token_list(const int32_t *tokens, size_t n) {
    mp_obj_list_t *list = MP_OBJ_TO_PTR(mp_obj_new_list(n, NULL));
    for (size_t i = 0; i < n; i++) {
        list->items[i] = MP_OBJ_NEW_SMALL_INT(tokens[i]);
    }
    return MP_OBJ_FROM_PTR(list);
}

mp_obj_t modengine_pairs(const int32_t *tokens, const float *values, size_t n) {
    mp_obj_list_t *list = MP_OBJ_TO_PTR(mp_obj_new_list(n, NULL));
    for (size_t i = 0; i < n; i++) {
        list->items[i] = mp_const_none; // what the collector sees while the rest is made
    }
    for (size_t i = 0; i < n; i++) {
        mp_obj_t pair[2] = {MP_OBJ_NEW_SMALL_INT(tokens[i]),
            mp_obj_new_float((mp_float_t)values[i])};
        list->items[i] = mp_obj_new_tuple(2, pair);
    }
    return MP_OBJ_FROM_PTR(list);
}

mp_obj_t modengine_logprobs(float logprob, const int32_t *tokens, const float *logprobs,
    size_t count) {
    mp_obj_t result[2] = {MP_OBJ_NULL, modengine_pairs(tokens, logprobs, count)};
    result[0] = mp_obj_new_float((mp_float_t)logprob);
    return mp_obj_new_tuple(2, result);
}

mp_uint_t modengine_ioctl(mp_uint_t request, uintptr_t arg, int *error, int ended) {
    if (request != MP_STREAM_POLL) {
        *error = MP_EINVAL;
        return MP_STREAM_ERROR;
    }
    if (ended < 0) {
        return MP_STREAM_POLL_NVAL;
    }
    return ended ? arg & MP_STREAM_POLL_RD : 0;
}

static mp_obj_t engine_version_py(void) {
    return mp_obj_new_str_from_cstr(engine_version());
}
static MP_DEFINE_CONST_FUN_OBJ_0(engine_version_obj, engine_version_py);

static void on_log(void *unused, int level, const char *text) {
    (void)unused;
    if (gc_is_locked()) {
        return; // a finaliser is closing an engine
    }
    nlr_buf_t nlr;
    if (nlr_push(&nlr) == 0) {
        mp_call_function_2(MP_STATE_VM(engine_log_callback), MP_OBJ_NEW_SMALL_INT(level),
            mp_obj_new_str_from_cstr(text));
        nlr_pop();
    } else {
        // Nobody could catch it, so it is printed, like that of a scheduled callback.
        mp_obj_print_exception(&mp_plat_print, MP_OBJ_FROM_PTR(nlr.ret_val));
    }
}

static mp_obj_t engine_log_py(mp_obj_t callback) {
    MP_STATE_VM(engine_log_callback) = callback;
    engine_set_log(callback == mp_const_none ? NULL : on_log, NULL);
    return mp_const_none;
}
static MP_DEFINE_CONST_FUN_OBJ_1(engine_log_obj, engine_log_py);

static mp_obj_t engine_cpu_py(size_t n_args, const mp_obj_t *args) {
    if (n_args > 0) {
        modengine_check(engine_use_cpu(mp_obj_str_get_str(args[0])));
    }
    return mp_obj_new_str_from_cstr(engine_cpu());
}
static MP_DEFINE_CONST_FUN_OBJ_VAR_BETWEEN(engine_cpu_obj, 0, 1, engine_cpu_py);

static void store(mp_obj_t dict, qstr name, mp_obj_t value) {
    mp_obj_dict_store(dict, MP_OBJ_NEW_QSTR(name), value);
}

static mp_obj_t engine_gpu_py(void) {
    struct engine_gpu gpu;
    if (!engine_gpu(&gpu)) {
        return mp_const_none;
    }
    const struct {
        qstr name;
        uint64_t value;
    } numbers[] = {
        {MP_QSTR_devices, gpu.devices},
        {MP_QSTR_memory, gpu.memory},
        {MP_QSTR_used, gpu.used},
        {MP_QSTR_launches, gpu.launches},
        {MP_QSTR_graph_launches, gpu.graph_launches},
        {MP_QSTR_round_trips, gpu.round_trips},
        {MP_QSTR_copied, gpu.copied},
        {MP_QSTR_losses, gpu.losses},
    };
    mp_obj_t dict = mp_obj_new_dict(3 + MP_ARRAY_SIZE(numbers));
    store(dict, MP_QSTR_name, mp_obj_new_str_from_cstr(gpu.name));
    store(dict, MP_QSTR_kind, mp_obj_new_str_from_cstr(gpu.kind));
    store(dict, MP_QSTR_fault, mp_obj_new_str_from_cstr(gpu.fault));
    for (size_t i = 0; i < MP_ARRAY_SIZE(numbers); i++) {
        store(dict, numbers[i].name, mp_obj_new_int_from_ull(numbers[i].value));
    }
    return dict;
}
static MP_DEFINE_CONST_FUN_OBJ_0(engine_gpu_obj, engine_gpu_py);

// The crash report gives the last line of standard error as the reason of an abort().
static void on_abort(const char *message) {
    fprintf(stderr, "%s\n", message);
}

static mp_obj_t engine_crash_py(size_t n_args, const mp_obj_t *args) {
    struct engine *engine = NULL;
    if (n_args > 1) {
        if (!mp_obj_is_type(args[1], &engine_type_engine)) {
            mp_raise_TypeError(MP_ERROR_TEXT("not an Engine"));
        }
        engine = modengine_engine(args[1]);
        modengine_begin(MP_OBJ_TO_PTR(args[1]));
    }
    engine_crash(engine, mp_obj_str_get_str(args[0]));
    mp_raise_ValueError(MP_ERROR_TEXT("no such way to die"));
}
static MP_DEFINE_CONST_FUN_OBJ_VAR_BETWEEN(engine_crash_obj, 1, 2, engine_crash_py);

// Runs at the first import after a reset, when the heap of an earlier callback is gone.
static mp_obj_t engine_init_py(void) {
    engine_set_abort_handler(on_abort);
    return engine_log_py(mp_const_none);
}
static MP_DEFINE_CONST_FUN_OBJ_0(engine_init_obj, engine_init_py);

static const mp_rom_map_elem_t engine_globals_table[] = {
    {MP_ROM_QSTR(MP_QSTR___name__), MP_ROM_QSTR(MP_QSTR__engine)},
    {MP_ROM_QSTR(MP_QSTR___init__), MP_ROM_PTR(&engine_init_obj)},
    {MP_ROM_QSTR(MP_QSTR_Engine), MP_ROM_PTR(&engine_type_engine)},
    {MP_ROM_QSTR(MP_QSTR_Sampler), MP_ROM_PTR(&engine_type_sampler)},
    {MP_ROM_QSTR(MP_QSTR_Error), MP_ROM_PTR(&engine_type_Error)},
    {MP_ROM_QSTR(MP_QSTR_NoSlot), MP_ROM_PTR(&engine_type_NoSlot)},
    {MP_ROM_QSTR(MP_QSTR_Aborted), MP_ROM_PTR(&engine_type_Aborted)},
    {MP_ROM_QSTR(MP_QSTR_Limit), MP_ROM_PTR(&engine_type_Limit)},
    {MP_ROM_QSTR(MP_QSTR_Assertion), MP_ROM_PTR(&engine_type_Assertion)},
    {MP_ROM_QSTR(MP_QSTR_BadNumbers), MP_ROM_PTR(&engine_type_BadNumbers)},
    {MP_ROM_QSTR(MP_QSTR_Lost), MP_ROM_PTR(&engine_type_Lost)},
    {MP_ROM_QSTR(MP_QSTR_version), MP_ROM_PTR(&engine_version_obj)},
    {MP_ROM_QSTR(MP_QSTR_cpu), MP_ROM_PTR(&engine_cpu_obj)},
    {MP_ROM_QSTR(MP_QSTR_gpu), MP_ROM_PTR(&engine_gpu_obj)},
    {MP_ROM_QSTR(MP_QSTR_log), MP_ROM_PTR(&engine_log_obj)},
    {MP_ROM_QSTR(MP_QSTR_crash), MP_ROM_PTR(&engine_crash_obj)},
};
static MP_DEFINE_CONST_DICT(engine_globals, engine_globals_table);

const mp_obj_module_t engine_module = {
    .base = {&mp_type_module},
    .globals = (mp_obj_dict_t *)&engine_globals,
};

MP_REGISTER_MODULE(MP_QSTR__engine, engine_module);
MP_REGISTER_ROOT_POINTER(mp_obj_t engine_log_callback);
