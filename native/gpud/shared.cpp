// shared.cpp: see shared.h.
#include "shared.h"

#include <cstring>
#include <ctime>
#include <stdexcept>

namespace gpud {

shared_memory::shared_memory(void *base, size_t bytes)
    : base((uint8_t *)base), bytes((uint32_t)bytes) {
    if (bytes < least_bytes || bytes > (1u << 31) || (bytes & (bytes - 1)) != 0) {
        throw std::runtime_error("shared memory is a power of two from 4 MiB to 2 GiB");
    }
}

ucuda_info shared_memory::describe() const {
    ucuda_info info = {};
    info.magic = UCUDA_MAGIC;
    info.abi_major = UCUDA_ABI_MAJOR;
    info.abi_minor = UCUDA_ABI_MINOR;
    info.bytes_total = bytes;
    info.sq_off = sq_off;
    info.sq_bytes = sq_bytes;
    info.cq_off = cq_off;
    info.cq_count = cq_count;
    info.heap_off = heap_off;
    info.heap_bytes = heap_bytes();
    return info;
}

void shared_memory::begin_epoch(uint32_t epoch) const {
    store(host().state, (uint32_t)UCUDA_STARTING);
    store(host().sq_head, 0u);
    store(host().cq_tail, 0u);
    store(host().asleep, 0u);
    store(host().seq_done, (uint64_t)0);
    store(host().used_bytes, (uint64_t)0);
    store(host().fault_seq, (uint64_t)0);
    store(host().sticky, 0);
    set_fault("");
    store(host().epoch, epoch);
}

void shared_memory::set_fault(std::string_view text) const {
    char words[sizeof(host().fault_text)] = {};
    memcpy(words, text.data(), text.size() < sizeof(words) ? text.size() : sizeof(words) - 1);
    memcpy(host().fault_text, words, sizeof(words));
}

void shared_memory::set_state(uint32_t state, std::string_view text) const {
    set_fault(text);
    store(host().state, state);
}

uint64_t now_ms() {
    timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

} // namespace gpud
