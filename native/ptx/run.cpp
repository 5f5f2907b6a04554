// run.cpp: launches: blocks are handed to threads of this machine in order.
#include <cpuid.h>
#include <immintrin.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <thread>

#include "code.h"
#include "memory_map.h"

namespace ptx {

namespace {

constexpr uint32_t max_shared = 1 << 20;

// Memory for a block's state, kept for the next launch: fresh pages are dear.
class arena {
public:
    arena() = default;
    arena(arena &&other) noexcept : data(other.data), size(other.size) {
        other.data = nullptr;
        other.size = 0;
    }
    ~arena() { ::free(data); }
    arena &operator=(arena &&) = delete;
    size_t bytes() const { return size; }
    void swap(arena &other) noexcept {
        std::swap(data, other.data);
        std::swap(size, other.size);
    }
    uint8_t *get(size_t bytes) {
        if (bytes > size) {
            ::free(data);
            size = 0;
            const size_t room = (bytes + 4095) & ~size_t(4095);
            data = static_cast<uint8_t *>(aligned_alloc(4096, room));
            if (!data) {
                throw std::bad_alloc();
            }
            memset(data, 0, room);
            size = room;
        }
        return data;
    }

private:
    uint8_t *data = nullptr;
    size_t size = 0;
};

// Never destroyed: a library may be unloaded before the process ends.
struct arena_store {
    static constexpr size_t max = 8;
    static constexpr size_t max_bytes = 64 << 20; // of one that is kept
    std::mutex lock;
    std::vector<arena> all;

    arena_store() { all.reserve(max); }
    static arena_store &get() {
        static arena_store &one = *new arena_store;
        return one;
    }
};

class borrowed_arena {
public:
    borrowed_arena() {
        arena_store &store = arena_store::get();
        const std::lock_guard<std::mutex> lock(store.lock);
        if (!store.all.empty()) {
            held.swap(store.all.back());
            store.all.pop_back();
        }
    }
    ~borrowed_arena() {
        arena_store &store = arena_store::get();
        const std::lock_guard<std::mutex> lock(store.lock);
        if (store.all.size() < arena_store::max && held.bytes() <= arena_store::max_bytes) {
            store.all.emplace_back().swap(held);
        }
    }
    borrowed_arena(const borrowed_arena &) = delete;
    borrowed_arena &operator=(const borrowed_arena &) = delete;
    arena held;
};

// What the threads of a launch share.
struct grid {
    const launch &what;
    const code &body;
    const std::vector<interval> &allocations;
    const limits &l;
    uint64_t blocks = 0;
    uint32_t threads = 0;
    std::atomic<uint64_t> next{0}, lanes{0};
    std::atomic<bool> failed{false};
    std::mutex lock;
    fault &out;

