// PTX and its kernels.
//
//   load(text, device=0) -> Module   PTX as str or bytes; gpu.Error says what is wrong in it
//   Module
//     kernel(name) -> Kernel         `name` as PTX has it: of C++ source it is mangled
//   Kernel
//     name parameters shared max_threads registers
//                                    parameters: sizes in bytes; shared: static bytes of a block
//   launch(kernel, grid, block, *arguments, shared=0)
//                                    grid, block: an int or up to three. Returns before the kernel
//                                    ends; its failure is raised by a later call. shared: dynamic
//                                    bytes of a block
//
// An argument is a Memory (its address), an int, a float for a parameter of 4 or 8 bytes, or an
// object with the buffer protocol as large as the parameter. PTX does not say which of its
// parameters are floats: write 2.0, not 2. After gpu.reset() and a soft reset neither class has
// anything to refer to.
#include <string.h>

#include "py/objint.h"

#include "modgpu.h"

typedef struct {
    mp_obj_base_t base;
    uint32_t epoch, handle;
    unsigned device;
} module_obj_t;

typedef struct {
    mp_obj_base_t base;
    uint32_t epoch, handle;
    unsigned device;
    mp_obj_t name;
    uint32_t n_params, param_bytes, shared, max_threads, registers;
    struct {
        uint16_t offset, size;
    } param[];
} kernel_obj_t;

static void check_epoch(uint32_t epoch) {
    if (epoch != ucuda_epoch()) {
        mp_raise_ValueError(MP_ERROR_TEXT("a reset has unloaded the module"));
    }
}

static int run_load(struct gpu_call *call) {
    return ucuda_module_text(call->device, call->host, call->bytes, &call->handle);
}

static mp_obj_t load(size_t n_args, const mp_obj_t *args) {
    mp_buffer_info_t text;
    mp_get_buffer_raise(args[0], &text, MP_BUFFER_READ);
    // As in copy(): the view keeps the memory where it is.
    mp_get_buffer_raise(
        mp_call_function_1(MP_OBJ_FROM_PTR(&mp_type_memoryview),
            mp_obj_is_str(args[0]) ? mp_obj_new_bytes(text.buf, text.len) : args[0]),
        &text, MP_BUFFER_READ);
    struct gpu_call call = {.run = run_load, .holds = true, .host = text.buf, .bytes = text.len};
    call.device = n_args > 1 ? gpu_device(args[1]) : 0;
    gpu_do(&call);
    module_obj_t *self = mp_obj_malloc(module_obj_t, &gpu_type_module);
    self->epoch = ucuda_epoch();
    self->handle = call.handle;
    self->device = call.device;
    return MP_OBJ_FROM_PTR(self);
}
MP_DEFINE_CONST_FUN_OBJ_VAR_BETWEEN(gpu_load_obj, 1, 2, load);

static struct ucuda_kernel described; // by the last run_kernel()

static int run_kernel(struct gpu_call *call) {
    return ucuda_kernel(call->handle, call->host, &call->handle, &described);
}

static mp_obj_t module_kernel(mp_obj_t self_in, mp_obj_t name) {
    module_obj_t *self = MP_OBJ_TO_PTR(self_in);
    check_epoch(self->epoch);
    struct gpu_call call = {.run = run_kernel, .holds = true, .handle = self->handle};
    call.host = (void *)mp_obj_str_get_str(name);
    int code = gpu_call(&call);
    if (code == UCUDA_ENOTFOUND) {
        mp_raise_msg_varg(&mp_type_KeyError, MP_ERROR_TEXT("no kernel %s in the module"),
            mp_obj_str_get_str(name));
    }
    gpu_check(code, &call);
    size_t n = MIN(described.n_params, UCUDA_PARAMS);
    kernel_obj_t *kernel = mp_obj_malloc_var(kernel_obj_t, param, uint16_t[2], n, &gpu_type_kernel);
    kernel->epoch = self->epoch;
    kernel->handle = call.handle;
    kernel->device = self->device;
    kernel->name = name;
    kernel->n_params = n;
    kernel->param_bytes = MIN(described.param_bytes, UCUDA_PARAM_MAX);
    kernel->shared = described.static_shared;
    kernel->max_threads = described.max_threads;
    kernel->registers = described.registers;
    for (size_t i = 0; i < n; i++) {
        kernel->param[i].offset = described.param[i].offset;
        kernel->param[i].size = described.param[i].size;
    }
    return MP_OBJ_FROM_PTR(kernel);
}
static MP_DEFINE_CONST_FUN_OBJ_2(module_kernel_obj, module_kernel);

