// code.h: decoded instructions, and the state of the block that executes them.
//
// A block's lanes are its threads. A register is an array with an element per lane; each
// instruction is one loop over the lanes that are active. Where lanes part, those with the
// smallest program counter go first and the others wait, so that all meet where paths join.
#ifndef CLLM_PTX_CODE_H
#define CLLM_PTX_CODE_H

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "ptx.h"

namespace ptx {

struct block;
struct op;
using step = void (*)(block &, const op &);

enum class space : uint8_t { generic, global, shared, local, param };

// Registers are named by their place in the register file: bytes per lane that lie before them.
constexpr uint32_t no_place = UINT32_MAX;

struct op {
    step run = nullptr;
    uint32_t d = no_place, a = no_place, b = no_place, c = no_place, e = no_place;
    uint32_t target = 0; // program counter; index of a table
    uint32_t line = 0;
    uint32_t slot = 0; // of memory operations: where the last allocation is remembered
    uint32_t mode = 0; // by instruction
    ptx::space space = ptx::space::generic;
    uint8_t bytes = 0; // of one access
    uint8_t align = 0;
    bool flag = false;
    int64_t offset = 0; // of an address; an immediate
};

enum class special : uint8_t {
    tid_x,
    tid_y,
    tid_z,
    ntid_x,
    ntid_y,
    ntid_z,
    ctaid_x,
    ctaid_y,
    ctaid_z,
    nctaid_x,
    nctaid_y,
    nctaid_z,
    laneid,
    warpid,
    nwarpid,
    lanemask_eq,
    lanemask_lt,
    lanemask_le,
    lanemask_gt,
    lanemask_ge,
    dynamic_smem_size,
    total_smem_size,
    zero, // %smid, %clock where nothing depends on it
    count
};

struct constant {
    uint32_t place;
    uint32_t size;
    uint64_t bits;
};

struct special_register {
    uint32_t place;
    special what;
};

struct code {
    std::string name;
    std::vector<op> ops; // ends with an exit
    std::vector<constant> constants;
    std::vector<special_register> specials;
    std::vector<std::vector<uint32_t>> tables; // of brx.idx
    uint32_t units = 0;                        // bytes per lane of the register file
    uint32_t slots = 0;
    uint32_t local_bytes = 0; // per lane
    uint32_t static_shared = 0;
    uint32_t dynamic_start = 0; // of dynamic shared memory: static_shared, aligned
    uint32_t parameter_bytes = 0;
    uint32_t max_threads = 1024;
    uint32_t required_threads[3] = {0, 0, 0}; // .reqntid
};

struct interval {
    uint64_t start, end;
};

// Bits of a lane's entry in block::pcs beyond its program counter. They order lanes: those that can
// run first, those that wait for their warp, those at a barrier, those that are gone.
enum : uint32_t {
    at_warp = 0x80000000,
    at_barrier = 0xc0000000,
    gone = 0xffffffff,
    pc_mask = 0x3fffffff,
};

// One block at work. Each of the launch's threads has one and runs block after block with it.
struct block {
    // The lanes that run: list[0 ... count), or first ... first + count without a list.
    const uint32_t *list = nullptr;
    uint32_t first = 0, count = 0;
    uint32_t pc = 0;
    uint32_t wake = 0; // the smallest pc of a lane that waits: there lanes are chosen anew
    uint8_t *file = nullptr;
    size_t stride = 0;  // bytes of a register of one-byte elements
    uint32_t mxcsr = 0; // the processor's mode; 0: not known
    bool force = false; // lanes missing from a warp will not come
    bool failed = false;
    uint32_t threads = 0, live = 0;

    const ptx::code *what = nullptr;
    uint8_t *shared = nullptr, *local = nullptr;
    const uint8_t *param = nullptr;
    uint32_t shared_bytes = 0, local_bytes = 0, param_bytes = 0;
    size_t local_stride = 0;
    const interval *allocations = nullptr;
    size_t n_allocations = 0;
    uint32_t *near = nullptr; // by slot: index of an allocation
    const std::atomic<bool> *stop = nullptr;

    std::vector<uint32_t> pcs, listed, guarded, chosen; // by lane; room for lists
    std::vector<uint64_t> scratch;                      // by lane
    uint32_t index[3] = {}, block_size[3] = {};
    std::string printed; // the last text of vprintf
    fault error;
    uint64_t lanes = 0;

    template <typename T> T *at(uint32_t place) {
        return reinterpret_cast<T *>(file + size_t(place) * stride);
    }

    // Chooses the lanes that run next. False: none is left, or the block failed.
    bool choose();
    // Leaves the lanes that run where `pcs` says; the next instruction is chosen anew.
    void part() {
        count = 0;
        wake = 0;
    }
    // Ends the block with a fault of `lane`.
    void fail(int code, const op &o, uint32_t lane, const std::string &text);
};

// Calls f(lane) for each lane that runs. Registers are the same array or do not overlap, so lanes
// are independent of each other.
template <typename F> inline __attribute__((always_inline)) void each(const block &b, F f) {
    if (!b.list) {
        const size_t end = size_t(b.first) + b.count;
#pragma clang loop vectorize(assume_safety)
        for (size_t i = b.first; i < end; ++i) {
            f(i);
        }
    } else {
        const uint32_t *list = b.list;
        for (size_t k = 0, n = b.count; k < n; ++k) {
            f(size_t(list[k]));
        }
    }
}

template <typename F> inline uint32_t each_lane(const block &b, F f) {
    for (uint32_t k = 0; k < b.count; ++k) {
        f(b.list ? b.list[k] : b.first + k);
    }
    return b.count;
}

inline uint32_t first_lane(const block &b) {
    return b.list ? b.list[0] : b.first;
}

// Executes the block that `b` is set up for. False: b.error says why.
bool execute(block &b);

} // namespace ptx

#endif