    // The first failure counts. `text` follows `name`.
    void fail(int code, const std::string &name, const char *text = "") noexcept {
        const std::lock_guard<std::mutex> guard(lock);
        if (failed.exchange(true)) {
            return;
        }
        out.code = code;
        try {
            out.text = name + text;
        } catch (const std::exception &) { // the code must do
        }
    }
};

size_t round_up(size_t value, size_t to) {
    return (value + to - 1) / to * to;
}

void set_special(block &b, const grid &g, const special_register &s) {
    uint32_t *out = b.at<uint32_t>(s.place);
    const uint32_t *size = b.block_size, *count = g.what.grid;
    for (uint32_t i = 0; i < b.threads; ++i) {
        const uint32_t lane = i & 31, bit = uint32_t(1) << lane;
        const uint32_t values[size_t(special::count)] = {
            i % size[0],
            i / size[0] % size[1],
            i / size[0] / size[1],
            size[0],
            size[1],
            size[2],
            b.index[0],
            b.index[1],
            b.index[2],
            count[0],
            count[1],
            count[2],
            lane,
            i / 32,
            (b.threads + 31) / 32,
            bit,
            bit - 1,
            bit | (bit - 1),
            ~(bit | (bit - 1)),
            ~(bit - 1),
            g.what.shared,
            b.shared_bytes,
            0,
        };
        out[i] = values[size_t(s.what)];
    }
}

bool is_per_block(special s) {
    return s == special::ctaid_x || s == special::ctaid_y || s == special::ctaid_z;
}

void fill_constants(block &b) {
    for (const constant &c : b.what->constants) {
        uint8_t *to = b.file + c.place * b.stride;
        for (uint32_t i = 0; i < b.threads; ++i) {
            memcpy(to + size_t(i) * c.size, &c.bits, c.size);
        }
    }
}

struct layout {
    size_t file, shared, local, param, total;
    size_t stride, local_stride;
    uint32_t shared_bytes;
};

layout layout_of(const grid &g) {
    layout out = {};
    out.stride = round_up(g.threads, 64);
    out.local_stride = round_up(g.body.local_bytes, 16);
    out.shared_bytes = g.what.shared ? g.body.dynamic_start + g.what.shared : g.body.static_shared;
    out.file = 0;
    out.shared = round_up(g.body.units * out.stride + 64, 256);
    out.local = round_up(out.shared + out.shared_bytes, 256);
    out.param = round_up(out.local + g.threads * out.local_stride, 256);
    out.total = out.param + g.body.parameter_bytes + 256;
    return out;
}

void set_up(block &b, const grid &g, uint8_t *base, const layout &at, uint32_t *near) {
    b.what = &g.body;
    b.threads = g.threads;
    b.stride = at.stride;
    b.file = base + at.file;
    b.shared = base + at.shared;
    b.shared_bytes = at.shared_bytes;
    b.local = base + at.local;
    b.local_stride = at.local_stride;
    b.local_bytes = g.body.local_bytes;
    b.param = base + at.param;
    b.param_bytes = g.body.parameter_bytes;
    if (b.param_bytes) {
        memcpy(base + at.param, g.what.parameters, b.param_bytes);
    }
    b.allocations = g.allocations.data();
    b.n_allocations = g.allocations.size();
    b.near = near;
    b.stop = g.l.stop;
    std::copy_n(g.what.block, 3, b.block_size);
    const size_t lanes = at.stride;
    b.pcs.assign(lanes, 0);
    b.listed.assign(lanes, 0);
    b.guarded.assign(lanes, 0);
    b.chosen.assign(lanes, 0);
    b.scratch.assign(lanes, 0);
    fill_constants(b);
    for (const special_register &s : g.body.specials) {
        set_special(b, g, s);
    }
}

void run_one(block &b, grid &g, uint64_t number) {
    b.index[0] = uint32_t(number % g.what.grid[0]);
    b.index[1] = uint32_t(number / g.what.grid[0] % g.what.grid[1]);
    b.index[2] = uint32_t(number / g.what.grid[0] / g.what.grid[1]);
    for (const special_register &s : g.body.specials) {
        if (is_per_block(s.what)) {
            uint32_t *out = b.at<uint32_t>(s.place);
            std::fill_n(out, b.threads, b.index[size_t(s.what) - size_t(special::ctaid_x)]);
        }
    }
    memset(b.shared, 0xA5, b.shared_bytes);
    memset(b.local, 0xA5, b.threads * b.local_stride);
    if (!execute(b)) {
        g.fail(b.error.code, b.error.text);
    }
}

void work(grid &g) {
    const unsigned mxcsr = _mm_getcsr();
    try {
        const layout at = layout_of(g);
        borrowed_arena memory;
        std::vector<uint32_t> near(g.body.slots);
        block b;
        set_up(b, g, memory.held.get(at.total), at, near.data());
        while (!g.failed.load(std::memory_order_relaxed)) {
            const uint64_t number = g.next.fetch_add(1, std::memory_order_relaxed);
            if (number >= g.blocks) {
                break;
            }
            if (g.l.stop && g.l.stop->load(std::memory_order_relaxed)) {
                g.fail(702, g.body.name, ": the launch took too long and was stopped");
                break;
            }
            run_one(b, g, number);
        }
        g.lanes += b.lanes;
    } catch (const std::bad_alloc &) {
        g.fail(2, g.body.name, ": no memory for a block's registers");
    } catch (const std::exception &) {
        g.fail(999, g.body.name, ": the interpreter failed");
    }
    _mm_setcsr(mxcsr);
}

// With FMA and F16C. Intel SDM vol. 2, CPUID: leaf 1 ECX, leaf 7 EBX.
bool has_avx2() {
    static const bool has = [] {
        unsigned a, b, c = 0, d, b7 = 0, ignored;
        return __get_cpuid(1, &a, &b, &c, &d) && c >> 12 & c >> 27 & c >> 29 & 1
            && __get_cpuid_count(7, 0, &a, &b7, &ignored, &d) && b7 >> 5 & 1;
    }();
    return has;
}

// A sentence for what is wrong with the launch, and its code.
const char *wrong_with(const launch &what, int *code) {
    *code = 1;
    const auto &body = what.what->body;
    const uint64_t plane = uint64_t(what.block[0]) * what.block[1];
    if (!body) {
        return "the kernel has no code";
    }
    if (what.cooperative) {
        *code = 801;
        return "cooperative launches are not supported";
    }
    if (!has_avx2()) {
        *code = 801;
        return "the interpreter needs a processor with AVX2";
    }
    for (int i = 0; i < 3; ++i) {
        if (!what.grid[i] || !what.block[i]) {
            return "a dimension is 0";
        }
        if (body->required_threads[i] && body->required_threads[i] != what.block[i]) {
            return "the block is not of the kernel's .reqntid";
        }
    }
    if (what.grid[0] > INT32_MAX || what.grid[1] > 65535 || what.grid[2] > 65535) {
        return "the grid is too large";
    }
    if (plane > 1024 || plane * what.block[2] > 1024 || what.block[2] > 64) {
        return "the block has too many threads";
    }
    if (plane * what.block[2] > body->max_threads) {
        *code = 701;
        return "the block has more threads than the kernel's .maxntid";
    }
    if (what.shared > max_shared || body->dynamic_start + what.shared > max_shared) {
        return "too much shared memory";
    }
    if (body->parameter_bytes && !what.parameters) {
        return "the parameters are missing";
    }
    return nullptr;
}

} // namespace

bool run(const launch &what, memory &mem, const limits &l, fault &out, uint64_t *lanes) {
    try {
        int code;
        if (const char *wrong = wrong_with(what, &code)) {
            out.code = code;
            out.text = what.what->name + ": " + wrong;
            return false;
        }
        const std::vector<interval> allocations = memory_map::of(mem);
        grid g{what, *what.what->body, allocations, l, 0, 0, {}, {}, {}, {}, out};
        g.blocks = uint64_t(what.grid[0]) * what.grid[1] * what.grid[2];
        g.threads = what.block[0] * what.block[1] * what.block[2];
        std::vector<std::thread> helpers;
        const uint64_t wanted = std::min<uint64_t>(std::max(l.threads, 1u), g.blocks);
        try {
            for (uint64_t i = 1; i < wanted; ++i) {
                helpers.emplace_back(work, std::ref(g));
            }
        } catch (const std::exception &) { // fewer threads do as well
        }
        work(g);
        for (std::thread &one : helpers) {
            one.join();
        }
        if (lanes) {
            *lanes += g.lanes;
        }
        return !g.failed;
    } catch (const std::exception &e) {
        out.code = 2;
        try {
            out.text = e.what();
        } catch (...) {
        }
        return false;
    }
}

} // namespace ptx