static const mp_rom_map_elem_t module_locals_table[] = {
    {MP_ROM_QSTR(MP_QSTR_kernel), MP_ROM_PTR(&module_kernel_obj)},
};
static MP_DEFINE_CONST_DICT(module_locals, module_locals_table);

MP_DEFINE_CONST_OBJ_TYPE(gpu_type_module, MP_QSTR_Module, MP_TYPE_FLAG_NONE, locals_dict,
    &module_locals);

static void kernel_attr(mp_obj_t self_in, qstr attr, mp_obj_t *dest) {
    kernel_obj_t *self = MP_OBJ_TO_PTR(self_in);
    if (dest[0] != MP_OBJ_NULL) {
        return; // no attribute can be stored
    }
    if (attr == MP_QSTR_name) {
        dest[0] = self->name;
    } else if (attr == MP_QSTR_shared) {
        dest[0] = mp_obj_new_int_from_uint(self->shared);
    } else if (attr == MP_QSTR_max_threads) {
        dest[0] = mp_obj_new_int_from_uint(self->max_threads);
    } else if (attr == MP_QSTR_registers) {
        dest[0] = mp_obj_new_int_from_uint(self->registers);
    } else if (attr == MP_QSTR_parameters) {
        mp_obj_tuple_t *sizes = MP_OBJ_TO_PTR(mp_obj_new_tuple(self->n_params, NULL));
        for (size_t i = 0; i < self->n_params; i++) {
            sizes->items[i] = MP_OBJ_NEW_SMALL_INT(self->param[i].size);
        }
        dest[0] = MP_OBJ_FROM_PTR(sizes);
    }
}

static void kernel_print(const mp_print_t *print, mp_obj_t self_in, mp_print_kind_t kind) {
    (void)kind;
    kernel_obj_t *self = MP_OBJ_TO_PTR(self_in);
    mp_printf(print, "<Kernel %s of %u parameters>", mp_obj_str_get_str(self->name),
        (unsigned)self->n_params);
}

MP_DEFINE_CONST_OBJ_TYPE(gpu_type_kernel, MP_QSTR_Kernel, MP_TYPE_FLAG_NONE, attr, kernel_attr,
    print, kernel_print);

// --- launch()

static uint32_t dimension(mp_obj_t number) {
    uint64_t value = gpu_size(number);
    if (!value || value > INT32_MAX) {
        mp_raise_ValueError(MP_ERROR_TEXT("a grid or block of no threads, or too many"));
    }
    return value;
}

static void dimensions(mp_obj_t obj, uint32_t out[3]) {
    out[0] = out[1] = out[2] = 1;
    if (mp_obj_is_int(obj)) {
        out[0] = dimension(obj);
        return;
    }
    size_t n;
    mp_obj_t *items;
    mp_obj_get_array(obj, &n, &items);
    if (!n || n > 3) {
        mp_raise_ValueError(MP_ERROR_TEXT("a grid or block has one to three dimensions"));
    }
    for (size_t i = 0; i < n; i++) {
        out[i] = dimension(items[i]);
    }
}

// Writes an int; PTX does not say whether a parameter has a sign, so either range fits.
static bool integer(mp_obj_t arg, uint8_t *to, size_t size) {
    uint64_t value;
    if (mp_obj_is_exact_type(arg, &mp_type_int) && !mp_obj_is_small_int(arg)) {
        if (size != 8 || !mp_obj_int_to_bytes_impl(arg, false, 8, (byte *)&value)) {
            return false;
        }
    } else {
        int64_t small = mp_obj_get_int(arg);
        if (size > 8
            || (size < 8 && (small < -(1ll << (8 * size - 1)) || small >= 1ll << (8 * size)))) {
            return false;
        }
        value = (uint64_t)small;
    }
    memcpy(to, &value, size);
    return true;
}

