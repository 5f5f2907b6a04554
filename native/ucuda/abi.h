// abi.h: the shared memory between a guest's CUDA client (ucuda.h) and gpud, version 1.
//
// The memory is BAR2 of QEMU's ivshmem-doorbell device, or a mapping within one process. Three
// control pages come first, each written by one side only; then the submission ring, the completion
// ring and a heap that the guest divides as it likes. All numbers are little-endian. Offsets from
// the memory's start are named `_off`.
//
// Order: the guest writes a record, stores sq_tail with release, makes a full fence, and rings the
// doorbell if `asleep` is set. gpud drains the ring, sets `asleep`, makes a full fence, looks again
// and then sleeps. Neither side believes what the other one can write: each copies, then checks.
#ifndef CLLM_UCUDA_ABI_H
#define CLLM_UCUDA_ABI_H

#include <stddef.h>
#include <stdint.h>

#define UCUDA_MAGIC UINT64_C(0x315550474d4c4c43) // "CLLMGPU1"
#define UCUDA_ABI_MAJOR 1
#define UCUDA_ABI_MINOR 0
#define UCUDA_PAGE 4096
#define UCUDA_WINDOWS 16

// ucuda_info.features
enum {
    UCUDA_HAS_GUEST_WINDOWS = 1, // gpud reaches the guest's memory and files by itself
    UCUDA_HAS_UPLOAD = 2,        // modules may be sent as PTX text: for development
    UCUDA_HAS_CUBIN = 4,
    UCUDA_HAS_GRAPHS = 8,
    UCUDA_HAS_GEMM = 16,
    UCUDA_HAS_IRQ = 32,
    UCUDA_HAS_EMULATED = 64, // an interpreter computes, no card
};

enum { UCUDA_WINDOW_RAM = 1, UCUDA_WINDOW_FILE = 2 };

// Guest-physical addresses that gpud can reach.
struct ucuda_window {
    uint64_t start, size;
    uint32_t kind;  // UCUDA_WINDOW_*
    uint32_t flags; // 1: may be written
};

// Page 0, written by gpud before its state is UCUDA_READY, then constant.
struct ucuda_info {
    uint64_t magic;
    uint32_t abi_major, abi_minor;
    uint32_t bytes_total; // of the shared memory
    uint32_t features;
    uint32_t sq_off, sq_bytes; // submission ring; a power of two
    uint32_t cq_off, cq_count; // completion ring; entries, a power of two
    uint32_t heap_off, heap_bytes;
    uint64_t quota; // bytes of device memory that this guest may have
    uint32_t n_devices, daemon_peer;
    char name[64]; // of gpud's engine, ends with NUL
    struct ucuda_window window[UCUDA_WINDOWS];
};

// Page 1, written by the guest.
struct ucuda_guest {
    uint32_t sq_tail; // bytes ever written, modulo 2^32
    uint32_t cq_head; // completions ever taken, modulo 2^32
    uint32_t epoch;   // counts up for a reset: rings and heap start anew, all objects are gone
    uint32_t waiting; // waits for a completion
    uint64_t seq_last;
};

enum { UCUDA_STARTING, UCUDA_READY, UCUDA_FAILED, UCUDA_LOST };

// Page 2, written by gpud.
struct ucuda_host {
    uint32_t sq_head; // bytes ever taken
    uint32_t cq_tail; // completions ever written
    uint32_t epoch;   // the last reset that was done
    uint32_t state;   // UCUDA_STARTING ...
    uint32_t asleep;  // wants the doorbell
    int32_t sticky;   // CUresult of the first failure since the reset
    uint64_t fault_seq;
    uint64_t beat; // milliseconds, of a clock of gpud's; stands still when gpud is gone
    uint64_t seq_done;
    uint64_t used_bytes;  // of the quota
    char fault_text[200]; // about `sticky`, else the last command that failed; ends with NUL
};

