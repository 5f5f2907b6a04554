// fake.cpp: a GPU without CUDA; see device.h. A backend of ggml that computes on the CPU fails as
// ggml-cuda does: by a line in the log and ggml_abort(), in destructors too.
#include "device.h"

#include "../../../../native/cudart/cudart.h"
#include "../../../../native/ucuda/ucuda.h"

#include "ggml-backend-impl.h"
#include "ggml-cuda.h"

#include <cstdlib>
#include <cstring>

namespace {

device_options now;
bool connected, lost;
int status;
uint32_t epoch;
uint64_t used;
struct ucuda_info page;
struct ucuda_stats counts;
thread_local cudart_mode mode = CUDART_REPORTS;

void log_error(const char *format, double number) {
    char line[256];
    snprintf(line, sizeof line, format, number);
    ggml_log_callback log;
    void *user;
    ggml_log_get(&log, &user);
    log(GGML_LOG_LEVEL_ERROR, line, user);
}

[[noreturn]] void fail(const char *words) {
    log_error((std::string("CUDA error: ") + words + "\n").c_str(), 0);
    ggml_abort("fake.cpp", __LINE__, "CUDA error");
}

// A call of CUDA. False: it is not to be made.
bool called() {
    if (mode == CUDART_SKIPS) {
        return false;
    }
    if (ucuda_status() != UCUDA_OK && mode == CUDART_REPORTS) {
        fail("unspecified launch failure");
    }
    return true;
}

// --- buffers

struct block {
    void *at;
    size_t bytes;
    uint32_t epoch; // of the device
};

ggml_backend_buffer_i buffer_functions() {
    ggml_backend_buffer_i i{};
    i.free_buffer = [](ggml_backend_buffer_t buffer) {
        auto *b = static_cast<block *>(buffer->context);
        if (mode != CUDART_SKIPS) {
            GGML_ASSERT(b->epoch == epoch && "freed on another device");
            used -= b->bytes;
        }
        free(b->at);
        delete b;
    };
    i.get_base = [](ggml_backend_buffer_t buffer) {
        return static_cast<block *>(buffer->context)->at;
    };
    i.memset_tensor = [](ggml_backend_buffer_t, ggml_tensor *tensor, uint8_t value, size_t offset,
                          size_t size) {
        memset(static_cast<char *>(tensor->data) + offset, value, size);
    };
    i.set_tensor = [](ggml_backend_buffer_t, ggml_tensor *tensor, const void *data, size_t offset,
                       size_t size) {
        if (called()) {
            memcpy(static_cast<char *>(tensor->data) + offset, data, size);
        }
    };
    i.get_tensor = [](ggml_backend_buffer_t, const ggml_tensor *tensor, void *data, size_t offset,
                       size_t size) {
        if (called()) {
            memcpy(data, static_cast<const char *>(tensor->data) + offset, size);
        }
    };
    i.clear = [](ggml_backend_buffer_t buffer, uint8_t value) {
        auto *b = static_cast<block *>(buffer->context);
        memset(b->at, value, b->bytes);
    };
    return i;
}

ggml_backend_dev_t device();

ggml_backend_buffer_type_t buffer_type() {
    static ggml_backend_buffer_type type = {
        {
            [](ggml_backend_buffer_type_t) { return "CUDA0"; },
            [](ggml_backend_buffer_type_t of, size_t size) -> ggml_backend_buffer_t {
                if (ucuda_status() != UCUDA_OK || used + size > now.quota) {
                    log_error("fake: allocating %.2f MiB on device 0: cudaMalloc failed: out of "
                              "memory\n",
                        static_cast<double>(size) / 1048576);
                    return nullptr;
                }
                used += size;
                auto *b = new block{aligned_alloc(128, (size + 127) / 128 * 128), size, epoch};
                return ggml_backend_buffer_init(of, buffer_functions(), b, size);
            },
            [](ggml_backend_buffer_type_t) -> size_t { return 128; },
            nullptr,
            nullptr,
            nullptr,
        },
        device(),
        nullptr,
    };
    return &type;
}

// --- the backend

ggml_backend_dev_t cpu() {
    return ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
}

ggml_backend_t new_backend(ggml_backend_dev_t, const char *) {
    ggml_backend_i i{};
    i.get_name = [](ggml_backend_t) { return "CUDA0"; };
    i.free = [](ggml_backend_t backend) {
        ggml_backend_free(static_cast<ggml_backend_t>(backend->context));
        delete backend;
    };
    i.synchronize = [](ggml_backend_t) {
        called();
        ++counts.waits;
    };
    i.graph_compute = [](ggml_backend_t backend, ggml_cgraph *graph) {
        if (!called()) {
            return GGML_STATUS_SUCCESS;
        }
        // ggml-cuda takes memory beside its buffers: here a KiB for each token.
        const auto columns = static_cast<uint64_t>(ggml_graph_node(graph, 0)->ne[1]);
        if (used + columns * 1024 > now.quota) {
            fail("out of memory");
        }
        counts.launches += static_cast<uint64_t>(ggml_graph_n_nodes(graph));
        return ggml_backend_graph_compute(static_cast<ggml_backend_t>(backend->context), graph);
    };
    static uint8_t guid[16] = {1};
    ggml_backend_t inner = ggml_backend_dev_init(cpu(), nullptr);
    reinterpret_cast<ggml_backend_set_n_threads_t>(ggml_backend_reg_get_proc_address(
        ggml_backend_dev_backend_reg(cpu()), "ggml_backend_set_n_threads"))(inner, 1);
    return new ggml_backend{&guid, i, device(), inner};
}

ggml_backend_dev_t device() {
    static ggml_backend_device made = [] {
        ggml_backend_device_i i{};
        i.get_name = [](ggml_backend_dev_t) { return "CUDA0"; };
        i.get_description = [](ggml_backend_dev_t) { return "Fake"; };
        i.get_memory = [](ggml_backend_dev_t, size_t *free, size_t *total) {
            *total = now.quota;
            *free = now.quota - used;
        };
        i.get_type = [](ggml_backend_dev_t) { return GGML_BACKEND_DEVICE_TYPE_GPU; };
        i.get_props = [](ggml_backend_dev_t d, ggml_backend_dev_props *props) {
            *props = {};
            props->name = props->description = "Fake";
            props->type = GGML_BACKEND_DEVICE_TYPE_GPU;
            ggml_backend_dev_memory(d, &props->memory_free, &props->memory_total);
        };
        i.init_backend = new_backend;
        i.get_buffer_type = [](ggml_backend_dev_t) { return buffer_type(); };
        i.supports_op = [](ggml_backend_dev_t, const ggml_tensor *) { return true; };
        i.supports_buft = [](ggml_backend_dev_t, ggml_backend_buffer_type_t type) {
            return type == buffer_type();
        };
        return ggml_backend_device{i, ggml_backend_cuda_reg(), nullptr};
    }();
    return &made;
}

} // namespace

