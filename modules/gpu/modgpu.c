// The `gpu` module: argument conversion around native/ucuda.
//
//   devices() -> [(name, memory, capability, multiprocessors, emulated), ...]
//                                 named tuples; [] without a GPU. memory in bytes
//   alloc(), copy()               gpu_memory.c
//   load(), launch()              gpu_kernel.c
//   synchronize(device=-1)        waits until the device, or every one, has done all; raises what
//                                 failed meanwhile
//   ready(device=0) -> bool       whether synchronize() would not wait for launches and copies
//   stats() -> dict               counts since the connection; engine, quota and used bytes
//   reset()                       frees and unloads everything on the devices, the models' memory
//                                 too, and connects anew
//   probe() -> [dict, ...]        NVIDIA's cards on the PCI bus, which cllm does not drive
//   Error(OSError)                code (also errno): a CUresult; args[1]: a sentence
//   Memory, Module, Kernel
//
// Calls wait for the GPU, and for models that compute on it. Meanwhile the network is answered and
// callbacks run, but no other task of asyncio. After a kernel's failure all calls raise it, until
// reset().
#include <string.h>

#include "py/objexcept.h"
#include "py/objlist.h"
#include "py/objtuple.h"

#include "modgpu.h"

static void error_attr(mp_obj_t self, qstr attr, mp_obj_t *dest) {
    mp_obj_exception_attr(self,
        dest[0] == MP_OBJ_NULL && attr == MP_QSTR_code ? MP_QSTR_errno : attr, dest);
}

MP_DEFINE_CONST_OBJ_TYPE(gpu_type_Error, MP_QSTR_Error, MP_TYPE_FLAG_NONE, make_new,
    mp_obj_exception_make_new, print, mp_obj_exception_print, attr, error_attr, parent,
    &mp_type_OSError);

static const struct {
    int code;
    const char *text;
} texts[] = {
    {UCUDA_EINVAL, "invalid value"},
    {UCUDA_EDEINIT, "gpud is ending"},
    {UCUDA_ELOST, "the GPU is lost: gpu.reset() connects anew"},
    {UCUDA_ENODEVICE, "no GPU: start with `cllm run --gpu auto`"},
    {UCUDA_EIMAGE, "not PTX that the GPU takes"},
    {UCUDA_EHANDLE, "invalid handle"},
    {UCUDA_ENOTFOUND, "not found"},
    {UCUDA_EADDRESS, "a kernel left its memory"},
    {UCUDA_ERESOURCES, "too many threads, or too much shared memory, for the kernel"},
    {UCUDA_ETIMEOUT, "a kernel took too long"},
    {UCUDA_ELAUNCH, "a kernel failed"},
    {UCUDA_ENOTSUPPORTED, "not supported"},
    {UCUDA_EUNKNOWN, "unknown failure"},
};

void gpu_check(int code, const struct gpu_call *call) {
    if (code == UCUDA_OK) {
        return;
    }
    const char *text = call->fault;
    for (size_t i = 0; !*text && i < MP_ARRAY_SIZE(texts); i++) {
        text = texts[i].code == code ? texts[i].text : text;
    }
    mp_obj_t args[2] = {MP_OBJ_NEW_SMALL_INT(code), mp_obj_new_str_from_cstr(text)};
    if (code == UCUDA_ENOMEM) {
        nlr_raise(mp_obj_new_exception_arg1(&mp_type_MemoryError,
            *text ? args[1] : mp_obj_new_str_from_cstr("no memory on the GPU, or over the quota")));
    }
    nlr_raise(mp_obj_new_exception_args(&gpu_type_Error, 2, args));
}

uint64_t gpu_size(mp_obj_t number) {
    mp_int_t value = mp_obj_get_int(number);
    if (value < 0) {
        mp_raise_ValueError(MP_ERROR_TEXT("negative number"));
    }
    return value;
}

// How many devices there are; the connection is open after this, or `code` says why not.
static int run_open(struct gpu_call *call) {
    const struct ucuda_info *info = ucuda_info();
    call->bytes = info ? info->n_devices : 0;
    return UCUDA_OK;
}

