// cells.cpp: see cells.h.
#include "cells.h"

#include "ggml-backend.h"

#include <string.h>

#include <algorithm>
#include <mutex>
#include <unordered_map>
#include <vector>

namespace kernels {
namespace {

// One table for each buffer, because all layers of a cache have the same cells: the time at which
// each cell was written, counted in tokens. A freed buffer leaves its table behind; a new buffer
// at that address writes each cell before it reads it.
//
// Made at first use: a constructor at start would run in the builds for all processors, whichever
// processor this is.
std::unordered_map<ggml_backend_buffer_t, std::vector<uint64_t>> &written() {
    static std::unordered_map<ggml_backend_buffer_t, std::vector<uint64_t>> tables;
    return tables;
}

std::mutex mutex;
uint64_t now;

const ggml_tensor *root_of(const ggml_tensor *t) {
    return t->view_src ? t->view_src : t;
}

bool is_cache(const ggml_tensor *root) {
    constexpr char prefix[] = "cache_k_"; // llama_kv_cache's constructor
    return root->buffer && strncmp(root->name, prefix, sizeof prefix - 1) == 0;
}

// Times of the rows of `keys`, or NULL. They stay valid while a node is computed: only the node
// that writes cells changes them.
const uint64_t *times_of(const ggml_tensor *keys) {
    const ggml_tensor *root = root_of(keys);
    if (!is_cache(root)) {
        return nullptr;
    }
    const std::lock_guard<std::mutex> lock(mutex);
    const auto found = written().find(root->buffer);
    const auto bytes =
        static_cast<const char *>(keys->data) - static_cast<const char *>(root->data);
    const size_t first = static_cast<size_t>(bytes) / root->nb[1];
    const size_t end = first + static_cast<size_t>(keys->ne[1]);
    if (found == written().end() || end > found->second.size()) {
        return nullptr;
    }
    return found->second.data() + first;
}

} // namespace

bool writes_cells(const ggml_tensor *op) {
    return op->op == GGML_OP_SET_ROWS && op->src[1]->type == GGML_TYPE_I64 && is_cache(root_of(op))
        && op->nb[1] == root_of(op)->nb[1];
}

void note_cells(const ggml_tensor *op) {
    const std::lock_guard<std::mutex> lock(mutex);
    std::vector<uint64_t> &times = written()[root_of(op)->buffer];
    times.resize(std::max(times.size(), static_cast<size_t>(ggml_nrows(root_of(op)))));
    const ggml_tensor *rows = op->src[1];
    const auto *row = static_cast<const int64_t *>(rows->data);
    for (int64_t i = 0; i < rows->ne[0]; ++i) {
        times[static_cast<size_t>(row[i])] = ++now;
    }
}

void order_cells(const ggml_tensor *keys, int32_t *rows, size_t n, int32_t *scratch) {
    const uint64_t *times = times_of(keys);
    const auto earlier = [times](int32_t a, int32_t b) { return times[a] < times[b]; };
    if (!times || std::is_sorted(rows, rows + n, earlier)) {
        return;
    }
    // A batch writes a run of cells, so there are few runs. Merge pairs of them until one is left.
    for (bool several = true; several;) {
        several = false;
        int32_t *to = scratch;
        for (int32_t *at = rows; at != rows + n;) {
            int32_t *middle = std::is_sorted_until(at, rows + n, earlier);
            int32_t *end = std::is_sorted_until(middle, rows + n, earlier);
            to = std::merge(at, middle, middle, end, to, earlier);
            several = several || at != rows || end != rows + n;
            at = end;
        }
        std::copy(scratch, scratch + n, rows);
    }
}

} // namespace kernels
