// modules.cpp: a guest's commands on modules, kernels and globals.
#include "commands.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <stdexcept>

#include "../ucuda/abi.h"
#include "pack_file.h"

namespace gpud {

namespace {

std::string hexadecimal(uint64_t value) {
    char words[20];
    snprintf(words, sizeof(words), "#%016llx", (unsigned long long)value);
    return words;
}

} // namespace

int commands::module(const ucuda_call &call, uint64_t ret[2]) {
    if (modules.full()) {
        return fail(UCUDA_ENOMEM, "too many modules");
    }
    try {
        return call.a[3] != 0 ? module_of_text(call, ret) : module_of_pack(call, ret);
    } catch (const std::exception &error) {
        return fail(UCUDA_EIMAGE, "module: %s", error.what());
    }
}

int commands::module_of_text(const ucuda_call &call, uint64_t ret[2]) {
    if (!settings.upload) {
        return fail(UCUDA_ENOTSUPPORTED, "module: gpud takes no PTX from guests (--upload)");
    }
    uint64_t bytes = call.a[3];
    const uint8_t *at = in_heap(call.a[2], bytes);
    if (!at) {
        return fail(UCUDA_EINVAL, "module: not in the heap");
    }
    if (bytes > settings.quota - used_bytes) {
        return fail(UCUDA_ENOMEM, "out of memory: module of %llu bytes", (unsigned long long)bytes);
    }
    // A copy: the engine reads the text more than once, and the guest may write it meanwhile.
    std::string text((const char *)at, bytes);
    module_object made = {call.header.device, nullptr, {}, 0, {}, {}};
    int code = engine.load_module(call.header.device, text, &made.whole);
    if (code == 0) {
        used_bytes += bytes;
        ret[0] = modules.add(std::move(made));
    }
    return from_engine(code, "module");
}

int commands::module_of_pack(const ucuda_call &call, uint64_t ret[2]) {
    const uint8_t *at = in_heap(call.a[1], 32);
    if (!at) {
        return fail(UCUDA_EINVAL, "module: not in the heap");
    }
    if (!settings.pack) {
        return fail(UCUDA_ENOTFOUND, "module: gpud has no pack (--pack)");
    }
    uint8_t sha[32];
    memcpy(sha, at, sizeof(sha));
    const ucuda_device &device = devices[call.header.device];
    const pack_file *file =
        settings.pack->find((uint32_t)call.a[0], sha, device.major * 10 + device.minor);
    if (!file) {
        return fail(UCUDA_ENOTFOUND,
            "module: the pack has no file %llu with that hash for cc %u.%u",
            (unsigned long long)call.a[0], device.major, device.minor);
    }
    module_object made = {call.header.device, file, file->text(), 0, {}, {}};
    int code = 0;
    if (!engine.takes_slices()) {
        code = engine.load_module(call.header.device, made.text, &made.whole);
        made.text.clear();
    }
    if (code == 0) {
        ret[0] = modules.add(std::move(made));
    }
    return from_engine(code, "module");
}

// The engine's module with a kernel: all of the file's, or one of the kernel's own.
int commands::load_slice(module_object &from, uint64_t hash, object *module) {
    if (from.whole) {
        *module = from.whole;
        return 0;
    }
    int index = from.file->find(hash);
    if (index < 0) {
        return fail(UCUDA_ENOTFOUND, "kernel: the module has none of that name");
    }
    object &slice_of = from.slices[hash];
    int code = slice_of
        ? 0
        : engine.load_module(from.device, slice(*from.file, from.text, (unsigned)index), &slice_of);
    *module = slice_of;
    return from_engine(code, "module");
}

int commands::make_kernel(module_object &from, uint64_t hash, ucuda_kernel *what,
    uint32_t *handle) {
    object module = 0, made = 0;
    int code = load_slice(from, hash, &module);
    if (code != 0) {
        return code;
    }
    code = engine.kernel(module, hash, what, &made);
    if (code != 0) {
        return from_engine(code, "kernel");
    }
    if (from.file) {
        int index = from.file->find(hash);
        if (index < 0) {
            return fail(UCUDA_ENOTFOUND, "kernel: the pack does not list it");
        }
        const ptx_pack_kernel &listed = from.file->kernels[index];
        const auto &parameters = from.file->parameters[index];
        if (parameters.size() > UCUDA_PARAMS || listed.param_bytes > UCUDA_PARAM_MAX) {
            return fail(UCUDA_ENOTSUPPORTED, "kernel: too many parameters");
        }
        if (what->n_params != 0 && what->param_bytes != listed.param_bytes) {
            return fail(UCUDA_EIMAGE, "kernel: %u bytes of parameters, the pack says %u",
                what->param_bytes, listed.param_bytes);
        }
        what->n_params = (uint32_t)parameters.size();
        what->param_bytes = listed.param_bytes;
        for (size_t i = 0; i < parameters.size(); i++) {
            what->param[i] = {parameters[i].offset, parameters[i].size};
        }
    }
    *handle = kernels.add({made, from.device, *what,
        engine.kernel_name(made).empty() ? hexadecimal(hash) : engine.kernel_name(made)});
    return *handle ? 0 : fail(UCUDA_ENOMEM, "too many kernels");
}

int commands::kernel(const ucuda_call &call, uint64_t ret[2]) {
    module_object *from = modules.find(call.a[0]);
    uint8_t *to = in_heap(call.a[2], sizeof(ucuda_kernel));
    if (!from) {
        return fail(UCUDA_EHANDLE, "kernel: there is no module %llu",
            (unsigned long long)call.a[0]);
    }
    if (!to) {
        return fail(UCUDA_EINVAL, "kernel: not in the heap");
    }
    ucuda_kernel what = {};
    uint32_t handle = 0;
    auto known = from->kernels.find(call.a[1]);
    if (known != from->kernels.end()) {
        handle = known->second;
        what = kernels.find(handle)->what;
    } else {
        try {
            int code = make_kernel(*from, call.a[1], &what, &handle);
            if (code != 0) {
                return code;
            }
        } catch (const std::exception &error) {
            return fail(UCUDA_EIMAGE, "kernel: %s", error.what());
        }
        from->kernels[call.a[1]] = handle;
    }
    memcpy(to, &what, sizeof(what));
    ret[0] = handle;
    return 0;
}

int commands::kernel_attribute(const ucuda_call &call) {
    const kernel_object *kernel = kernels.find(call.a[0]);
    if (!kernel) {
        return fail(UCUDA_EHANDLE, "kernel attribute: there is no kernel %llu",
            (unsigned long long)call.a[0]);
    }
    if (call.a[3] != 1) {
        return fail(UCUDA_ENOTSUPPORTED, "kernel attribute: what can be known, KERNEL answered");
    }
    return from_engine(engine.kernel_attribute(kernel->kernel, (uint32_t)call.a[1], call.a[2]),
        "kernel attribute");
}

int commands::occupancy(const ucuda_call &call, uint64_t ret[2]) {
    const kernel_object *kernel = kernels.find(call.a[0]);
    if (!kernel) {
        return fail(UCUDA_EHANDLE, "occupancy: there is no kernel %llu",
            (unsigned long long)call.a[0]);
    }
    const ucuda_device &device = devices[kernel->device];
    if (call.a[1] == 0 || call.a[1] > device.threads_per_block
        || call.a[2] > device.shared_per_block_optin) {
        return fail(UCUDA_EINVAL, "occupancy: %llu threads, %llu bytes",
            (unsigned long long)call.a[1], (unsigned long long)call.a[2]);
    }
    uint32_t blocks = 0;
    int code = engine.occupancy(kernel->kernel, (uint32_t)call.a[1], call.a[2], &blocks);
    ret[0] = blocks;
    return from_engine(code, "occupancy");
}

int commands::global(const ucuda_call &call, uint64_t ret[2]) {
    const module_object *from = modules.find(call.a[0]);
    if (!from) {
        return fail(UCUDA_EHANDLE, "global: there is no module %llu",
            (unsigned long long)call.a[0]);
    }
    if (!from->whole) {
        // Each kernel has its own copy of the globals that it names.
        return fail(UCUDA_ENOTSUPPORTED, "global: not of a pack's module");
    }
    uint64_t address = 0, bytes = 0;
    int code = engine.global(from->whole, call.a[1], &address, &bytes);
    if (code != 0) {
        return from_engine(code, "global");
    }
    regions[address] = {bytes, from->device, true};
    ret[0] = address;
    ret[1] = bytes;
    return 0;
}

} // namespace gpud
