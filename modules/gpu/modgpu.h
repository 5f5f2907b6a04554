// What the files of the `gpu` module share. modgpu.c has the module, gpu_call.c the thread that
// calls native/ucuda, gpu_memory.c and gpu_kernel.c the classes, gpu_probe.c what needs no gpud.
#ifndef CLLM_MODGPU_H
#define CLLM_MODGPU_H

#include "py/obj.h"
#include "py/runtime.h"

#include "ucuda.h"

// --- calls (gpu_call.c)

// One call of native/ucuda with its arguments and results; run() uses those it needs.
struct gpu_call {
    int (*run)(struct gpu_call *call); // returns a code of ucuda.h; runs on another thread
    // run() uses memory of Python's heap or stack, or makes what only the caller can free. Then an
    // exception of a callback, Ctrl-C's too, waits until run() has returned.
    bool holds;
    int code; // what run() returned
    unsigned device;
    uint32_t handle;
    uint64_t address, other, bytes;
    void *host;
    const void *more;
    char fault[sizeof(((struct ucuda_host *)0)->fault_text)]; // gpud's sentence after a failure
};

// Connects to gpud unless connected, runs the call on another thread and meanwhile what
// MicroPython's scheduler has pending. Returns the code. Raises what a callback raised, and
// ValueError when a callback calls this again.
int gpu_call(struct gpu_call *call);
// Raises what the code of a call other than UCUDA_OK means.
void gpu_check(int code, const struct gpu_call *call);
// gpu_call(), then gpu_check().
void gpu_do(struct gpu_call *call);
// From a finaliser: frees the memory before the next call.
void gpu_free_later(uint64_t address, uint32_t epoch);
// Forgets gpu_free_later() and waits for a call that an exception left alone.
void gpu_call_init(void);

// --- classes

extern const mp_obj_type_t gpu_type_Error, gpu_type_memory, gpu_type_module, gpu_type_kernel;

typedef struct {
    mp_obj_base_t base;
    uint32_t epoch; // ucuda_epoch() when it was made: a reset frees it
    unsigned device;
    uint64_t address; // 0 when closed
    uint64_t size;
} gpu_memory_obj_t;

// ValueError when it is closed, or of another epoch.
gpu_memory_obj_t *gpu_memory(mp_obj_t memory);

MP_DECLARE_CONST_FUN_OBJ_VAR_BETWEEN(gpu_alloc_obj);
MP_DECLARE_CONST_FUN_OBJ_KW(gpu_copy_obj);
MP_DECLARE_CONST_FUN_OBJ_VAR_BETWEEN(gpu_load_obj);
MP_DECLARE_CONST_FUN_OBJ_KW(gpu_launch_obj);
MP_DECLARE_CONST_FUN_OBJ_0(gpu_probe_obj);

// --- arguments

// A number of a device that there is; ValueError otherwise.
unsigned gpu_device(mp_obj_t device);
// A whole number that is not negative; ValueError otherwise.
uint64_t gpu_size(mp_obj_t number);

#endif
