// ptx.h: an interpreter of PTX, NVIDIA's virtual instruction set, for machines without a card.
//
// It runs what clang makes of ggml-cuda, one block at a time and each instruction over all of the
// block's lanes. Every access is checked against what was allocated, and fresh memory is poisoned:
// a kernel that a card would forgive fails here, with the place.
//
// Source: Parallel Thread Execution ISA, version 8.5; sections are cited where they are followed.
#ifndef CLLM_PTX_H
#define CLLM_PTX_H

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace ptx {

// A device's global memory. Addresses are the process's own, so that a copy is a memcpy.
class memory {
public:
    explicit memory(uint64_t quota); // bytes
    ~memory();
    memory(const memory &) = delete;
    memory &operator=(const memory &) = delete;

    // Poisoned with 0xA5, at a multiple of 256. 0: more than the quota, or than the machine has.
    uint64_t alloc(uint64_t bytes);
    bool free(uint64_t address); // false: not what alloc() returned
    // Whether [address, address + bytes) lies in one allocation.
    bool holds(uint64_t address, uint64_t bytes) const;
    uint64_t quota() const;
    uint64_t used() const;

private:
    struct state;
    std::unique_ptr<state> s;
    friend struct memory_map;
};

struct parameter {
    uint16_t offset, size; // bytes
};

struct code; // decoded instructions

struct kernel {
    std::string name; // as in the text
    std::vector<parameter> parameters;
    uint32_t parameter_bytes;
    uint32_t static_shared; // bytes
    uint32_t max_threads;   // .maxntid, else 1024
    uint32_t registers;     // 32-bit registers that the text names; no more than an estimate
    std::shared_ptr<const code> body; // decoded when it is first asked for
};

// A module: the kernels and globals of a PTX text. Throws std::runtime_error with the line for what
// cannot be parsed, or has an instruction that is not known.
class module {
public:
    // Globals are allocated in `mem`, which outlives the module.
    module(std::string text, memory &mem);
    ~module();
    module(const module &) = delete;
    module &operator=(const module &) = delete;

    const kernel *find(std::string_view name);
    const kernel *find_hash(uint64_t hash); // ucuda_name_hash()
    std::vector<std::string> kernels() const;
    // False: no such global.
    bool global(uint64_t hash, uint64_t *address, uint64_t *bytes) const;

private:
    struct state;
    std::unique_ptr<state> s;
};

struct launch {
    const ptx::kernel *what;
    uint32_t grid[3], block[3];
    uint32_t shared; // dynamic, bytes
    const void *parameters;
    bool cooperative;
};

// CUresult and a sentence with kernel, block, thread and address.
struct fault {
    int code = 0;
    std::string text;
};

struct limits {
    unsigned threads = 1;                    // of this machine, which share the grid's blocks
    const std::atomic<bool> *stop = nullptr; // becomes true when the launch is to end
};

// Runs all blocks. False: `out` says why, and what the kernel has written so far stays. `lanes`, if
// given, counts up by the lane-instructions executed.
bool run(const launch &what, memory &mem, const limits &l, fault &out, uint64_t *lanes = nullptr);

} // namespace ptx

#endif
