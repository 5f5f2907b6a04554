// fake_ptx.cpp: an interpreter that understands one kernel, for tests of gpud under sanitizers:
// native/ptx takes minutes to compile so. Device memory is the heap's, so each access outside an
// allocation is seen.
//
// Every text is a module with the kernel `fill(pointer, count, value)` and the global `table`.
#include "../../../native/ptx/ptx.h"

#include <cstdlib>
#include <cstring>
#include <stdexcept>

#include "../../../native/ucuda/abi.h"

namespace ptx {

struct code {};

struct memory::state {
    uint64_t quota, used = 0;
    std::map<uint64_t, uint64_t> allocations;
};

memory::memory(uint64_t quota) : s(new state{quota, 0, {}}) {}

memory::~memory() {
    for (const auto &[address, bytes] : s->allocations) {
        ::free((void *)address);
    }
}

uint64_t memory::alloc(uint64_t bytes) {
    if (bytes > s->quota - s->used) {
        return 0;
    }
    void *made = malloc(bytes);
    memset(made, 0xa5, bytes);
    s->used += bytes;
    s->allocations[(uint64_t)made] = bytes;
    return (uint64_t)made;
}

bool memory::free(uint64_t address) {
    auto found = s->allocations.find(address);
    if (found == s->allocations.end()) {
        return false;
    }
    s->used -= found->second;
    ::free((void *)address);
    s->allocations.erase(found);
    return true;
}

bool memory::holds(uint64_t address, uint64_t bytes) const {
    for (const auto &[start, length] : s->allocations) {
        if (address >= start && address - start <= length && bytes <= length - (address - start)) {
            return true;
        }
    }
    return false;
}

uint64_t memory::quota() const {
    return s->quota;
}

uint64_t memory::used() const {
    return s->used;
}

struct module::state {
    kernel fill;
    uint64_t table;
};

module::module(std::string text, memory &mem) : s(new state{}) {
    if (text.size() < 4) {
        throw std::runtime_error("line 1: no module");
    }
    s->fill = {"fill", {{0, 8}, {8, 4}, {12, 4}}, 16, 1024, 512, 8, nullptr};
    s->table = mem.alloc(64);
}

module::~module() = default;

const kernel *module::find(std::string_view name) {
    return name == "fill" ? &s->fill : nullptr;
}

const kernel *module::find_hash(uint64_t hash) {
    return hash == ucuda_name_hash("fill") ? &s->fill : nullptr;
}

std::vector<std::string> module::kernels() const {
    return {"fill"};
}

bool module::global(uint64_t hash, uint64_t *address, uint64_t *bytes) const {
    *address = s->table;
    *bytes = 64;
    return s->table && hash == ucuda_name_hash("table");
}

bool run(const launch &what, memory &mem, const limits &, fault &out, uint64_t *) {
    struct {
        uint64_t pointer;
        uint32_t count, value;
    } p;
    memcpy(&p, what.parameters, sizeof(p));
    if (!mem.holds(p.pointer, p.count)) {
        out = {UCUDA_EADDRESS, "fill, block (0,0,0), thread (0,0,0): not in an allocation"};
        return false;
    }
    memset((void *)p.pointer, (int)p.value, p.count);
    return true;
}

} // namespace ptx
