// Calls of native/ucuda, which may wait for the GPU: on a thread of their own (native/waiting),
// while Python's thread sleeps, answers the network and runs what MicroPython's scheduler has
// pending. C frames of ucuda hold locks, so no exception passes through them: a callback's is kept
// until the call has ended, or the call is left to end alone.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "py/mphal.h"

#include "modgpu.h"
#include "waiting.h"
#include "worker.h"

static struct gpu_call current; // the worker's, which may outlive its caller
static bool calling;            // Python's thread is in gpu_call()

// What gpu_free_later() was given: Python's thread adds to `later` and hands it to the worker
// between two calls. Memory of C, because finalisers must not allocate Python's.
struct garbage {
    size_t n, room;
    struct {
        uint64_t address;
        uint32_t epoch;
    } *items;
};
static struct garbage later, handed;

void gpu_free_later(uint64_t address, uint32_t epoch) {
    if (later.n == later.room) {
        size_t room = later.room ? 2 * later.room : 16;
        void *items = realloc(later.items, room * sizeof(*later.items));
        if (!items) {
            return; // the next reset frees it
        }
        later.items = items;
        later.room = room;
    }
    later.items[later.n].address = address;
    later.items[later.n++].epoch = epoch;
}

static void hand_garbage(void) {
    if (!handed.n) {
        struct garbage empty = handed;
        handed = later;
        later = empty;
    }
}

static void free_garbage(void) {
    while (handed.n) {
        handed.n--;
        // A reset has freed those of other epochs.
        if (handed.items[handed.n].epoch == ucuda_epoch()) {
            ucuda_free(handed.items[handed.n].address);
        }
    }
}

static int open_and_run(struct gpu_call *call) {
    if (!ucuda_is_open()) {
        int code = ucuda_open();
        if (code) {
            return code;
        }
    }
    free_garbage();
    return call->run(call);
}

static void on_worker(void *unused) {
    (void)unused;
    current.fault[0] = 0;
    int code = open_and_run(&current);
    if (code) {
        snprintf(current.fault, sizeof(current.fault), "%s", ucuda_fault());
    }
    current.code = code;
}

// Runs what is pending; keeps the first exception in *raised.
static void run_pending(mp_obj_t *raised) {
    nlr_buf_t nlr;
    if (nlr_push(&nlr) == 0) {
        mp_event_handle_nowait();
        nlr_pop();
    } else if (*raised == MP_OBJ_NULL) {
        *raised = MP_OBJ_FROM_PTR(nlr.ret_val);
    }
}

// Waits for the worker. With `leave`, an exception of a callback ends that at once.
static mp_obj_t wait(bool leave) {
    mp_obj_t raised = MP_OBJ_NULL;
    while (!worker_is_idle()) {
        run_pending(&raised);
        if (leave && raised != MP_OBJ_NULL) {
            break;
        }
        // A callback that slept may have used up the wake-up.
        if (!worker_is_idle()) {
            waiting_hooks.sleep();
        }
    }
    return raised;
}

int gpu_call(struct gpu_call *call) {
    if (calling) {
        mp_raise_ValueError(MP_ERROR_TEXT("the gpu module is busy: it waits below this callback"));
    }
    calling = true;
    mp_obj_t raised = wait(true);
    int error = 0;
    if (raised == MP_OBJ_NULL) {
        hand_garbage();
        current = *call;
        error = worker_start(on_worker, NULL);
        if (!error) {
            raised = wait(!call->holds);
        }
    }
    calling = false;
    if (raised != MP_OBJ_NULL) {
        nlr_raise(raised);
    }
    if (error) {
        mp_raise_msg(&mp_type_MemoryError, MP_ERROR_TEXT("no memory for the gpu module's thread"));
    }
    *call = current;
    return call->code;
}

void gpu_do(struct gpu_call *call) {
    gpu_check(gpu_call(call), call);
}

void gpu_call_init(void) {
    while (!worker_is_idle()) {
        waiting_hooks.sleep();
    }
    calling = false;
    later.n = handed.n = 0;
}
