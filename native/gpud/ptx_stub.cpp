// ptx_stub.cpp: memory without an interpreter, until native/ptx is there.
#include "../ptx/ptx.h"
#include <cstdlib>
#include <cstring>
#include <stdexcept>
namespace ptx {
struct code {};
struct memory::state {
    uint64_t quota, used = 0;
    std::map<uint64_t, uint64_t> m;
};
memory::memory(uint64_t q) : s(new state{q, 0, {}}) {}
memory::~memory() {
    for (auto &e : s->m)
        ::free((void *)e.first);
}
uint64_t memory::alloc(uint64_t b) {
    if (b > s->quota - s->used)
        return 0;
    void *p = aligned_alloc(256, (b + 255) & ~255ull);
    if (!p)
        return 0;
    memset(p, 0xa5, b);
    s->used += b;
    s->m[(uint64_t)p] = b;
    return (uint64_t)p;
}
bool memory::free(uint64_t a) {
    auto f = s->m.find(a);
    if (f == s->m.end())
        return false;
    s->used -= f->second;
    s->m.erase(f);
    ::free((void *)a);
    return true;
}
bool memory::holds(uint64_t, uint64_t) const {
    return true;
}
uint64_t memory::quota() const {
    return s->quota;
}
uint64_t memory::used() const {
    return s->used;
}
struct module::state {};
module::module(std::string, memory &) {
    throw std::runtime_error("no interpreter yet");
}
module::~module() {}
const kernel *module::find(std::string_view) {
    return nullptr;
}
const kernel *module::find_hash(uint64_t) {
    return nullptr;
}
std::vector<std::string> module::kernels() const {
    return {};
}
bool module::global(uint64_t, uint64_t *, uint64_t *) const {
    return false;
}
bool run(const launch &, memory &, const limits &, fault &, uint64_t *) {
    return false;
}
}