static unsigned count_devices(void) {
    struct gpu_call call = {.run = run_open};
    gpu_do(&call);
    return call.bytes;
}

unsigned gpu_device(mp_obj_t device) {
    uint64_t number = gpu_size(device);
    if (number >= count_devices()) {
        mp_raise_ValueError(MP_ERROR_TEXT("no such device"));
    }
    return number;
}

static struct ucuda_device described; // by the last run_describe()

static int run_describe(struct gpu_call *call) {
    return ucuda_device_info(call->device, &described);
}

static mp_obj_t devices(void) {
    struct gpu_call call = {.run = run_open};
    int code = gpu_call(&call);
    mp_obj_t list = mp_obj_new_list(0, NULL);
    if (code == UCUDA_ENODEVICE) {
        return list;
    }
    gpu_check(code, &call);
    const struct ucuda_info *info = ucuda_info();
    bool emulated = info && (info->features & UCUDA_HAS_EMULATED);
    unsigned count = call.bytes;
    for (unsigned i = 0; i < count; i++) {
        struct gpu_call describe = {.run = run_describe, .device = i};
        gpu_do(&describe);
        static const qstr fields[] = {MP_QSTR_name, MP_QSTR_memory, MP_QSTR_capability,
            MP_QSTR_multiprocessors, MP_QSTR_emulated};
        described.name[sizeof(described.name) - 1] = 0;
        mp_obj_t capability[2] = {MP_OBJ_NEW_SMALL_INT(described.major),
            MP_OBJ_NEW_SMALL_INT(described.minor)};
        mp_obj_t items[] = {
            mp_obj_new_str_from_cstr(described.name),
            mp_obj_new_int_from_ull(described.memory),
            mp_obj_new_tuple(2, capability),
            MP_OBJ_NEW_SMALL_INT(described.multiprocessors),
            mp_obj_new_bool(emulated),
        };
        mp_obj_list_append(list, mp_obj_new_attrtuple(fields, MP_ARRAY_SIZE(items), items));
    }
    return list;
}
static MP_DEFINE_CONST_FUN_OBJ_0(devices_obj, devices);

static int run_synchronize(struct gpu_call *call) {
    return ucuda_synchronize_device(call->device);
}

static mp_obj_t synchronize(size_t n_args, const mp_obj_t *args) {
    unsigned first = 0, end = 0;
    if (n_args && mp_obj_get_int(args[0]) != -1) {
        first = gpu_device(args[0]);
        end = first + 1;
    } else {
        end = count_devices();
    }
    for (unsigned i = first; i < end; i++) {
        struct gpu_call call = {.run = run_synchronize, .device = i};
        gpu_do(&call);
    }
    return mp_const_none;
}
static MP_DEFINE_CONST_FUN_OBJ_VAR_BETWEEN(synchronize_obj, 0, 1, synchronize);

static int run_query(struct gpu_call *call) {
    return ucuda_query(call->device, 0);
}

static mp_obj_t ready(size_t n_args, const mp_obj_t *args) {
    struct gpu_call call = {.run = run_query};
    call.device = n_args ? gpu_device(args[0]) : 0;
    int code = gpu_call(&call);
    if (code == UCUDA_ENOTREADY) {
        return mp_const_false;
    }
    gpu_check(code, &call);
    return mp_const_true;
}
static MP_DEFINE_CONST_FUN_OBJ_VAR_BETWEEN(ready_obj, 0, 1, ready);

static struct ucuda_stats counted; // by the last run_stats()

static int run_stats(struct gpu_call *call) {
    (void)call;
    ucuda_stats(&counted);
    return UCUDA_OK;
}

