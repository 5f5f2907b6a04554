// objects.h: what a guest has made, by handle. A handle is an index: the guest can name nothing
// that is not in its own worker's tables.
#ifndef CLLM_GPUD_OBJECTS_H
#define CLLM_GPUD_OBJECTS_H

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine.h"

namespace gpud {

// Handles from `first` on; at most `most` objects at a time.
template <typename T> class table {
public:
    table(uint32_t first, uint32_t most) : first(first), most(most) {}

    // 0: full.
    uint32_t add(T value) {
        if (!unused.empty()) {
            uint32_t index = unused.back();
            unused.pop_back();
            objects[index] = std::make_unique<T>(std::move(value));
            return first + index;
        }
        if (objects.size() >= most) {
            return 0;
        }
        objects.push_back(std::make_unique<T>(std::move(value)));
        return first + (uint32_t)objects.size() - 1;
    }

    // nullptr: there is no such object.
    T *find(uint64_t handle) const {
        return handle >= first && handle - first < objects.size() ? objects[handle - first].get()
                                                                  : nullptr;
    }

    bool full() const { return unused.empty() && objects.size() >= most; }

    // The handle is find()'s.
    void remove(uint64_t handle) {
        objects[handle - first].reset();
        unused.push_back((uint32_t)(handle - first));
    }

private:
    uint32_t first, most;
    std::vector<std::unique_ptr<T>> objects;
    std::vector<uint32_t> unused;
};

struct region {
    uint64_t bytes;
    unsigned device;
    bool global; // a module's; not for FREE
};

struct pack_file;

struct module_object {
    unsigned device;
    const pack_file *file;                // null: the text was sent
    std::string text;                     // of a file; what was sent is the engine's alone
    object whole = 0;                     // the engine's, of all the text
    std::map<uint64_t, object> slices;    // by kernel, where the engine takes each on its own
    std::map<uint64_t, uint32_t> kernels; // handles, by name
};

struct kernel_object {
    object kernel;
    unsigned device;
    ucuda_kernel what;
    std::string name; // for messages; the hash in hexadecimal where that is all there is
};

struct stream_object {
    unsigned device;
    object stream;
};

struct event_object {
    unsigned device;
    object event;
    bool recorded;
};

struct graph_object {
    object graph;
    bool is_exec;
    unsigned device;
};

} // namespace gpud

#endif
