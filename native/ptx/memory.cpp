// memory.cpp: a device's global memory, and the map of what is allocated.
#include "memory_map.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>

#include "ptx.h"

namespace ptx {

namespace {

constexpr uint64_t alignment = 256;
constexpr uint64_t guard = 256;   // bytes behind each allocation, so that neighbours never touch
constexpr uint64_t big = 1 << 20; // from here by mmap, which takes memory as it is touched

} // namespace

memory::memory(uint64_t quota) : s(std::make_unique<state>()) {
    s->quota = quota;
}

memory::~memory() {
    for (const auto &one : s->all) {
        s->release(one);
    }
}

void memory::state::release(const allocation &one) {
    if (one.mapped) {
        munmap(one.base, one.mapped);
    } else {
        ::free(one.base);
    }
}

uint64_t memory::alloc(uint64_t bytes) {
    const std::lock_guard<std::mutex> lock(s->lock);
    if (!bytes || bytes > s->quota - std::min(s->quota, s->used) || bytes > UINT64_MAX / 4) {
        return 0;
    }
    const uint64_t room = (bytes + guard + alignment - 1) & ~(alignment - 1);
    state::allocation made = {};
    if (room >= big) {
        made.base = mmap(nullptr, room, PROT_READ | PROT_WRITE,
            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        made.mapped = room;
        if (made.base == MAP_FAILED) {
            return 0;
        }
    } else if (!(made.base = aligned_alloc(alignment, room))) {
        return 0;
    }
    memset(made.base, 0xA5, room);
    made.start = reinterpret_cast<uint64_t>(made.base);
    made.end = made.start + bytes;
    try {
        s->all.insert(s->after(made.start), made);
    } catch (const std::bad_alloc &) {
        s->release(made);
        return 0;
    }
    s->used += bytes;
    return made.start;
}

bool memory::free(uint64_t address) {
    const std::lock_guard<std::mutex> lock(s->lock);
    const auto it = s->after(address);
    if (it == s->all.begin() || (it - 1)->start != address) {
        return false;
    }
    s->used -= (it - 1)->end - (it - 1)->start;
    s->release(*(it - 1));
    s->all.erase(it - 1);
    return true;
}

bool memory::holds(uint64_t address, uint64_t bytes) const {
    const std::lock_guard<std::mutex> lock(s->lock);
    const auto it = s->after(address);
    if (it == s->all.begin()) {
        return false;
    }
    return address <= (it - 1)->end && bytes <= (it - 1)->end - address;
}

uint64_t memory::quota() const {
    return s->quota;
}

uint64_t memory::used() const {
    const std::lock_guard<std::mutex> lock(s->lock);
    return s->used;
}

std::vector<interval> memory_map::of(memory &mem) {
    const std::lock_guard<std::mutex> lock(mem.s->lock);
    std::vector<interval> out;
    out.reserve(mem.s->all.size());
    for (const auto &one : mem.s->all) {
        out.push_back({one.start, one.end});
    }
    return out;
}

} // namespace ptx