static mp_obj_t stats(void) {
    struct gpu_call call = {.run = run_stats};
    gpu_do(&call);
    struct ucuda_stats s = counted;
    const struct ucuda_info *info = ucuda_info();
    const struct {
        qstr name;
        uint64_t value;
    } items[] = {
        {MP_QSTR_launches, s.launches},
        {MP_QSTR_graph_launches, s.graph_launches},
        {MP_QSTR_copies, s.copies},
        {MP_QSTR_copied, s.copied_bytes},
        {MP_QSTR_fences, s.fences},
        {MP_QSTR_doorbells, s.doorbells},
        {MP_QSTR_records, s.records},
        {MP_QSTR_waits, s.waits},
        {MP_QSTR_used, s.used_bytes},
        {MP_QSTR_quota, info ? info->quota : 0},
    };
    mp_obj_t dict = mp_obj_new_dict(MP_ARRAY_SIZE(items) + 1);
    for (size_t i = 0; i < MP_ARRAY_SIZE(items); i++) {
        mp_obj_dict_store(dict, MP_OBJ_NEW_QSTR(items[i].name),
            mp_obj_new_int_from_ull(items[i].value));
    }
    mp_obj_dict_store(dict, MP_OBJ_NEW_QSTR(MP_QSTR_engine),
        mp_obj_new_str_from_cstr(info ? info->name : ""));
    return dict;
}
static MP_DEFINE_CONST_FUN_OBJ_0(stats_obj, stats);

static int run_reset(struct gpu_call *call) {
    (void)call;
    return ucuda_reset();
}

static mp_obj_t reset(void) {
    ucuda_interrupt(); // an earlier call may still wait, if an exception left it alone
    struct gpu_call call = {.run = run_reset};
    gpu_do(&call);
    return mp_const_none;
}
static MP_DEFINE_CONST_FUN_OBJ_0(reset_obj, reset);

// Runs at the first import after a soft reset.
static mp_obj_t gpu_init(void) {
    gpu_call_init();
    return mp_const_none;
}
static MP_DEFINE_CONST_FUN_OBJ_0(gpu_init_obj, gpu_init);

static const mp_rom_map_elem_t gpu_globals_table[] = {
    {MP_ROM_QSTR(MP_QSTR___name__), MP_ROM_QSTR(MP_QSTR_gpu)},
    {MP_ROM_QSTR(MP_QSTR___init__), MP_ROM_PTR(&gpu_init_obj)},
    {MP_ROM_QSTR(MP_QSTR_devices), MP_ROM_PTR(&devices_obj)},
    {MP_ROM_QSTR(MP_QSTR_alloc), MP_ROM_PTR(&gpu_alloc_obj)},
    {MP_ROM_QSTR(MP_QSTR_copy), MP_ROM_PTR(&gpu_copy_obj)},
    {MP_ROM_QSTR(MP_QSTR_load), MP_ROM_PTR(&gpu_load_obj)},
    {MP_ROM_QSTR(MP_QSTR_launch), MP_ROM_PTR(&gpu_launch_obj)},
    {MP_ROM_QSTR(MP_QSTR_synchronize), MP_ROM_PTR(&synchronize_obj)},
    {MP_ROM_QSTR(MP_QSTR_ready), MP_ROM_PTR(&ready_obj)},
    {MP_ROM_QSTR(MP_QSTR_stats), MP_ROM_PTR(&stats_obj)},
    {MP_ROM_QSTR(MP_QSTR_reset), MP_ROM_PTR(&reset_obj)},
    {MP_ROM_QSTR(MP_QSTR_probe), MP_ROM_PTR(&gpu_probe_obj)},
    {MP_ROM_QSTR(MP_QSTR_Error), MP_ROM_PTR(&gpu_type_Error)},
    {MP_ROM_QSTR(MP_QSTR_Memory), MP_ROM_PTR(&gpu_type_memory)},
    {MP_ROM_QSTR(MP_QSTR_Module), MP_ROM_PTR(&gpu_type_module)},
    {MP_ROM_QSTR(MP_QSTR_Kernel), MP_ROM_PTR(&gpu_type_kernel)},
};
static MP_DEFINE_CONST_DICT(gpu_globals, gpu_globals_table);

const mp_obj_module_t gpu_module = {
    .base = {&mp_type_module},
    .globals = (mp_obj_dict_t *)&gpu_globals,
};

MP_REGISTER_MODULE(MP_QSTR_gpu, gpu_module);