ggml_backend_reg_t ggml_backend_cuda_reg() {
    static ggml_backend_reg made = {
        GGML_BACKEND_API_VERSION,
        {
            [](ggml_backend_reg_t) { return "CUDA"; },
            [](ggml_backend_reg_t) -> size_t { return 1; },
            [](ggml_backend_reg_t, size_t) { return device(); },
            [](ggml_backend_reg_t, const char *) -> void * { return nullptr; },
        },
        nullptr,
    };
    return &made;
}

// --- what gpu.cpp calls

cudart_mode cudart_set_mode(cudart_mode wanted) {
    const cudart_mode before = mode;
    mode = wanted;
    return before;
}

void cudart_reset() {}

int ucuda_open() {
    return UCUDA_ENODEVICE;
}

void ucuda_close() {
    connected = false;
}

bool ucuda_is_open() {
    return connected;
}

const struct ucuda_info *ucuda_info() {
    return connected ? &page : nullptr;
}

uint32_t ucuda_epoch() {
    return epoch;
}

const char *ucuda_fault() {
    if (lost) {
        return "gpud does not answer";
    }
    return status ? "kernel fake, block 1, thread 2: address 0x10 is in no allocation" : "";
}

int ucuda_status() {
    return lost || !connected ? UCUDA_ELOST : status;
}

int ucuda_reset() {
    if (lost || !connected) {
        return UCUDA_ELOST;
    }
    status = 0;
    used = 0;
    ++epoch;
    return UCUDA_OK;
}

void ucuda_stats(struct ucuda_stats *out) {
    *out = counts;
    out->used_bytes = used;
}

int ucuda_device_info(unsigned, ucuda_device *out) {
    *out = {};
    strcpy(out->name, "Fake");
    out->memory = now.quota;
    out->major = now.major;
    out->minor = now.minor;
    return ucuda_status();
}

int ucuda_memory_info(unsigned, uint64_t *free_bytes, uint64_t *total_bytes) {
    *free_bytes = now.quota - used;
    *total_bytes = now.quota;
    return ucuda_status();
}

int connect_device(const device_options &options) {
    if (options.quota == 0) {
        return UCUDA_ENODEVICE;
    }
    now = options;
    connected = true;
    lost = false;
    status = 0;
    used = 0;
    ++epoch;
    page.quota = now.quota;
    page.n_devices = 1;
    strcpy(page.name, "fake");
    return UCUDA_OK;
}

void lose_device() {
    lost = true;
}

void fill_device(uint64_t left) {
    now.quota = used + left;
}

void break_device() {
    status = UCUDA_EADDRESS;
}
