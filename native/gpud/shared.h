// shared.h: gpud's end of the memory that it shares with a guest (native/ucuda/abi.h).
//
// The guest may write all of it at any time, gpud's own pages too. So gpud keeps its numbers in
// variables of its own, publishes them here, and never reads them back.
#ifndef CLLM_GPUD_SHARED_H
#define CLLM_GPUD_SHARED_H

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "../ucuda/abi.h"

namespace gpud {

template <typename T> T load(const T &field) {
    return __atomic_load_n(&field, __ATOMIC_ACQUIRE);
}

template <typename T> void store(T &field, T value) {
    __atomic_store_n(&field, value, __ATOMIC_RELEASE);
}

class shared_memory {
public:
    // bytes: a power of two from least_bytes on; else throws std::runtime_error. Writes nothing.
    shared_memory(void *base, size_t bytes);
    static constexpr size_t least_bytes = 4 << 20;

    // What page 0 says of the layout; the caller adds the rest and stores it.
    ucuda_info describe() const;

    ucuda_info &info() const { return *(ucuda_info *)base; }
    ucuda_guest &guest() const { return *(ucuda_guest *)(base + UCUDA_PAGE); }
    ucuda_host &host() const { return *(ucuda_host *)(base + 2 * UCUDA_PAGE); }
    uint8_t *sq() const { return base + sq_off; }
    ucuda_completion *cq() const { return (ucuda_completion *)(base + cq_off); }
    uint8_t *heap() const { return base + heap_off; }
    uint32_t heap_bytes() const { return bytes - heap_off; }

    static constexpr uint32_t sq_off = 64 << 10, sq_bytes = 1 << 20;
    static constexpr uint32_t cq_off = sq_off + sq_bytes, cq_count = 4096;
    static constexpr uint32_t heap_off = 2 << 20;
    static_assert(cq_off + cq_count * sizeof(ucuda_completion) <= heap_off);

    // Starts an epoch: rings empty, nothing failed, state UCUDA_STARTING. No worker runs.
    void begin_epoch(uint32_t epoch) const;
    // The text first, then the state.
    void set_state(uint32_t state, std::string_view text) const;
    void set_fault(std::string_view text) const;

private:
    uint8_t *base;
    uint32_t bytes;
};

// Milliseconds of a clock that only goes forward.
uint64_t now_ms();

} // namespace gpud

#endif