// Writes an argument as a parameter of `size` bytes.
static void parameter(mp_obj_t arg, size_t number, uint8_t *to, size_t size) {
    if (mp_obj_is_type(arg, &gpu_type_memory)) {
        uint64_t address = gpu_memory(arg)->address;
        if (size == sizeof(address)) {
            memcpy(to, &address, size);
            return;
        }
    } else if (mp_obj_is_float(arg)) {
        double value = mp_obj_get_float_to_d(arg);
        float single = (float)value;
        if (size == sizeof(single) || size == sizeof(value)) {
            memcpy(to, size == sizeof(single) ? (void *)&single : (void *)&value, size);
            return;
        }
    } else if (mp_obj_is_int(arg) || mp_obj_is_bool(arg)) {
        if (integer(arg, to, size)) {
            return;
        }
    } else {
        mp_buffer_info_t info;
        mp_get_buffer_raise(arg, &info, MP_BUFFER_READ);
        if (info.len == size) {
            memcpy(to, info.buf, size);
            return;
        }
    }
    mp_raise_msg_varg(&mp_type_TypeError,
        MP_ERROR_TEXT("argument %u does not fit a parameter of %u bytes"), (unsigned)number,
        (unsigned)size);
}

struct launch {
    uint32_t grid[3], block[3], shared, param_bytes;
    uint8_t parameters[UCUDA_PARAM_MAX];
};

static int run_launch(struct gpu_call *call) {
    struct launch *launch = call->host;
    return ucuda_launch(call->device, 0, call->handle, launch->grid, launch->block, launch->shared,
        launch->parameters, launch->param_bytes, false);
}

static mp_obj_t launch(size_t n_args, const mp_obj_t *args, mp_map_t *kw) {
    if (!mp_obj_is_type(args[0], &gpu_type_kernel)) {
        mp_raise_TypeError(MP_ERROR_TEXT("not a gpu.Kernel"));
    }
    kernel_obj_t *kernel = MP_OBJ_TO_PTR(args[0]);
    check_epoch(kernel->epoch);
    static const mp_arg_t allowed[] = {
        {MP_QSTR_shared, MP_ARG_KW_ONLY | MP_ARG_INT, {.u_int = 0}},
    };
    mp_arg_val_t arg[MP_ARRAY_SIZE(allowed)];
    mp_arg_parse_all(0, NULL, kw, MP_ARRAY_SIZE(allowed), allowed, arg);
    if (n_args - 3 != kernel->n_params) {
        mp_raise_msg_varg(&mp_type_TypeError,
            MP_ERROR_TEXT("the kernel has %u parameters, %u given"), (unsigned)kernel->n_params,
            (unsigned)(n_args - 3));
    }
    struct launch launch;
    dimensions(args[1], launch.grid);
    dimensions(args[2], launch.block);
    launch.shared = arg[0].u_int < 0 ? UINT32_MAX : (uint32_t)arg[0].u_int;
    launch.param_bytes = kernel->param_bytes;
    memset(launch.parameters, 0, sizeof(launch.parameters)); // padding
    for (size_t i = 0; i < kernel->n_params; i++) {
        if (kernel->param[i].offset + kernel->param[i].size > UCUDA_PARAM_MAX) {
            mp_raise_ValueError(MP_ERROR_TEXT("the kernel's parameters are too large"));
        }
        parameter(args[3 + i], i, launch.parameters + kernel->param[i].offset,
            kernel->param[i].size);
    }
    struct gpu_call call = {.run = run_launch, .holds = true, .host = &launch};
    call.device = kernel->device;
    call.handle = kernel->handle;
    gpu_do(&call);
    return mp_const_none;
}
MP_DEFINE_CONST_FUN_OBJ_KW(gpu_launch_obj, 3, launch);
