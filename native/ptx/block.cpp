// block.cpp: executes a block: which of its lanes run, and when they meet again.
#include <algorithm>

#include "code.h"
#include "flow.h"

namespace ptx {

void block::fail(int code, const op &o, uint32_t lane, const std::string &text) {
    if (failed) {
        return;
    }
    failed = true;
    wake = 0;
    const uint32_t x = lane % block_size[0], rest = lane / block_size[0];
    const uint32_t y = rest % block_size[1], z = rest / block_size[1];
    const auto triple = [](uint32_t a, uint32_t b, uint32_t c) {
        return "(" + std::to_string(a) + "," + std::to_string(b) + "," + std::to_string(c) + ")";
    };
    error.code = code;
    // Mangled names are long, and the rest must fit in ucuda_host.fault_text.
    const size_t most = 60;
    const std::string &whole = what->name;
    const std::string name = whole.size() <= most ? whole : whole.substr(0, most - 3) + "...";
    error.text = name + ": block " + triple(index[0], index[1], index[2]) + ", thread "
        + triple(x, y, z) + ", line " + std::to_string(o.line) + ": " + text;
    if (!printed.empty()) {
        error.text += "; it printed: " + printed;
    }
}

// Takes the lanes whose entry of `pcs` is the smallest. While lanes can run, those that wait for
// their warp do not; when none can, they go on without the missing ones. Last come barriers.
bool block::choose() {
    each_lane(*this, [&](uint32_t i) { pcs[i] = pc; });
    count = 0;
    while (!failed) {
        uint32_t smallest = gone;
        for (uint32_t i = 0; i < threads; ++i) {
            smallest = std::min(smallest, pcs[i]);
        }
        if (smallest == gone) {
            return false;
        }
        if (smallest >= at_barrier) {
            release_barriers(*this);
            continue;
        }
        force = smallest >= at_warp;
        wake = gone;
        uint32_t *out = listed.data();
        uint32_t n = 0;
        for (uint32_t i = 0; i < threads; ++i) {
            if (pcs[i] == smallest) {
                out[n++] = i;
            } else if (pcs[i] < at_warp) {
                wake = std::min(wake, pcs[i]);
            }
        }
        pc = smallest & pc_mask;
        count = n;
        first = out[0];
        list = out[n - 1] - out[0] + 1 == n ? nullptr : out;
        return true;
    }
    return false;
}

bool execute(block &b) {
    const op *const ops = b.what->ops.data();
    std::fill(b.pcs.begin(), b.pcs.end(), 0);
    b.list = nullptr;
    b.first = 0;
    b.count = b.live = b.threads;
    b.pc = 0;
    b.wake = gone;
    b.force = b.failed = false;
    b.printed.clear();
    uint64_t lanes = 0;
    while (b.pc < b.wake || b.choose()) {
        const op &o = ops[b.pc++];
        lanes += b.count;
        o.run(b, o);
    }
    b.lanes += lanes;
    return !b.failed;
}

} // namespace ptx
