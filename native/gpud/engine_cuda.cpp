// engine_cuda.cpp: a card, through libcuda. Handles of CUDA's are the engine's objects.
//
// Host memory is pageable for CUDA: a copy from it has been taken when the function returns, a copy
// to it is there (CUDA Driver API, "API synchronization behavior"). So the guest may have its heap
// back as soon as seq_done says so.
#include <algorithm>
#include <cstring>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include "../ucuda/abi.h"
#include "cuda_api.h"
#include "engine.h"
#include "ptx_names.h"

namespace gpud {

namespace {

struct loaded_module {
    unsigned device;
    cu_module module;
    std::map<uint64_t, std::string> kernels, globals; // names by hash
};

struct loaded_kernel {
    unsigned device;
    cu_function function;
    std::string name;
    std::vector<uint32_t> offsets; // of parameters
};

struct device {
    cu_device number;
    cu_context context = nullptr; // made when it is needed: it takes time, and memory of the card
};

template <typename T> T *as(object o) {
    return (T *)(uintptr_t)o;
}

template <typename T> T handle(object o) {
    return (T)(uintptr_t)o;
}

template <typename T> object number(T *p) {
    return (object)(uintptr_t)p;
}

class cuda_engine final : public engine {
public:
    cuda_engine() : api(cuda()) {
        int count = 0;
        cu_result code = api.init(0);
        if (code == 0) {
            code = api.device_count(&count);
        }
        if (code != 0 || count == 0) {
            throw std::runtime_error("no CUDA device: " + (code ? words(code) : "none is there"));
        }
        all.resize((size_t)std::min(count, 32));
        for (size_t i = 0; i < all.size(); i++) {
            if (api.device_get(&all[i].number, (int)i) != 0) {
                throw std::runtime_error("a CUDA device cannot be opened");
            }
        }
    }

    const char *name() const override { return "cuda"; }
    uint32_t features() const override { return UCUDA_HAS_GRAPHS; }
    unsigned devices() const override { return (unsigned)all.size(); }
    bool takes_slices() const override { return true; }

    int describe(unsigned device, ucuda_device *out) override {
        *out = {};
        cu_device of = all[device].number;
        size_t memory = 0;
        api.device_name(out->name, sizeof(out->name) - 1, of);
        api.device_memory(&memory, of);
        out->memory = memory;
        out->major = attribute(cu_major, of);
        out->minor = attribute(cu_minor, of);
        out->multiprocessors = attribute(cu_multiprocessor_count, of);
        out->warp = attribute(cu_warp_size, of);
        out->shared_per_block = attribute(cu_max_shared_per_block, of);
        out->shared_per_block_optin = attribute(cu_max_shared_per_block_optin, of);
        out->shared_per_multiprocessor = attribute(cu_max_shared_per_multiprocessor, of);
        out->threads_per_block = attribute(cu_max_threads_per_block, of);
        out->threads_per_multiprocessor = attribute(cu_max_threads_per_multiprocessor, of);
        out->registers_per_block = attribute(cu_max_registers_per_block, of);
        out->clock_khz = attribute(cu_clock_rate, of);
        out->memory_clock_khz = attribute(cu_memory_clock_rate, of);
        out->bus_bits = attribute(cu_memory_bus_width, of);
        out->l2_bytes = attribute(cu_l2_bytes, of);
        out->integrated = attribute(cu_integrated, of);
        out->cooperative = attribute(cu_cooperative_launch, of);
        out->managed = attribute(cu_managed_memory, of);
        out->pci_domain = attribute(cu_pci_domain, of);
        out->pci_bus = attribute(cu_pci_bus, of);
        out->pci_device = attribute(cu_pci_device, of);
        for (unsigned other = 0; other < all.size(); other++) {
            int can = 0;
            if (other != device && api.can_access_peer(&can, of, all[other].number) == 0 && can) {
                out->peers |= 1u << other;
            }
        }
        return 0;
    }

    uint64_t free_memory(unsigned device) override {
        size_t free = 0, total = 0;
        return use(device) == 0 && api.memory_info(&free, &total) == 0 ? free : UINT64_MAX;
    }

    int alloc(unsigned device, uint64_t bytes, uint64_t *address) override {
        if (int code = use(device)) {
            return code;
        }
        cu_address made = 0;
        int code = check(api.alloc(&made, bytes), "cuMemAlloc");
        // What another guest left there is nobody's business.
        if (code == 0) {
            code = check(api.set_8(made, 0, bytes, nullptr), "cuMemsetD8Async");
        }
        if (code == 0) {
            code = check(api.synchronize(nullptr), "cuStreamSynchronize");
        }
        if (code != 0 && made != 0) {
            api.free(made); // nobody would ever know of it
        }
        *address = made;
        return code;
    }

