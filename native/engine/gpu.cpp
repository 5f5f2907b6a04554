// gpu.cpp: GPUs of the image that computes on them; see gpu.h.
#include "gpu.h"

#include "../cudart/cudart.h"
#include "../ucuda/ucuda.h"

#include "ggml-cuda.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <mutex>

// What connects to gpud. Tests set another one.
int (*gpu_connect)() = ucuda_open;

namespace {

std::mutex mutex; // guards what follows but for the atomics
std::atomic<bool> registered{false};
std::atomic<unsigned> now{0}; // generation
std::atomic<bool> lost{false};
std::atomic<unsigned> losses{0};
std::atomic<uint32_t> epoch{0};    // ucuda's, of this generation
ucuda_device devices[ENGINE_GPUS]; // as they were registered
unsigned n_devices;
char loss_reason[256];

thread_local char last_error[128]; // CUDA's words for the call that failed

std::string mebibytes(uint64_t bytes) {
    const uint64_t tenths = bytes * 10 >> 20;
    return std::to_string(tenths / 10) + "." + std::to_string(tenths % 10) + " MiB";
}

// Notes a loss, once for each generation.
void lose() {
    std::lock_guard<std::mutex> lock(mutex);
    if (lost) {
        return;
    }
    const char *fault = ucuda_fault();
    if (!ucuda_is_open() || ucuda_epoch() != epoch) {
        fault = "it was reset";
    }
    const char *reason = *fault ? fault : *last_error ? last_error : "unknown";
    strncpy(loss_reason, reason, sizeof loss_reason - 1);
    ++losses;
    lost = true;
}

[[noreturn]] void throw_loss() {
    std::lock_guard<std::mutex> lock(mutex);
    throw gpu_lost(std::string("the GPU is lost: ") + loss_reason);
}

// Whether anything but a lack of memory has failed since the GPU was opened.
bool has_failed() {
    return lost || !ucuda_is_open() || ucuda_epoch() != epoch || ucuda_status() != UCUDA_OK;
}

unsigned count() {
    const struct ucuda_info *info = ucuda_info();
    return info ? std::min<unsigned>(info->n_devices, ENGINE_GPUS) : 0;
}

// Devices that are there again must be what ggml-cuda has chosen its kernels for.
bool same_devices() {
    for (unsigned i = 0; i < n_devices; ++i) {
        const ucuda_device &known = devices[i];
        ucuda_device found{};
        if (ucuda_device_info(i, &found) != UCUDA_OK || found.major != known.major
            || found.minor != known.minor || found.multiprocessors != known.multiprocessors
            || strncmp(found.name, known.name, sizeof found.name) != 0) {
            return false;
        }
    }
    return count() == n_devices;
}

// False: a device does not say what it is.
bool describe_devices() {
    n_devices = count();
    for (unsigned i = 0; i < n_devices; ++i) {
        if (ucuda_device_info(i, &devices[i]) != UCUDA_OK) {
            return false;
        }
    }
    return n_devices != 0;
}

int connect_again() {
    if (ucuda_is_open() && ucuda_reset() == UCUDA_OK) {
        return UCUDA_OK;
    }
    ucuda_close();
    return gpu_connect();
}

} // namespace

unsigned gpu_open() {
    if (registered && !has_failed()) {
        return now;
    }
    if (registered) {
        if (ucuda_is_open()) { // else the machine's Python was reset, and has closed it
            lose();
        }
        if (connect_again() != UCUDA_OK) {
            throw gpu_lost("the GPU is gone, and there is no other one");
        }
        cudart_reset();
        if (!same_devices()) {
            throw gpu_lost("there is another GPU now: the machine must be restarted to use it");
        }
    } else {
        if (!ucuda_is_open() && gpu_connect() != UCUDA_OK) {
            return 0;
        }
        if (!describe_devices()) {
            ucuda_close();
            return 0;
        }
        ggml_backend_register(ggml_backend_cuda_reg());
        registered = true;
    }
    std::lock_guard<std::mutex> lock(mutex);
    lost = false;
    epoch = ucuda_epoch();
    return ++now;
}

unsigned gpu_count() {
    return n_devices;
}

void gpu_check(unsigned generation) {
    if (generation == 0) {
        return;
    }
    if (generation != now) {
        throw gpu_lost("the GPU was lost since the model was loaded");
    }
    if (has_failed()) {
        lose();
        throw_loss();
    }
}

bool gpu_is_failure(const char *message) {
    const char *words = strstr(message, GGML_CUDA_NAME " error");
    return words && strlen(words) == strlen(GGML_CUDA_NAME " error");
}

void gpu_throw() {
    // The second is gpud's word where a module's variables do not fit.
    const bool lacks = strstr(last_error, "out of memory") || strstr(ucuda_fault(), "no memory");
    if (!has_failed() && lacks) {
        throw gpu_memory("the GPU's memory is used up");
    }
    lose();
    cudart_set_mode(CUDART_SKIPS);
    throw_loss();
}

void gpu_note(const char *text) {
    constexpr const char *begin = GGML_CUDA_NAME " error: ";
    if (strncmp(text, begin, strlen(begin)) == 0) {
        strncpy(last_error, text + strlen(begin), sizeof last_error - 1);
        last_error[strcspn(last_error, "\n")] = '\0';
    }
}

void gpu_explain(unsigned generation, const std::string &reason) {
    if (generation == 0) {
        return;
    }
    gpu_check(generation);
    const size_t at = reason.find("allocating "); // ggml_backend_cuda_buffer_type_alloc_buffer()
    const size_t end = reason.find(" on device ", at);
    if (at == std::string::npos || end == std::string::npos) {
        return;
    }
    const size_t size = at + strlen("allocating ");
    uint64_t free = 0, total = 0;
    ucuda_memory_info(static_cast<unsigned>(atoi(reason.c_str() + end + strlen(" on device "))),
        &free, &total);
    throw std::runtime_error("the GPU has too little memory: " + reason.substr(size, end - size)
        + " more are needed, and " + mebibytes(free) + " of " + mebibytes(total)
        + " are free: give it more (--gpu-memory), or fewer cells (n_ctx) or layers (gpu_layers)");
}

void gpu_ignore() {
    cudart_set_mode(CUDART_IGNORES);
}

void gpu_use::release() {
    if (generation != 0) {
        releasing = true;
        const bool alive = generation == now && !has_failed();
        cudart_set_mode(alive ? CUDART_IGNORES : CUDART_SKIPS);
    }
}

gpu_use::~gpu_use() {
    if (releasing) {
        cudart_set_mode(CUDART_REPORTS);
    }
}

gpu_scope::~gpu_scope() {
    cudart_set_mode(CUDART_REPORTS);
}

bool engine_gpu(struct engine_gpu *out) {
    if (!registered && !ucuda_is_open()) {
        return false;
    }
    *out = {};
    out->name = devices[0].name; // asked for once, because that waits for gpud
    const struct ucuda_info *info = ucuda_info();
    static char kind[sizeof info->name];
    if (info) {
        memcpy(kind, info->name, sizeof kind - 1);
        out->memory = info->quota ? info->quota : devices[0].memory;
        out->devices = count();
    }
    out->kind = kind;
    if (registered && has_failed()) {
        lose();
        out->fault = loss_reason;
    } else {
        out->fault = "";
    }
    out->losses = losses;
    struct ucuda_stats stats{};
    ::ucuda_stats(&stats);
    out->used = stats.used_bytes;
    out->launches = stats.launches;
    out->graph_launches = stats.graph_launches;
    out->round_trips = stats.waits;
    out->copied = stats.copied_bytes;
    return true;
}
