// launch.cpp: modules, kernels and launches of CUDA's runtime interface.
//
// Objects that clang made register their modules and kernels before main(). A module embeds a
// reference to a file of the pack (native/ptx/pack.h). It is loaded, and a kernel looked up, when
// a kernel is first wanted on a device; gpud says what parameters it has.
#include "internal.h"

#include <stdio.h>
#include <string.h>

#include <atomic>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "../ptx/pack.h"

namespace cudart {

// What __cudaRegisterFatBinary() gets (fatbinary_section.h of CUDA's headers).
struct fatbin_wrapper {
    int magic, version;
    const ptx_reference *reference;
    void *unused;
};

struct module {
    const ptx_reference *reference;
    uint32_t handle[DEVICES]; // 0 while it is not loaded
    bool loaded[DEVICES];
};

struct kernel {
    module *of;
    const char *name;
    struct on_device {
        bool known;
        uint32_t handle;
        struct ucuda_kernel about;
        // The last answer about occupancy, which ggml-cuda asks for before each launch of
        // attention: threads << 48 | shared bytes << 16 | blocks. 0 for none.
        std::atomic<uint64_t> occupancy;
    } *on[DEVICES];
};

// Made before main(), in any order; never destroyed, because exit handlers launch too.
struct registry {
    std::mutex lock;
    std::vector<module *> modules;
    std::unordered_map<const void *, kernel> kernels; // by the host's function
};

static registry &all() {
    static registry *made = new registry;
    return *made;
}

// The caller has the lock.
static int load(module &m, unsigned number) {
    if (m.loaded[number]) {
        return UCUDA_OK;
    }
    const ptx_reference *reference = m.reference;
    if (memcmp(reference->magic, PTX_REFERENCE_MAGIC, sizeof(reference->magic)) != 0
        || reference->version != PTX_PACK_VERSION) {
        return UCUDA_EIMAGE;
    }
    int code = ucuda_module(number, reference->file, reference->sha256, &m.handle[number]);
    m.loaded[number] = code == UCUDA_OK;
    return code;
}

// Finds the kernel behind a host function on a device.
static int find(const void *function, unsigned number, kernel::on_device **out) {
    registry &r = all();
    std::lock_guard<std::mutex> guard(r.lock);
    auto found = r.kernels.find(function);
    if (found == r.kernels.end() || number >= DEVICES) {
        return cudaErrorInvalidDeviceFunction;
    }
    kernel &k = found->second;
    if (!k.on[number]) {
        k.on[number] = new kernel::on_device{};
    }
    kernel::on_device &here = *k.on[number];
    *out = &here;
    if (here.known) {
        return UCUDA_OK;
    }
    here.occupancy = 0;
    int code = load(*k.of, number);
    if (code == UCUDA_OK) {
        code = ucuda_kernel(k.of->handle[number], k.name, &here.handle, &here.about);
    }
    here.known = code == UCUDA_OK;
    if (!here.known) {
        // The error's code alone does not say which of thousands of kernels it is about.
        fprintf(stderr, "cudart: no kernel %s: %s\n", k.name, ucuda_fault());
    }
    return code;
}

void forget_kernels() {
    registry &r = all();
    std::lock_guard<std::mutex> guard(r.lock);
    for (module *m : r.modules) {
        memset(m->loaded, 0, sizeof(m->loaded));
    }
    for (auto &entry : r.kernels) {
        for (auto *here : entry.second.on) {
            if (here) {
                here->known = false;
            }
        }
    }
}

static int launch(const void *function, dim3 grid, dim3 block, void **arguments, size_t shared,
    cudaStream_t stream, bool cooperative) {
    place at = stream_place(stream);
    kernel::on_device *k;
    int code = find(function, at.device, &k);
    if (code != UCUDA_OK) {
        return code;
    }
    unsigned char packed[UCUDA_PARAM_MAX];
    const struct ucuda_kernel &about = k->about;
    if (about.n_params > UCUDA_PARAMS || about.param_bytes > sizeof(packed)) {
        return UCUDA_EIMAGE;
    }
    memset(packed, 0, about.param_bytes);
    for (uint32_t i = 0; i < about.n_params; i++) {
        const auto &param = about.param[i];
        if (param.offset + param.size > about.param_bytes) {
            return UCUDA_EIMAGE;
        }
        memcpy(packed + param.offset, arguments[i], param.size);
    }
    const uint32_t grid_size[3] = {grid.x, grid.y, grid.z};
    const uint32_t block_size[3] = {block.x, block.y, block.z};
    return ucuda_launch(at.device, at.handle, k->handle, grid_size, block_size, (uint32_t)shared,
        packed, about.param_bytes, cooperative);
}

// What a launch by <<<...>>> pushes, and clang's host function of the kernel pops.
struct configuration {
    dim3 grid, block;
    size_t shared;
    cudaStream_t stream;
};
static thread_local configuration pushed;

} // namespace cudart