    int free(unsigned device, uint64_t address) override {
        int code = use(device);
        return code ? code : check(api.free(address), "cuMemFree");
    }

    int load_module(unsigned device, std::string_view text, object *module) override {
        if (int code = use(device)) {
            return code;
        }
        std::string with_end(text); // CUDA looks for the NUL
        char log[4096] = {};
        int options[2] = {cu_jit_error_log, cu_jit_error_log_bytes};
        void *values[2] = {log, (void *)(uintptr_t)(sizeof(log) - 1)};
        auto made = std::make_unique<loaded_module>();
        made->device = device;
        int code = api.load_module(&made->module, with_end.c_str(), 2, options, values);
        if (code != 0) {
            check(code, "cuModuleLoadDataEx");
            fault += std::string(log[0] ? ": " : "") + log;
            return code;
        }
        made->kernels = ptx_kernel_names(text);
        made->globals = ptx_global_names(text);
        *module = number(made.release());
        return 0;
    }

    int unload_module(unsigned device, object module) override {
        std::unique_ptr<loaded_module> gone(as<loaded_module>(module));
        int code = use(device);
        return code ? code : check(api.unload_module(gone->module), "cuModuleUnload");
    }

    int kernel(object module, uint64_t hash, ucuda_kernel *out, object *kernel) override {
        const loaded_module &from = *as<loaded_module>(module);
        auto named = from.kernels.find(hash);
        if (named == from.kernels.end()) {
            fault = "the module has no such kernel";
            return UCUDA_ENOTFOUND;
        }
        if (int code = use(from.device)) {
            return code;
        }
        auto made = std::make_unique<loaded_kernel>();
        made->device = from.device;
        made->name = named->second;
        int code = check(api.get_function(&made->function, from.module, named->second.c_str()),
            "cuModuleGetFunction");
        if (code != 0) {
            return code;
        }
        *out = {};
        out->static_shared = function_attribute(cu_function_shared, made->function);
        out->max_threads = function_attribute(cu_function_max_threads, made->function);
        out->registers = function_attribute(cu_function_registers, made->function);
        size_t offset, size;
        for (size_t i = 0; api.parameter_info && i < UCUDA_PARAMS
            && api.parameter_info(made->function, i, &offset, &size) == 0;
            i++) {
            out->param[i] = {(uint16_t)offset, (uint16_t)size};
            out->n_params = (uint32_t)i + 1;
            out->param_bytes = (uint32_t)(offset + size);
            made->offsets.push_back((uint32_t)offset);
        }
        *kernel = number(made.release());
        return 0;
    }

    std::string kernel_name(object kernel) const override {
        return as<const loaded_kernel>(kernel)->name;
    }

    int kernel_attribute(object kernel, uint32_t attribute, uint64_t value) override {
        const loaded_kernel &of = *as<loaded_kernel>(kernel);
        bool known =
            attribute == cu_function_max_dynamic_shared || attribute == cu_function_carveout;
        if (!known || value > INT32_MAX) {
            fault = "kernel attribute: not this one, or not this value";
            return UCUDA_EINVAL;
        }
        int code = use(of.device);
        return code ? code
                    : check(api.set_function_attribute(of.function, (int)attribute, (int)value),
                          "cuFuncSetAttribute");
    }

    int occupancy(object kernel, uint32_t threads, uint64_t shared, uint32_t *blocks) override {
        const loaded_kernel &of = *as<loaded_kernel>(kernel);
        if (int code = use(of.device)) {
            return code;
        }
        int count = 0;
        int code = check(api.occupancy(&count, of.function, (int)threads, shared),
            "cuOccupancyMaxActiveBlocksPerMultiprocessor");
        *blocks = (uint32_t)count;
        return code;
    }

    int global(object module, uint64_t hash, uint64_t *address, uint64_t *bytes) override {
        const loaded_module &from = *as<loaded_module>(module);
        auto named = from.globals.find(hash);
        if (named == from.globals.end()) {
            fault = "the module has no such global";
            return UCUDA_ENOTFOUND;
        }
        if (int code = use(from.device)) {
            return code;
        }
        cu_address at = 0;
        size_t size = 0;
        int code = check(api.get_global(&at, &size, from.module, named->second.c_str()),
            "cuModuleGetGlobal");
        *address = at;
        *bytes = size;
        return code;
    }

