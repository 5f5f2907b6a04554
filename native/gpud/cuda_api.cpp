// cuda_api.cpp: see cuda_api.h.
#include "cuda_api.h"

#include <dlfcn.h>

#include <cstring>
#include <stdexcept>
#include <string>

namespace gpud {

namespace {

cuda_functions open() {
    void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        throw std::runtime_error("no NVIDIA driver on this machine: libcuda.so.1 is missing");
    }
    cuda_functions all;
#define GPUD_FIND(member, name, arguments) \
    all.member = (cu_result(*) arguments)dlsym(library, #name); \
    if (!all.member && strcmp(#name, "cuFuncGetParamInfo") != 0) { \
        throw std::runtime_error("the NVIDIA driver is too old: it has no " #name); \
    }
    GPUD_CUDA_FUNCTIONS(GPUD_FIND)
#undef GPUD_FIND
    return all;
}

} // namespace

const cuda_functions &cuda() {
    static const cuda_functions all = open();
    return all;
}

} // namespace gpud
