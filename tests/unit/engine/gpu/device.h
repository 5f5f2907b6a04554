// device.h: the GPU under program.cpp. socket.cpp has ggml-cuda and a gpud that listens; fake.cpp a
// backend of ggml that computes on the CPU, where there is no CUDA.
#ifndef CLLM_TESTS_DEVICE_H
#define CLLM_TESTS_DEVICE_H

#include <cstdint>
#include <string>

struct device_options {
    std::string socket;
    // Of the fake:
    uint64_t quota = UINT64_C(1) << 30; // bytes of device memory
    unsigned major = 6, minor = 1;      // compute capability
};

// As ucuda_open(), with an empty device. 100 for none.
int connect_device(const device_options &options);

// The fake one: nothing answers any more.
void lose_device();

// A command fails for good.
void break_device();

// Uses up memory until no more than `left` bytes are free.
void fill_device(uint64_t left);

#endif // CLLM_TESTS_DEVICE_H