using namespace cudart;

extern "C" {

// The interface between clang's objects and CUDA's runtime (clang's CGCUDANV.cpp, version 19).

void **__cudaRegisterFatBinary(void *wrapper) {
    module *made = new module{};
    made->reference = ((const fatbin_wrapper *)wrapper)->reference;
    registry &r = all();
    std::lock_guard<std::mutex> guard(r.lock);
    r.modules.push_back(made);
    return (void **)made;
}

void __cudaRegisterFatBinaryEnd(void **) {}

void __cudaUnregisterFatBinary(void **) {}

void __cudaRegisterFunction(void **handle, const char *function, char *, const char *name, int,
    uint3 *, uint3 *, dim3 *, dim3 *, int *) {
    registry &r = all();
    std::lock_guard<std::mutex> guard(r.lock);
    r.kernels.emplace(function, kernel{(module *)handle, name, {}});
}

// Variables of a device are never named by the host's code of ggml-cuda.
void __cudaRegisterVar(void **, char *, char *, const char *, int, size_t, int, int) {}

unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, void *stream) {
    pushed = {grid, block, shared, (cudaStream_t)stream};
    return 0;
}

cudaError_t __cudaPopCallConfiguration(dim3 *grid, dim3 *block, size_t *shared, void *stream) {
    *grid = pushed.grid;
    *block = pushed.block;
    *shared = pushed.shared;
    *(cudaStream_t *)stream = pushed.stream;
    return cudaSuccess;
}

cudaError_t cudaLaunchKernel(const void *function, dim3 grid, dim3 block, void **arguments,
    size_t shared, cudaStream_t stream) {
    return result(launch(function, grid, block, arguments, shared, stream, false));
}

cudaError_t cudaLaunchCooperativeKernel(const void *function, dim3 grid, dim3 block,
    void **arguments, size_t shared, cudaStream_t stream) {
    return result(launch(function, grid, block, arguments, shared, stream, true));
}

// Attributes but cooperation are hints: ggml-cuda asks for programmatic launches, whose kernels are
// right without, too.
cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t *config, const void *function,
    void **arguments) {
    bool cooperative = false;
    for (unsigned i = 0; i < config->numAttrs; i++) {
        if (config->attrs[i].id == cudaLaunchAttributeCooperative) {
            cooperative = config->attrs[i].val.cooperative;
        }
    }
    return result(launch(function, config->gridDim, config->blockDim, arguments,
        config->dynamicSmemBytes, config->stream, cooperative));
}

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes *out, const void *function) {
    kernel::on_device *k;
    int code = find(function, device(), &k);
    if (code != UCUDA_OK) {
        return result(code);
    }
    memset(out, 0, sizeof(*out));
    out->sharedSizeBytes = k->about.static_shared;
    out->maxThreadsPerBlock = (int)k->about.max_threads;
    out->numRegs = (int)k->about.registers;
    // Which PTX gpud took is not known here. ggml-cuda only asks whether it may launch in
    // programmatic order, from 90 on: it need not.
    out->ptxVersion = out->binaryVersion = 61;
    return cudaSuccess;
}

cudaError_t cudaFuncSetAttribute(const void *function, cudaFuncAttribute attribute, int value) {
    kernel::on_device *k;
    int code = find(function, device(), &k);
    if (code == UCUDA_OK) {
        k->occupancy = 0;
        // CUfunction_attribute has the same numbers.
        code = ucuda_kernel_attribute(k->handle, (uint32_t)attribute, (uint64_t)value);
    }
    return result(code);
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *blocks,
    const void *function, int threads, size_t shared, unsigned) {
    kernel::on_device *k;
    uint32_t count = 0;
    int code = find(function, device(), &k);
    const uint64_t asked = (uint64_t)threads << 32 | (uint32_t)shared;
    if (code == UCUDA_OK && k->occupancy >> 16 == asked) {
        count = k->occupancy & 0xffff;
    } else if (code == UCUDA_OK) {
        code = ucuda_occupancy(k->handle, (uint32_t)threads, shared, &count);
        k->occupancy = code == UCUDA_OK && count <= 0xffff ? asked << 16 | count : 0;
    }
    *blocks = (int)count;
    return result(code);
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, const void *function,
    int threads, size_t shared) {
    return cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(blocks, function, threads, shared,
        0);
}

} // extern "C"