// CUresult, as CUDA numbers them.
enum {
    UCUDA_OK = 0,
    UCUDA_EINVAL = 1,
    UCUDA_ENOMEM = 2,
    UCUDA_EDEINIT = 4,
    UCUDA_ENODEVICE = 100,
    UCUDA_EIMAGE = 200,
    UCUDA_EHANDLE = 400,
    UCUDA_ENOTFOUND = 500,
    UCUDA_ENOTREADY = 600,
    UCUDA_EADDRESS = 700,
    UCUDA_ERESOURCES = 701,
    UCUDA_ETIMEOUT = 702,
    UCUDA_ELAUNCH = 719,
    UCUDA_ENOTSUPPORTED = 801,
    UCUDA_ECAPTURE = 900,
    UCUDA_EUNKNOWN = 999,
    UCUDA_ELOST = 46, // device unavailable: gpud is gone
};

enum ucuda_op {
    UCUDA_NOP,
    UCUDA_HELLO,       // a0 = abi major
    UCUDA_DEVICE_INFO, // a0 = heap_off of a struct ucuda_device, of header.device
    UCUDA_MEM_INFO,    // returns free, total
    UCUDA_ALLOC,       // a0 = bytes; returns the address
    UCUDA_FREE,        // a0 = address
    UCUDA_COPY,        // struct ucuda_copy
    UCUDA_SET,         // struct ucuda_set
    UCUDA_MODULE, // a0 = file number, a1 = heap_off of its SHA-256, a2, a3 = heap_off and bytes
                  // of the text with UCUDA_HAS_UPLOAD; returns a handle
    UCUDA_KERNEL, // a0 = module, a1 = ucuda_name_hash(), a2 = heap_off of a struct
                  // ucuda_kernel; returns a handle
    UCUDA_KERNEL_ATTR,   // a0 = kernel, a1 = CUfunction_attribute, a2 = value, a3 = 1 to set
    UCUDA_OCCUPANCY,     // a0 = kernel, a1 = threads of a block, a2 = dynamic shared bytes
    UCUDA_LAUNCH,        // struct ucuda_launch
    UCUDA_STREAM_CREATE, // a0 = flags; returns a handle
    UCUDA_STREAM_DESTROY,
    UCUDA_STREAM_WAIT,  // header.stream waits for event a0
    UCUDA_EVENT_CREATE, // a0 = flags; returns a handle
    UCUDA_EVENT_DESTROY,
    UCUDA_EVENT_RECORD,  // a0 = event, on header.stream
    UCUDA_FENCE,         // completes when header.stream is through; a0 = 1: the whole device
    UCUDA_CAPTURE_BEGIN, // on header.stream; a0 = mode
    UCUDA_CAPTURE_END,   // returns a graph's handle
    UCUDA_GRAPH_EXEC,    // a0 = graph, a1 = executable to update or 0; returns its handle
    UCUDA_GRAPH_LAUNCH,  // a0 = executable, on header.stream
    UCUDA_GRAPH_FREE,    // a0 = handle of a graph or an executable
    UCUDA_GLOBAL,        // a0 = module, a1 = ucuda_name_hash(); returns address, bytes
    UCUDA_GEMM,          // with the feature
    UCUDA_RESET,         // clears `sticky` if the device still lives
    UCUDA_ELAPSED,       // a0, a1 = events; returns the bits of a float, in ms
    UCUDA_HOST_PIN,      // a0, a1 = start and bytes of a window's range; a hint
    UCUDA_OPS
};

#define UCUDA_WANT_CQE 1 // a flag of the header

#define UCUDA_RECORD_ALIGN 64
#define UCUDA_RECORD_MAX 65536

// A record is a multiple of 64 bytes at a multiple of 64 and never wraps: a NOP fills the ring's
// end. `size` includes the header.
struct ucuda_header {
    uint32_t size;
    uint16_t op, flags;
    uint64_t seq;    // the previous record's plus 1, from 1 after a reset
    uint32_t stream; // 0 null, 1 legacy, 2 per thread (as CUDA has them), else a handle
    uint32_t device;
};

struct ucuda_call {
    struct ucuda_header header;
    uint64_t a[5];
};

#define UCUDA_PARAM_MAX 4096
struct ucuda_launch { // then the parameters
    struct ucuda_header header;
    uint32_t kernel;
    uint32_t grid[3], block[3];
    uint32_t shared; // dynamic, bytes
    uint32_t param_bytes;
    uint32_t flags; // 1: cooperative
};

