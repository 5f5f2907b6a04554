// Memory of a GPU, and copies.
//
//   alloc(size, device=0) -> Memory   `size` bytes; MemoryError when quota or device are full
//   Memory
//     address size device             as ints
//     close(), free()                 gives it back; so does the end of a `with` block
//   copy(to, source, size=-1, *, to_offset=0, from_offset=0)
//                                     between a Memory and an object with the buffer protocol, or
//                                     within a device. size -1: all that `source` has from its
//                                     offset on. Sizes and offsets in bytes
//
// After gpu.reset() and a soft reset a Memory is closed.
#include <stdio.h>

#include "py/gc.h"

#include "modgpu.h"

static int run_alloc(struct gpu_call *call) {
    return ucuda_alloc(call->device, call->bytes, &call->address);
}

static int run_free(struct gpu_call *call) {
    return ucuda_free(call->address);
}

static mp_obj_t alloc(size_t n_args, const mp_obj_t *args) {
    struct gpu_call call = {.run = run_alloc, .holds = true, .bytes = gpu_size(args[0])};
    if (!call.bytes) {
        mp_raise_ValueError(MP_ERROR_TEXT("no bytes"));
    }
    call.device = n_args > 1 ? gpu_device(args[1]) : 0;
    gpu_memory_obj_t *self = mp_obj_malloc_with_finaliser(gpu_memory_obj_t, &gpu_type_memory);
    self->address = 0;
    int code = gpu_call(&call);
    if (code == UCUDA_ENOMEM) { // what nobody refers to any more may be enough
        gc_collect();
        code = gpu_call(&call);
    }
    if (code == UCUDA_ENOMEM && !call.fault[0]) {
        struct ucuda_stats stats;
        ucuda_stats(&stats);
        const struct ucuda_info *info = ucuda_info();
        snprintf(call.fault, sizeof(call.fault),
            "no %llu bytes on the GPU: %llu of the quota of %llu are used",
            (unsigned long long)call.bytes, (unsigned long long)stats.used_bytes,
            info ? (unsigned long long)info->quota : 0);
    }
    gpu_check(code, &call);
    self->epoch = ucuda_epoch();
    self->device = call.device;
    self->size = call.bytes;
    self->address = call.address;
    return MP_OBJ_FROM_PTR(self);
}
MP_DEFINE_CONST_FUN_OBJ_VAR_BETWEEN(gpu_alloc_obj, 1, 2, alloc);

static bool is_open(const gpu_memory_obj_t *self) {
    return self->address && self->epoch == ucuda_epoch();
}

gpu_memory_obj_t *gpu_memory(mp_obj_t memory) {
    gpu_memory_obj_t *self = MP_OBJ_TO_PTR(memory);
    if (!is_open(self)) {
        mp_raise_ValueError(MP_ERROR_TEXT("the memory is closed, or gone with a reset"));
    }
    return self;
}

static mp_obj_t memory_close(mp_obj_t self_in) {
    gpu_memory_obj_t *self = MP_OBJ_TO_PTR(self_in);
    if (is_open(self)) {
        struct gpu_call call = {.run = run_free, .holds = true, .address = self->address};
        self->address = 0;
        gpu_do(&call);
    }
    self->address = 0;
    return mp_const_none;
}
static MP_DEFINE_CONST_FUN_OBJ_1(memory_close_obj, memory_close);

static mp_obj_t memory_del(mp_obj_t self_in) {
    gpu_memory_obj_t *self = MP_OBJ_TO_PTR(self_in);
    if (self->address) {
        gpu_free_later(self->address, self->epoch);
        self->address = 0;
    }
    return mp_const_none;
}
static MP_DEFINE_CONST_FUN_OBJ_1(memory_del_obj, memory_del);

static mp_obj_t memory_exit(size_t n_args, const mp_obj_t *args) {
    (void)n_args;
    return memory_close(args[0]);
}
static MP_DEFINE_CONST_FUN_OBJ_VAR_BETWEEN(memory_exit_obj, 4, 4, memory_exit);

static const mp_rom_map_elem_t memory_locals_table[] = {
    {MP_ROM_QSTR(MP_QSTR_close), MP_ROM_PTR(&memory_close_obj)},
    {MP_ROM_QSTR(MP_QSTR_free), MP_ROM_PTR(&memory_close_obj)},
    {MP_ROM_QSTR(MP_QSTR___del__), MP_ROM_PTR(&memory_del_obj)},
    {MP_ROM_QSTR(MP_QSTR___enter__), MP_ROM_PTR(&mp_identity_obj)},
    {MP_ROM_QSTR(MP_QSTR___exit__), MP_ROM_PTR(&memory_exit_obj)},
};
static MP_DEFINE_CONST_DICT(memory_locals, memory_locals_table);

static void memory_attr(mp_obj_t self_in, qstr attr, mp_obj_t *dest) {
    gpu_memory_obj_t *self = MP_OBJ_TO_PTR(self_in);
    if (dest[0] != MP_OBJ_NULL) {
        return; // no attribute can be stored
    }
    if (attr == MP_QSTR_address) {
        dest[0] = mp_obj_new_int_from_ull(gpu_memory(self_in)->address);
    } else if (attr == MP_QSTR_size) {
        dest[0] = mp_obj_new_int_from_ull(self->size);
    } else if (attr == MP_QSTR_device) {
        dest[0] = MP_OBJ_NEW_SMALL_INT(self->device);
    } else {
        dest[1] = MP_OBJ_SENTINEL; // a method
    }
}

