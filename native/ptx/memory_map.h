// memory_map.h: the inside of ptx::memory, for the runner.
#ifndef CLLM_PTX_MEMORY_MAP_H
#define CLLM_PTX_MEMORY_MAP_H

#include <algorithm>
#include <cstdlib>
#include <mutex>
#include <vector>

#include "code.h"

namespace ptx {

struct memory::state {
    struct allocation {
        uint64_t start, end;
        void *base;
        size_t mapped; // bytes by mmap; 0: by aligned_alloc
    };
    mutable std::mutex lock;
    std::vector<allocation> all; // sorted
    uint64_t quota = 0, used = 0;

    std::vector<allocation>::iterator after(uint64_t address) {
        return std::upper_bound(all.begin(), all.end(), address,
            [](uint64_t value, const allocation &one) { return value < one.start; });
    }
    void release(const allocation &one);
};

struct memory_map {
    static std::vector<interval> of(memory &mem); // sorted
};

} // namespace ptx

#endif