enum ucuda_copy_kind {
    UCUDA_INLINE_TO_DEVICE = 1, // data follow the record's 64 bytes; at most UCUDA_INLINE_MAX
    UCUDA_HEAP_TO_DEVICE,       // host = offset from heap_off
    UCUDA_WINDOW_TO_DEVICE,     // host = guest-physical address
    UCUDA_DEVICE_TO_HEAP,
    UCUDA_DEVICE_TO_WINDOW,
    UCUDA_DEVICE_TO_DEVICE, // host = source address
};
#define UCUDA_INLINE_MAX 32768

struct ucuda_copy {
    struct ucuda_header header;
    uint64_t device; // address
    uint64_t host;   // by kind
    uint64_t bytes;  // of a row
    uint32_t kind;
    uint32_t rows;         // 1 for a plain copy
    uint32_t device_pitch; // bytes from row to row
    uint32_t host_pitch;
};

struct ucuda_set {
    struct ucuda_header header;
    uint64_t device;
    uint64_t bytes; // of a row, a multiple of unit
    uint32_t value;
    uint32_t unit; // bytes: 1, 2, 4
    uint32_t rows;
    uint32_t pitch;
};

// For records with UCUDA_WANT_CQE, and for the first failure.
struct ucuda_completion {
    uint64_t seq;
    int32_t result; // CUresult
    uint16_t op, zero;
    uint64_t ret[2];
};

struct ucuda_device { // answers UCUDA_DEVICE_INFO
    char name[128];
    uint64_t memory;       // bytes
    uint32_t major, minor; // compute capability
    uint32_t multiprocessors, warp;
    uint32_t shared_per_block, shared_per_block_optin, shared_per_multiprocessor;
    uint32_t threads_per_block, threads_per_multiprocessor;
    uint32_t registers_per_block;
    uint32_t clock_khz, memory_clock_khz, bus_bits, l2_bytes;
    uint32_t integrated, cooperative, managed, peers; // peers: bit i = device i can be reached
    uint32_t pci_domain, pci_bus, pci_device;
    uint32_t zero[8];
};

#define UCUDA_PARAMS 256
struct ucuda_kernel { // answers UCUDA_KERNEL
    uint32_t n_params, param_bytes;
    uint32_t static_shared, max_threads, registers, zero;
    struct {
        uint16_t offset, size; // bytes
    } param[UCUDA_PARAMS];
};

// FNV-1a of a kernel's or global's name as PTX has it (mangled), without its NUL.
static inline uint64_t ucuda_name_hash(const char *name) {
    uint64_t hash = UINT64_C(0xcbf29ce484222325);
    while (*name) {
        hash = (hash ^ (uint8_t)*name++) * UINT64_C(0x100000001b3);
    }
    return hash;
}

#ifdef __cplusplus
#define UCUDA_ASSERT(x) static_assert(x, #x)
#else
#define UCUDA_ASSERT(x) _Static_assert(x, #x)
#endif
UCUDA_ASSERT(offsetof(struct ucuda_info, features) == 0x14);
UCUDA_ASSERT(offsetof(struct ucuda_info, quota) == 0x30);
UCUDA_ASSERT(offsetof(struct ucuda_info, name) == 0x40);
UCUDA_ASSERT(offsetof(struct ucuda_info, window) == 0x80);
UCUDA_ASSERT(sizeof(struct ucuda_info) <= UCUDA_PAGE);
UCUDA_ASSERT(offsetof(struct ucuda_guest, seq_last) == 0x10);
UCUDA_ASSERT(offsetof(struct ucuda_host, fault_seq) == 0x18);
UCUDA_ASSERT(offsetof(struct ucuda_host, fault_text) == 0x38);
UCUDA_ASSERT(sizeof(struct ucuda_header) == 0x18);
UCUDA_ASSERT(sizeof(struct ucuda_call) == 64);
UCUDA_ASSERT(sizeof(struct ucuda_launch) == 64);
UCUDA_ASSERT(sizeof(struct ucuda_copy) == 64);
UCUDA_ASSERT(sizeof(struct ucuda_set) == 0x38);
UCUDA_ASSERT(sizeof(struct ucuda_completion) == 32);
UCUDA_ASSERT(sizeof(struct ucuda_device) == 256);
UCUDA_ASSERT(sizeof(struct ucuda_kernel) == 24 + 4 * UCUDA_PARAMS);

#endif
