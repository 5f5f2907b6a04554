// fake_libcuda.cpp: libcuda.so.1 without a card, to test engine_cuda.cpp. Device memory is the
// heap, and the one kernel is `vecadd`. Rules of CUDA that the engine has to keep are checked: a
// context is current, handles are live, a capturing stream is not waited for. Breaking one aborts.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

namespace {

using address = unsigned long long;
constexpr int invalid_value = 1, out_of_memory = 2, not_found = 500, launch_failed = 719;

#define RULE(x) \
    do { \
        if (!(x)) { \
            fprintf(stderr, "fake libcuda: %s: %s\n", __func__, #x); \
            abort(); \
        } \
    } while (0)

struct module {
    std::string text;
};
struct function {
    std::string name;
    int dynamic_shared = 0;
};
using graph = std::vector<std::function<int()>>;
struct stream {
    graph *capture = nullptr;
};
struct event {
    double at = 0;
};

thread_local void *current;
int contexts[2];
std::map<address, size_t> allocations;
std::set<void *> live;
double now = 1;

stream *on(void *handle) {
    static stream legacy;
    RULE(current);
    if ((uintptr_t)handle <= 2) {
        return &legacy;
    }
    RULE(live.count(handle));
    return (stream *)handle;
}

template <typename T> T *add(T *made) {
    live.insert(made);
    return made;
}

template <typename T> void drop(T *gone) {
    RULE(live.erase(gone) == 1);
    delete gone;
}

int run(void *handle, std::function<int()> work) {
    stream *s = on(handle);
    if (s->capture) {
        s->capture->push_back(work);
        return 0;
    }
    return work();
}

bool holds(address at, size_t bytes) {
    auto next = allocations.upper_bound(at);
    if (next == allocations.begin()) {
        return false;
    }
    --next;
    return at - next->first <= next->second && bytes <= next->second - (at - next->first);
}

struct vecadd {
    address a, b, c;
    unsigned n;
};

int add_vectors(vecadd p) {
    size_t bytes = 4ull * p.n;
    if (!holds(p.a, bytes) || !holds(p.b, bytes) || !holds(p.c, bytes)) {
        return launch_failed;
    }
    for (unsigned i = 0; i < p.n; i++) {
        ((float *)p.c)[i] = ((const float *)p.a)[i] + ((const float *)p.b)[i];
    }
    return 0;
}

struct rows {
    size_t from_x, from_y;
    int from_type;
    const char *from_host;
    address from_device;
    void *from_array;
    size_t from_pitch, to_x, to_y;
    int to_type;
    char *to_host;
    address to_device;
    void *to_array;
    size_t to_pitch, width, height;
};

template <typename T> int fill(address at, size_t pitch, T value, size_t width, size_t height) {
    for (size_t y = 0; y < height; y++) {
        for (size_t x = 0; x < width; x++) {
            memcpy((char *)at + y * pitch + x * sizeof(T), &value, sizeof(T));
        }
    }
    return 0;
}

} // namespace

extern "C" {

int cuInit(unsigned) {
    return getenv("FAKE_CUDA_ABSENT") ? 100 : 0;
}
int cuGetErrorName(int code, const char **out) {
    *out = code == launch_failed ? "CUDA_ERROR_LAUNCH_FAILED" : "CUDA_ERROR_FAKE";
    return 0;
}
int cuGetErrorString(int, const char **out) {
    *out = "a fake error";
    return 0;
}
int cuDeviceGetCount(int *out) {
    *out = 2;
    return 0;
}
int cuDeviceGet(int *out, int i) {
    *out = i + 10;
    return 0;
}
int cuDeviceGetName(char *out, int room, int device) {
    snprintf(out, (size_t)room, "Fake %d", device - 10);
    return 0;
}
int cuDeviceTotalMem_v2(size_t *out, int) {
    *out = 1ull << 32;
    return 0;
}
int cuDeviceGetAttribute(int *out, int which, int) {
    static const std::map<int, int> known = {{1, 1024}, {8, 49152}, {10, 32}, {16, 84}, {75, 8},
        {76, 6}, {97, 101376}, {95, 1}};
    auto found = known.find(which);
    *out = found == known.end() ? 0 : found->second;
    return 0;
}
int cuDeviceCanAccessPeer(int *out, int, int) {
    *out = 1;
    return 0;
}
int cuDevicePrimaryCtxRetain(void **out, int device) {
    *out = &contexts[device - 10];
    return 0;
}
int cuCtxSetCurrent(void *context) {
    current = context;
    return 0;
}
int cuCtxSynchronize() {
    RULE(current);
    return 0;
}
int cuMemGetInfo_v2(size_t *free, size_t *total) {
    RULE(current);
    *free = 1 << 28;
    *total = 1ull << 32;
    return 0;
}
int cuMemAlloc_v2(address *out, size_t bytes) {
    RULE(current && bytes);
    if (bytes > 1 << 28) {
        return out_of_memory;
    }
    *out = (address)aligned_alloc(256, (bytes + 255) / 256 * 256);
    memset((void *)*out, 0x77, bytes); // another guest's
    allocations[*out] = bytes;
    return 0;
}
int cuMemFree_v2(address at) {
    RULE(current && allocations.erase(at) == 1);
    free((void *)at);
    return 0;
}
int cuModuleLoadDataEx(void **out, const void *text, unsigned n, int *options, void **values) {
    RULE(current && n == 2 && options[0] == 5 && options[1] == 6);
    std::string kept((const char *)text);
    if (kept.find(".version") == kept.npos) {
        snprintf((char *)values[0], (size_t)values[1], "ptxas: no version");
        return 218;
    }
    *out = add(new module{kept});
    return 0;
}
int cuModuleUnload(void *gone) {
    drop((module *)gone);
    return 0;
}
int cuModuleGetFunction(void **out, void *from, const char *name) {
    RULE(current && live.count(from));
    if (((module *)from)->text.find(".entry " + std::string(name)) == std::string::npos) {
        return not_found;
    }
    *out = add(new function{name});
    return 0;
}
int cuModuleGetGlobal_v2(address *, size_t *, void *from, const char *) {
    RULE(current && live.count(from));
    return not_found;
}
int cuFuncGetAttribute(int *out, int which, void *of) {
    RULE(current && live.count(of));
    *out = which == 0 ? 1024 : which == 4 ? 16 : 0;
    return 0;
}
int cuFuncSetAttribute(void *of, int which, int value) {
    RULE(current && live.count(of) && which == 8);
    ((function *)of)->dynamic_shared = value;
    return 0;
}
int cuFuncGetParamInfo(void *of, size_t i, size_t *offset, size_t *size) {
    RULE(live.count(of));
    bool known = ((function *)of)->name == "vecadd" && i < 4;
    *offset = 8 * i;
    *size = i < 3 ? 8 : 4;
    return known ? 0 : invalid_value;
}
int cuOccupancyMaxActiveBlocksPerMultiprocessor(int *out, void *of, int, size_t) {
    RULE(current && live.count(of));
    *out = 6;
    return 0;
}
int cuLaunchKernel(void *of, unsigned x, unsigned, unsigned, unsigned bx, unsigned, unsigned,
    unsigned, void *s, void **parameters, void **extra) {
    RULE(live.count(of) && !parameters && extra);
    RULE(extra[0] == (void *)1 && extra[2] == (void *)2 && !extra[4]);
    vecadd p;
    RULE(*(size_t *)extra[3] == 28 && x * bx >= 1);
    memcpy(&p, extra[1], 28);
    return run(s, [p] { return add_vectors(p); });
}
int cuLaunchCooperativeKernel(void *of, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,
    unsigned, void *s, void **parameters) {
    RULE(live.count(of));
    vecadd p = {*(address *)parameters[0], *(address *)parameters[1], *(address *)parameters[2],
        *(unsigned *)parameters[3]};
    return run(s, [p] { return add_vectors(p); });
}
int cuMemcpyHtoDAsync_v2(address to, const void *from, size_t bytes, void *s) {
    RULE(!on(s)->capture && holds(to, bytes));
    memcpy((void *)to, from, bytes);
    return 0;
}
int cuMemcpyDtoHAsync_v2(void *to, address from, size_t bytes, void *s) {
    RULE(!on(s)->capture && holds(from, bytes));
    memcpy(to, (const void *)from, bytes);
    return 0;
}
int cuMemcpyAsync(address to, address from, size_t bytes, void *s) {
    return run(s, [=] {
        RULE(holds(to, bytes) && holds(from, bytes));
        memmove((void *)to, (const void *)from, bytes);
        return 0;
    });
}
int cuMemcpy2DAsync_v2(const rows *what, void *s) {
    rows r = *what;
    RULE(!r.from_x && !r.from_y && !r.to_x && !r.to_y && r.height);
    return run(s, [r] {
        for (size_t y = 0; y < r.height; y++) {
            const char *from = r.from_type == 1 ? r.from_host : (const char *)r.from_device;
            char *to = r.to_type == 1 ? r.to_host : (char *)r.to_device;
            memmove(to + y * r.to_pitch, from + y * r.from_pitch, r.width);
        }
        return 0;
    });
}
int cuMemsetD8_v2(address, unsigned char, size_t) {
    return 0;
}
int cuMemsetD8Async(address at, unsigned char value, size_t n, void *s) {
    return run(s, [=] { return fill(at, 0, value, n, 1); });
}
int cuMemsetD16Async(address at, unsigned short value, size_t n, void *s) {
    return run(s, [=] { return fill(at, 0, value, n, 1); });
}
int cuMemsetD32Async(address at, unsigned value, size_t n, void *s) {
    return run(s, [=] { return fill(at, 0, value, n, 1); });
}
int cuMemsetD2D8Async(address at, size_t pitch, unsigned char value, size_t w, size_t h, void *s) {
    return run(s, [=] { return fill(at, pitch, value, w, h); });
}
int cuMemsetD2D16Async(address at, size_t pitch, unsigned short value, size_t w, size_t h,
    void *s) {
    return run(s, [=] { return fill(at, pitch, value, w, h); });
}
int cuMemsetD2D32Async(address at, size_t pitch, unsigned value, size_t w, size_t h, void *s) {
    return run(s, [=] { return fill(at, pitch, value, w, h); });
}
int cuStreamCreate(void **out, unsigned) {
    RULE(current);
    *out = add(new stream);
    return 0;
}
int cuStreamDestroy_v2(void *gone) {
    drop((stream *)gone);
    return 0;
}
int cuStreamSynchronize(void *s) {
    return on(s)->capture ? 900 : 0;
}
int cuStreamWaitEvent(void *s, void *e, unsigned) {
    on(s);
    RULE(live.count(e));
    return 0;
}
int cuStreamIsCapturing(void *s, int *out) {
    *out = on(s)->capture ? 1 : 0;
    return 0;
}
int cuStreamBeginCapture_v2(void *s, int) {
    on(s)->capture = add(new graph);
    return 0;
}
int cuStreamEndCapture(void *s, void **out) {
    *out = on(s)->capture;
    on(s)->capture = nullptr;
    return *out ? 0 : 901;
}
int cuEventCreate(void **out, unsigned) {
    RULE(current);
    *out = add(new event);
    return 0;
}
int cuEventDestroy_v2(void *gone) {
    drop((event *)gone);
    return 0;
}
int cuEventRecord(void *e, void *s) {
    on(s);
    RULE(live.count(e));
    ((event *)e)->at = now++;
    return 0;
}
int cuEventSynchronize(void *e) {
    RULE(live.count(e));
    return 0;
}
int cuEventElapsedTime(float *out, void *from, void *to) {
    *out = (float)(((event *)to)->at - ((event *)from)->at);
    return 0;
}
int cuGraphInstantiateWithFlags(void **out, void *from, unsigned long long) {
    RULE(live.count(from));
    *out = add(new graph(*(graph *)from));
    return 0;
}
int cuGraphExecUpdate_v2(void *exec, void *from, void *) {
    RULE(live.count(exec) && live.count(from));
    if (((graph *)exec)->size() != ((graph *)from)->size()) {
        return 910;
    }
    *(graph *)exec = *(graph *)from;
    return 0;
}
int cuGraphLaunch(void *exec, void *s) {
    on(s);
    RULE(live.count(exec));
    for (const auto &work : *(graph *)exec) {
        if (int code = work()) {
            return code;
        }
    }
    return 0;
}
int cuGraphDestroy(void *gone) {
    drop((graph *)gone);
    return 0;
}
int cuGraphExecDestroy(void *gone) {
    drop((graph *)gone);
    return 0;
}
}