    int launch(unsigned device, object stream, object kernel, const ucuda_launch &what,
        const void *parameters) override {
        const loaded_kernel &of = *as<loaded_kernel>(kernel);
        if (int code = use(device)) {
            return code;
        }
        const uint32_t *grid = what.grid, *block = what.block;
        cu_stream on = handle<cu_stream>(stream);
        if (what.flags & 1) {
            // This one takes no packed parameters.
            std::vector<void *> each;
            for (uint32_t offset : of.offsets) {
                each.push_back((uint8_t *)const_cast<void *>(parameters) + offset);
            }
            return check(api.launch_cooperative(of.function, grid[0], grid[1], grid[2], block[0],
                             block[1], block[2], what.shared, on, each.data()),
                of.name.c_str());
        }
        size_t bytes = what.param_bytes;
        void *packed[] = {cu_parameters_buffer, const_cast<void *>(parameters), cu_parameters_bytes,
            &bytes, cu_parameters_end};
        return check(api.launch(of.function, grid[0], grid[1], grid[2], block[0], block[1],
                         block[2], what.shared, on, nullptr, bytes ? packed : nullptr),
            of.name.c_str());
    }

    int copy_to_device(unsigned device, object stream, const ucuda_copy &what,
        const void *from) override {
        if (int code = not_capturing(device, stream)) {
            return code;
        }
        cu_stream on = handle<cu_stream>(stream);
        if (what.rows == 1) {
            return check(api.copy_to_device(what.device, from, what.bytes, on),
                "cuMemcpyHtoDAsync");
        }
        cu_copy_2d rows = {};
        rows.from_type = cu_memory_host;
        rows.from_host = from;
        rows.from_pitch = what.host_pitch;
        rows.to_type = cu_memory_device;
        rows.to_device = what.device;
        rows.to_pitch = what.device_pitch;
        return copy_rows(rows, what, on);
    }

    int copy_from_device(unsigned device, object stream, const ucuda_copy &what,
        void *to) override {
        if (int code = not_capturing(device, stream)) {
            return code;
        }
        cu_stream on = handle<cu_stream>(stream);
        if (what.rows == 1) {
            return check(api.copy_from_device(to, what.device, what.bytes, on),
                "cuMemcpyDtoHAsync");
        }
        cu_copy_2d rows = {};
        rows.from_type = cu_memory_device;
        rows.from_device = what.device;
        rows.from_pitch = what.device_pitch;
        rows.to_type = cu_memory_host;
        rows.to_host = to;
        rows.to_pitch = what.host_pitch;
        return copy_rows(rows, what, on);
    }

    int copy_on_device(unsigned device, object stream, const ucuda_copy &what) override {
        if (int code = use(device)) {
            return code;
        }
        cu_stream on = handle<cu_stream>(stream);
        if (what.rows == 1) {
            // By addresses alone, so the two may be of different devices.
            return check(api.copy(what.device, what.host, what.bytes, on), "cuMemcpyAsync");
        }
        cu_copy_2d rows = {};
        rows.from_type = rows.to_type = cu_memory_device;
        rows.from_device = what.host;
        rows.from_pitch = what.host_pitch;
        rows.to_device = what.device;
        rows.to_pitch = what.device_pitch;
        return copy_rows(rows, what, on);
    }

    int set(unsigned device, object stream, const ucuda_set &what) override {
        if (int code = use(device)) {
            return code;
        }
        cu_stream on = handle<cu_stream>(stream);
        size_t count = what.bytes / what.unit;
        int code;
        if (what.rows == 1) {
            code = what.unit == 1 ? api.set_8(what.device, (unsigned char)what.value, count, on)
                : what.unit == 2  ? api.set_16(what.device, (unsigned short)what.value, count, on)
                                  : api.set_32(what.device, what.value, count, on);
        } else {
            code = what.unit == 1 ? api.set_2d_8(what.device, what.pitch, (unsigned char)what.value,
                                        count, what.rows, on)
                : what.unit == 2
                ? api.set_2d_16(what.device, what.pitch, (unsigned short)what.value, count,
                      what.rows, on)
                : api.set_2d_32(what.device, what.pitch, what.value, count, what.rows, on);
        }
        return check(code, "cuMemsetAsync");
    }

    int synchronize(unsigned device, object stream, bool whole_device) override {
        if (int code = use(device)) {
            return code;
        }
        return whole_device
            ? check(api.synchronize_context(), "cuCtxSynchronize")
            : check(api.synchronize(handle<cu_stream>(stream)), "cuStreamSynchronize");
    }

    int create_stream(unsigned device, uint32_t flags, object *stream) override {
        if (int code = use(device)) {
            return code;
        }
        cu_stream made = nullptr;
        int code = check(api.create_stream(&made, flags), "cuStreamCreate");
        *stream = number(made);
        return code;
    }

    int destroy_stream(unsigned device, object stream) override {
        int code = use(device);
        return code ? code
                    : check(api.destroy_stream(handle<cu_stream>(stream)), "cuStreamDestroy");
    }

    int wait_event(unsigned device, object stream, object event) override {
        int code = use(device);
        return code ? code
                    : check(api.wait_event(handle<cu_stream>(stream), handle<cu_event>(event), 0),
                          "cuStreamWaitEvent");
    }