static void memory_print(const mp_print_t *print, mp_obj_t self_in, mp_print_kind_t kind) {
    (void)kind;
    gpu_memory_obj_t *self = MP_OBJ_TO_PTR(self_in);
    if (is_open(self)) {
        mp_printf(print, "<Memory " UINT_FMT " bytes at 0x%lx of device %u>", (mp_uint_t)self->size,
            (mp_uint_t)self->address, self->device);
    } else {
        mp_print_str(print, "<Memory closed>");
    }
}

MP_DEFINE_CONST_OBJ_TYPE(gpu_type_memory, MP_QSTR_Memory, MP_TYPE_FLAG_NONE, attr, memory_attr,
    print, memory_print, locals_dict, &memory_locals);

// One end of a copy.
struct end {
    gpu_memory_obj_t *memory; // NULL: `data` holds the bytes
    uint8_t *data;
    uint64_t size;
};

// `flags` are those of the buffer protocol. The memoryview keeps a bytearray's memory where it is
// when a callback resizes it meanwhile.
static struct end end_of(mp_obj_t obj, mp_uint_t flags) {
    if (mp_obj_is_type(obj, &gpu_type_memory)) {
        gpu_memory_obj_t *memory = gpu_memory(obj);
        return (struct end){.memory = memory, .size = memory->size};
    }
    mp_buffer_info_t info;
    mp_get_buffer_raise(obj, &info, flags);
    mp_get_buffer_raise(mp_call_function_1(MP_OBJ_FROM_PTR(&mp_type_memoryview), obj), &info,
        flags);
    return (struct end){.data = info.buf, .size = info.len};
}

static int run_to_device(struct gpu_call *call) {
    struct ucuda_rect rect = {.bytes = call->bytes, .rows = 1};
    return ucuda_copy_to_device(call->device, 0, call->address, call->host, &rect);
}

static int run_from_device(struct gpu_call *call) {
    struct ucuda_rect rect = {.bytes = call->bytes, .rows = 1};
    return ucuda_copy_from_device(call->device, 0, call->host, call->address, &rect);
}

static int run_on_device(struct gpu_call *call) {
    struct ucuda_rect rect = {.bytes = call->bytes, .rows = 1};
    return ucuda_copy_on_device(call->device, 0, call->address, call->other, &rect);
}

static mp_obj_t copy(size_t n_args, const mp_obj_t *args, mp_map_t *kw) {
    enum { ARG_to, ARG_source, ARG_size, ARG_to_offset, ARG_from_offset };
    static const mp_arg_t allowed[] = {
        {MP_QSTR_to, MP_ARG_REQUIRED | MP_ARG_OBJ, {.u_obj = MP_OBJ_NULL}},
        {MP_QSTR_source, MP_ARG_REQUIRED | MP_ARG_OBJ, {.u_obj = MP_OBJ_NULL}},
        {MP_QSTR_size, MP_ARG_INT, {.u_int = -1}},
        {MP_QSTR_to_offset, MP_ARG_KW_ONLY | MP_ARG_INT, {.u_int = 0}},
        {MP_QSTR_from_offset, MP_ARG_KW_ONLY | MP_ARG_INT, {.u_int = 0}},
    };
    mp_arg_val_t arg[MP_ARRAY_SIZE(allowed)];
    mp_arg_parse_all(n_args, args, kw, MP_ARRAY_SIZE(allowed), allowed, arg);

    struct end to = end_of(arg[ARG_to].u_obj, MP_BUFFER_WRITE);
    struct end from = end_of(arg[ARG_source].u_obj, MP_BUFFER_READ);
    mp_int_t to_at = arg[ARG_to_offset].u_int, from_at = arg[ARG_from_offset].u_int;
    if (to_at < 0 || from_at < 0 || (uint64_t)to_at > to.size || (uint64_t)from_at > from.size) {
        mp_raise_ValueError(MP_ERROR_TEXT("offset outside the memory"));
    }
    mp_int_t size = arg[ARG_size].u_int;
    uint64_t bytes = size < 0 ? from.size - from_at : (uint64_t)size;
    if (bytes > from.size - from_at || bytes > to.size - to_at) {
        mp_raise_msg_varg(&mp_type_ValueError,
            MP_ERROR_TEXT(
                UINT_FMT " bytes to copy, " UINT_FMT " in the source and room for " UINT_FMT),
            (mp_uint_t)bytes, (mp_uint_t)(from.size - from_at), (mp_uint_t)(to.size - to_at));
    }
    if (!to.memory && !from.memory) {
        mp_raise_TypeError(MP_ERROR_TEXT("neither is a gpu.Memory"));
    }
    if (to.memory && from.memory && to.memory->device != from.memory->device) {
        mp_raise_ValueError(MP_ERROR_TEXT("memory of two devices: copy through a bytearray"));
    }
    if (!bytes) {
        return mp_const_none;
    }
    struct gpu_call call = {.holds = true, .bytes = bytes};
    if (to.memory) {
        call.device = to.memory->device;
        call.address = to.memory->address + to_at;
        if (from.memory) {
            call.run = run_on_device;
            call.other = from.memory->address + from_at;
        } else {
            call.run = run_to_device;
            call.host = from.data + from_at;
        }
    } else {
        call.run = run_from_device;
        call.device = from.memory->device;
        call.address = from.memory->address + from_at;
        call.host = to.data + to_at;
    }
    gpu_do(&call);
    return mp_const_none;
}
MP_DEFINE_CONST_FUN_OBJ_KW(gpu_copy_obj, 2, copy);
