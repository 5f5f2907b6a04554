// c_api.cpp: the interpreter for tests, which load it with cffi. Errors come as text.
#include <cstring>

#include "ptx.h"

extern "C" {

struct ptx_state {
    explicit ptx_state(uint64_t quota) : mem(quota) {}
    ptx::memory mem;
    std::atomic<bool> stop{false};
    std::string error;
    uint64_t lanes = 0;
};

ptx_state *ptx_open(uint64_t quota) {
    return new ptx_state(quota);
}

void ptx_close(ptx_state *s) {
    delete s;
}

const char *ptx_error(ptx_state *s) {
    return s->error.c_str();
}

uint64_t ptx_alloc(ptx_state *s, uint64_t bytes) {
    return s->mem.alloc(bytes);
}

int ptx_free(ptx_state *s, uint64_t address) {
    return s->mem.free(address);
}

int ptx_holds(ptx_state *s, uint64_t address, uint64_t bytes) {
    return s->mem.holds(address, bytes);
}

uint64_t ptx_used(ptx_state *s) {
    return s->mem.used();
}

uint64_t ptx_lanes(ptx_state *s) {
    return s->lanes;
}

void ptx_stop(ptx_state *s, int stop) {
    s->stop = stop;
}

void ptx_write(uint64_t address, const void *from, uint64_t bytes) {
    memcpy(reinterpret_cast<void *>(address), from, bytes);
}

void ptx_read(uint64_t address, void *to, uint64_t bytes) {
    memcpy(to, reinterpret_cast<const void *>(address), bytes);
}

ptx::module *ptx_load(ptx_state *s, const char *text, uint64_t bytes) {
    try {
        return new ptx::module(std::string(text, bytes), s->mem);
    } catch (const std::exception &e) {
        s->error = e.what();
        return nullptr;
    }
}

void ptx_unload(ptx::module *m) {
    delete m;
}

const ptx::kernel *ptx_kernel(ptx_state *s, ptx::module *m, const char *name) {
    try {
        s->error = "no such kernel";
        return m->find(name);
    } catch (const std::exception &e) {
        s->error = e.what();
        return nullptr;
    }
}

const ptx::kernel *ptx_kernel_hash(ptx_state *s, ptx::module *m, uint64_t hash) {
    try {
        s->error = "no such kernel";
        return m->find_hash(hash);
    } catch (const std::exception &e) {
        s->error = e.what();
        return nullptr;
    }
}

// The names, a line each. Valid until the next call.
const char *ptx_kernels(ptx_state *s, ptx::module *m) {
    s->error.clear();
    for (const std::string &name : m->kernels()) {
        s->error += name + "\n";
    }
    return s->error.c_str();
}

int ptx_global(ptx::module *m, uint64_t hash, uint64_t *address, uint64_t *bytes) {
    return m->global(hash, address, bytes);
}

void ptx_describe(const ptx::kernel *k, uint32_t out[5]) {
    const uint32_t all[5] = {uint32_t(k->parameters.size()), k->parameter_bytes, k->static_shared,
        k->max_threads, k->registers};
    memcpy(out, all, sizeof(all));
}

void ptx_parameter(const ptx::kernel *k, uint32_t index, uint32_t out[2]) {
    out[0] = k->parameters.at(index).offset;
    out[1] = k->parameters.at(index).size;
}

// dims: grid, then block.
int ptx_run(ptx_state *s, const ptx::kernel *k, const uint32_t dims[6], uint32_t shared,
    const void *parameters, unsigned threads, int cooperative) {
    ptx::launch what = {};
    what.what = k;
    memcpy(what.grid, dims, sizeof(what.grid));
    memcpy(what.block, dims + 3, sizeof(what.block));
    what.shared = shared;
    what.parameters = parameters;
    what.cooperative = cooperative;
    ptx::limits l;
    l.threads = threads;
    l.stop = &s->stop;
    ptx::fault f;
    const bool good = ptx::run(what, s->mem, l, f, &s->lanes);
    s->error = f.text;
    return good ? 0 : f.code;
}

} // extern "C"