    int create_event(unsigned device, uint32_t flags, object *event) override {
        if (int code = use(device)) {
            return code;
        }
        cu_event made = nullptr;
        int code = check(api.create_event(&made, flags), "cuEventCreate");
        *event = number(made);
        return code;
    }

    int destroy_event(unsigned device, object event) override {
        int code = use(device);
        return code ? code : check(api.destroy_event(handle<cu_event>(event)), "cuEventDestroy");
    }

    int record_event(unsigned device, object stream, object event) override {
        int code = use(device);
        return code ? code
                    : check(api.record_event(handle<cu_event>(event), handle<cu_stream>(stream)),
                          "cuEventRecord");
    }

    int elapsed(object from, object to, float *ms) override {
        int code = check(api.synchronize_event(handle<cu_event>(to)), "cuEventSynchronize");
        return code ? code
                    : check(api.elapsed(ms, handle<cu_event>(from), handle<cu_event>(to)),
                          "cuEventElapsedTime");
    }

    int begin_capture(unsigned device, object stream, uint32_t mode) override {
        int code = use(device);
        return code ? code
                    : check(api.begin_capture(handle<cu_stream>(stream), (int)mode),
                          "cuStreamBeginCapture");
    }

    int end_capture(unsigned device, object stream, object *graph) override {
        if (int code = use(device)) {
            return code;
        }
        cu_graph made = nullptr;
        int code = check(api.end_capture(handle<cu_stream>(stream), &made), "cuStreamEndCapture");
        *graph = number(made);
        return code;
    }

    int make_exec(object graph, object update, object *exec) override {
        if (update) {
            // When the two differ too much, CUDA says so, and the guest makes another one.
            cu_update_result result = {};
            *exec = update;
            return check(
                api.update_exec(handle<cu_graph_exec>(update), handle<cu_graph>(graph), &result),
                "cuGraphExecUpdate");
        }
        cu_graph_exec made = nullptr;
        int code = check(api.instantiate(&made, handle<cu_graph>(graph), 0), "cuGraphInstantiate");
        *exec = number(made);
        return code;
    }

    int launch_exec(unsigned device, object stream, object exec) override {
        int code = use(device);
        return code
            ? code
            : check(api.launch_graph(handle<cu_graph_exec>(exec), handle<cu_stream>(stream)),
                  "cuGraphLaunch");
    }

    int free_graph(object graph) override {
        return check(api.destroy_graph(handle<cu_graph>(graph)), "cuGraphDestroy");
    }

    int free_exec(object exec) override {
        return check(api.destroy_exec(handle<cu_graph_exec>(exec)), "cuGraphExecDestroy");
    }

private:
    std::string words(int code) const {
        const char *name = nullptr, *text = nullptr;
        api.error_name(code, &name);
        api.error_string(code, &text);
        return std::string(name ? name : "?") + ", " + (text ? text : "an unknown error");
    }

    int check(int code, const char *what) {
        if (code != 0) {
            fault = std::string(what) + ": " + words(code);
        }
        return code;
    }

    uint32_t attribute(int which, cu_device of) const {
        int value = 0;
        api.device_attribute(&value, which, of); // 0 where the driver does not know it
        return (uint32_t)value;
    }

    uint32_t function_attribute(int which, cu_function of) const {
        int value = 0;
        api.function_attribute(&value, which, of);
        return (uint32_t)value;
    }

    // Makes the device the calling thread's.
    int use(unsigned device) {
        gpud::device &wanted = all[device];
        if (!wanted.context) {
            int code = check(api.retain_context(&wanted.context, wanted.number),
                "cuDevicePrimaryCtxRetain");
            if (code != 0) {
                wanted.context = nullptr;
                return code;
            }
        }
        if (current == wanted.context) {
            return 0;
        }
        int code = check(api.set_context(wanted.context), "cuCtxSetCurrent");
        current = code == 0 ? wanted.context : nullptr;
        return code;
    }

    // A graph would read host memory whenever it is launched: the guest's record is gone by then.
    int not_capturing(unsigned device, object stream) {
        if (int code = use(device)) {
            return code;
        }
        int status = 0;
        int code =
            check(api.is_capturing(handle<cu_stream>(stream), &status), "cuStreamIsCapturing");
        if (code == 0 && status != 0) {
            fault = "copies from and to the guest cannot be captured";
            return UCUDA_ECAPTURE;
        }
        return code;
    }

    int copy_rows(cu_copy_2d &rows, const ucuda_copy &what, cu_stream on) {
        rows.width = what.bytes;
        rows.height = what.rows;
        return check(api.copy_2d(&rows, on), "cuMemcpy2DAsync");
    }

    const cuda_functions &api;
    std::vector<gpud::device> all;
    cu_context current = nullptr;
};

} // namespace

std::unique_ptr<engine> make_cuda_engine() {
    return std::make_unique<cuda_engine>();
}

} // namespace gpud
