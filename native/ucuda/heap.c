// heap.c: the shared memory's heap, synchronisations that need no round trip, and copies from the
// device that a later synchronisation completes.
#include "ring.h"

#include <string.h>

enum {
    REGIONS = 1024,
    LATERS = 256,
    MAX_DEVICES = 32,
    ALIGN = 64,
};

struct heap_region {
    uint32_t offset, bytes; // a multiple of ALIGN
    uint64_t seq; // free once gpud has done this record; UINT64_MAX: not before it is told
};

// Regions [first, last) are in use, modulo REGIONS; their offsets go up and start over at 0.
static struct {
    struct heap_region region[REGIONS];
    unsigned first, last;
} heap;

static struct {
    uint64_t streams[MAX_DEVICES]; // bit n: stream numbers that are n modulo 64
} pending;

struct later {
    unsigned device;
    struct heap_region *region;
    uint8_t *to;
    struct ucuda_rect rect;
};

static struct {
    struct later copy[LATERS];
    unsigned count;
} later;

void heap_start(void) {
    heap.first = heap.last = 0;
}

uint32_t heap_most(void) {
    return ring_info()->heap_bytes / 4 & ~(uint32_t)(ALIGN - 1);
}

static void release_done(void) {
    uint64_t done = ring_done();
    while (heap.first != heap.last && heap.region[heap.first % REGIONS].seq <= done) {
        heap.first++;
    }
}

// Where `bytes` fit now, or UINT32_MAX.
static uint32_t place(uint32_t bytes) {
    if (heap.first == heap.last) {
        return 0;
    }
    if (heap.last - heap.first == REGIONS) {
        return UINT32_MAX;
    }
    uint32_t total = ring_info()->heap_bytes;
    const struct heap_region *oldest = &heap.region[heap.first % REGIONS];
    const struct heap_region *newest = &heap.region[(heap.last - 1) % REGIONS];
    uint32_t end = newest->offset + newest->bytes;
    if (newest->offset >= oldest->offset) {
        if (bytes <= total - end) {
            return end;
        }
        return bytes <= oldest->offset ? 0 : UINT32_MAX;
    }
    return bytes <= oldest->offset - end ? end : UINT32_MAX;
}

struct heap_region *heap_take(uint32_t bytes) {
    bytes = (bytes + ALIGN - 1) & ~(uint32_t)(ALIGN - 1);
    for (unsigned turn = 0;; turn++) {
        release_done();
        uint32_t offset = place(bytes);
        if (offset != UINT32_MAX) {
            struct heap_region *region = &heap.region[heap.last++ % REGIONS];
            *region = (struct heap_region){offset, bytes, UINT64_MAX};
            return region;
        }
        if (heap.region[heap.first % REGIONS].seq == UINT64_MAX) {
            if (later_flush() != 0) {
                return NULL;
            }
            continue;
        }
        ring_flush();
        if (ring_pause(turn) != 0) {
            return NULL;
        }
    }
}

uint32_t heap_offset(const struct heap_region *region) {
    return region->offset;
}

void *heap_bytes(const struct heap_region *region) {
    return (uint8_t *)ring_transport()->memory + ring_info()->heap_off + region->offset;
}

void heap_free_after(struct heap_region *region, uint64_t seq) {
    region->seq = seq;
}

void pending_start(void) {
    memset(&pending, 0, sizeof(pending));
}

void pending_mark(unsigned device, uint32_t stream) {
    if (device < MAX_DEVICES) {
        pending.streams[device] |= UINT64_C(1) << stream % 64;
    }
}

bool pending_any(unsigned device, uint32_t stream) {
    return device >= MAX_DEVICES || pending.streams[device] >> stream % 64 & 1;
}

void pending_clear(unsigned device, uint32_t stream) {
    // Another stream may have the same bit.
    if (device < MAX_DEVICES && stream < 64) {
        pending.streams[device] &= ~(UINT64_C(1) << stream % 64);
    }
}

static int fence(unsigned device, uint32_t stream, bool whole_device) {
    struct ucuda_call *call = ring_reserve(UCUDA_FENCE, device, stream, sizeof(*call));
    if (!call) {
        return ring_error();
    }
    call->a[0] = whole_device;
    ring_counts()->fences++;
    int code = ring_ask(NULL);
    if (code == 0 && whole_device && device < MAX_DEVICES) {
        pending.streams[device] = 0;
    } else if (code == 0) {
        pending_clear(device, stream);
    }
    return code;
}

int pending_wait(unsigned device, uint32_t stream, bool whole_device) {
    // A copy may have come to this stream's turn by an event, from a stream of another number.
    if (later.count != 0) {
        int code = later_flush();
        if (code != 0) {
            return code;
        }
    }
    bool any = whole_device ? device >= MAX_DEVICES || pending.streams[device]
                            : pending_any(device, stream);
    return any ? fence(device, stream, whole_device) : 0;
}

void later_start(void) {
    later.count = 0;
}

bool later_add(unsigned device, struct heap_region *region, void *to,
    const struct ucuda_rect *to_rect) {
    if (later.count == LATERS && later_flush() != 0) {
        return false;
    }
    later.copy[later.count++] = (struct later){device, region, to, *to_rect};
    return true;
}

bool later_any(unsigned device) {
    for (unsigned i = 0; i < later.count; i++) {
        if (later.copy[i].device == device) {
            return true;
        }
    }
    return false;
}

void later_settle(unsigned device) {
    unsigned kept = 0;
    for (unsigned i = 0; i < later.count; i++) {
        struct later *copy = &later.copy[i];
        if (copy->device != device) {
            later.copy[kept++] = *copy;
            continue;
        }
        const uint8_t *from = heap_bytes(copy->region);
        for (uint32_t row = 0; row < copy->rect.rows; row++) {
            memcpy(copy->to + (size_t)row * copy->rect.host_pitch, from + row * copy->rect.bytes,
                copy->rect.bytes);
        }
        heap_free_after(copy->region, 0);
    }
    later.count = kept;
}

int later_flush(void) {
    while (later.count != 0) {
        unsigned device = later.copy[0].device;
        int code = fence(device, 0, true);
        if (code != 0) {
            return code;
        }
        later_settle(device);
    }
    return 0;
}
