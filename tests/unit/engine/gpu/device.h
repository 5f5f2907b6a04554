// device.h: the GPU under program.cpp. loop.cpp has gpud's worker with the interpreter of PTX and
// ggml-cuda above it; fake.cpp a backend of ggml that computes on the CPU, where there is no CUDA.
#ifndef CLLM_TESTS_DEVICE_H
#define CLLM_TESTS_DEVICE_H

#include <cstdint>
#include <string>

struct device_options {
    uint64_t quota = UINT64_C(1) << 30; // bytes of device memory
    unsigned major = 6, minor = 1;      // compute capability
    std::string pack;                   // file
};

// As ucuda_open(), with an empty device. 100 for none.
int connect_device(const device_options &options);

// Nothing answers any more.
void lose_device();

// A command fails for good.
void break_device();

#endif // CLLM_TESTS_DEVICE_H
