// copies.c: memory to and from the device. Small data travel in the record, large ones through the
// heap; what gpud can reach by itself, such as a mapped model file, does not pass through here.
#include "ring.h"

#include <string.h>

// Below this many bytes the guest's memory is copied here: asking gpud to do it is a round trip.
enum { LEAST_WINDOW = 256 * 1024 };

static int check(const struct ucuda_rect *rect) {
    bool rows =
        rect->rows == 1 || (rect->device_pitch >= rect->bytes && rect->host_pitch >= rect->bytes);
    return rect->rows != 0 && rect->bytes != 0 && rows ? 0 : UCUDA_EINVAL;
}

// One row where rows follow each other without a gap.
static struct ucuda_rect flat(const struct ucuda_rect *rect) {
    struct ucuda_rect r = *rect;
    if (r.rows > 1 && r.device_pitch == r.bytes && r.host_pitch == r.bytes) {
        r.bytes *= r.rows;
        r.rows = 1;
    }
    if (r.rows == 1) {
        r.device_pitch = r.host_pitch = 0;
    }
    return r;
}

static uint64_t extent(const struct ucuda_rect *rect) {
    return (uint64_t)(rect->rows - 1) * rect->host_pitch + rect->bytes;
}

// The flags of the window that holds all of [at, at + bytes); kind 0: none does.
static struct ucuda_window window_of(const void *at, uint64_t bytes, uint64_t *address) {
    const struct ucuda_transport *transport = ring_transport();
    if (transport->physical && (ring_info()->features & UCUDA_HAS_GUEST_WINDOWS)
        && transport->physical(transport->user, at, bytes, address) == bytes) {
        for (unsigned i = 0; i < UCUDA_WINDOWS; i++) {
            struct ucuda_window window = ring_info()->window[i];
            if (window.kind != 0 && *address >= window.start && bytes <= window.size
                && *address - window.start <= window.size - bytes) {
                return window;
            }
        }
    }
    return (struct ucuda_window){0};
}

static struct ucuda_copy *reserve(unsigned device, uint32_t stream, enum ucuda_copy_kind kind,
    uint64_t on_device, uint64_t host, const struct ucuda_rect *rect, size_t inline_bytes) {
    struct ucuda_copy *copy =
        ring_reserve(UCUDA_COPY, device, stream, sizeof(*copy) + inline_bytes);
    if (copy) {
        copy->device = on_device;
        copy->host = host;
        copy->bytes = rect->bytes;
        copy->kind = kind;
        copy->rows = rect->rows;
        copy->device_pitch = rect->device_pitch;
        copy->host_pitch = rect->host_pitch;
        ring_counts()->copies++;
        ring_counts()->copied_bytes += rect->bytes * rect->rows;
    }
    return copy;
}

static void pack(uint8_t *to, const uint8_t *from, const struct ucuda_rect *rect) {
    for (uint32_t row = 0; row < rect->rows; row++) {
        memcpy(to + row * rect->bytes, from + (size_t)row * rect->host_pitch, rect->bytes);
    }
}

static void unpack(uint8_t *to, const uint8_t *from, const struct ucuda_rect *rect) {
    for (uint32_t row = 0; row < rect->rows; row++) {
        memcpy(to + (size_t)row * rect->host_pitch, from + row * rect->bytes, rect->bytes);
    }
}

// A part of a copy: some whole rows, or some bytes of one.
typedef int part_function(unsigned device, uint32_t stream, uint64_t on_device, uint8_t *host,
    const struct ucuda_rect *rect);

// Calls `each` for parts of at most `most` bytes.
static int in_parts(part_function *each, unsigned device, uint32_t stream, uint64_t on_device,
    uint8_t *host, const struct ucuda_rect *whole, uint64_t most) {
    int code = 0;
    if (whole->bytes <= most) {
        uint32_t rows = most / whole->bytes;
        for (uint32_t row = 0; row < whole->rows && code == 0; row += rows) {
            struct ucuda_rect part = *whole;
            part.rows = whole->rows - row < rows ? whole->rows - row : rows;
            code = each(device, stream, on_device + (uint64_t)row * whole->device_pitch,
                host + (size_t)row * whole->host_pitch, &part);
        }
        return code;
    }
    for (uint32_t row = 0; row < whole->rows && code == 0; row++) {
        for (uint64_t at = 0; at < whole->bytes && code == 0; at += most) {
            uint64_t left = whole->bytes - at;
            struct ucuda_rect part = {.bytes = left < most ? left : most, .rows = 1};
            code = each(device, stream, on_device + (uint64_t)row * whole->device_pitch + at,
                host + (size_t)row * whole->host_pitch + at, &part);
        }
    }
    return code;
}

static int part_to_device(unsigned device, uint32_t stream, uint64_t to, uint8_t *from,
    const struct ucuda_rect *rect) {
    struct ucuda_rect packed = *rect;
    packed.host_pitch = rect->bytes;
    uint64_t total = rect->bytes * rect->rows;
    if (total <= UCUDA_INLINE_MAX) {
        struct ucuda_copy *copy =
            reserve(device, stream, UCUDA_INLINE_TO_DEVICE, to, 0, &packed, total);
        if (!copy) {
            return ring_error();
        }
        pack((uint8_t *)(copy + 1), from, rect);
        ring_commit();
        return 0;
    }
    struct heap_region *region = heap_take(total);
    if (!region) {
        return ring_error();
    }
    pack(heap_bytes(region), from, rect);
    if (!reserve(device, stream, UCUDA_HEAP_TO_DEVICE, to, heap_offset(region), &packed, 0)) {
        return ring_error();
    }
    heap_free_after(region, ring_commit());
    return 0;
}

int ucuda_copy_to_device(unsigned device, uint32_t stream, uint64_t to, const void *from,
    const struct ucuda_rect *rect) {
    int code = check(rect);
    if (code != 0 || (code = ring_begin(RING_HEALTHY)) != 0) {
        return code;
    }
    struct ucuda_rect r = flat(rect);
    uint64_t address = 0;
    struct ucuda_window window = {0};
    if (extent(&r) > UCUDA_INLINE_MAX) {
        window = window_of(from, extent(&r), &address);
    }
    if (window.kind == UCUDA_WINDOW_FILE
        || (window.kind == UCUDA_WINDOW_RAM && extent(&r) >= LEAST_WINDOW)) {
        if (!reserve(device, stream, UCUDA_WINDOW_TO_DEVICE, to, address, &r, 0)) {
            return ring_end(ring_error());
        }
        // A file does not change; memory is the caller's again after this.
        if (window.kind == UCUDA_WINDOW_RAM) {
            return ring_end(ring_ask(NULL));
        }
        ring_commit();
        return ring_end(0);
    }
    // Only read through this pointer.
    return ring_end(in_parts(part_to_device, device, stream, to, (uint8_t *)from, &r, heap_most()));
}

static int part_from_device(unsigned device, uint32_t stream, uint64_t from, uint8_t *to,
    const struct ucuda_rect *rect) {
    struct heap_region *region = heap_take(rect->bytes * rect->rows);
    if (!region) {
        return ring_error();
    }
    struct ucuda_rect packed = *rect;
    packed.host_pitch = rect->bytes;
    if (!reserve(device, stream, UCUDA_DEVICE_TO_HEAP, from, heap_offset(region), &packed, 0)) {
        return ring_error();
    }
    int code = ring_ask(NULL); // gpud completes it when the stream is through
    if (code == 0) {
        unpack(to, heap_bytes(region), rect);
    }
    heap_free_after(region, 0);
    return code;
}

int ucuda_copy_from_device(unsigned device, uint32_t stream, void *to, uint64_t from,
    const struct ucuda_rect *rect) {
    int code = check(rect);
    if (code != 0 || (code = ring_begin(RING_HEALTHY)) != 0) {
        return code;
    }
    struct ucuda_rect r = flat(rect);
    uint64_t address = 0;
    struct ucuda_window window = {0};
    if (extent(&r) >= LEAST_WINDOW) {
        window = window_of(to, extent(&r), &address);
    }
    if (window.kind == UCUDA_WINDOW_RAM && (window.flags & 1)) {
        code = reserve(device, stream, UCUDA_DEVICE_TO_WINDOW, from, address, &r, 0)
            ? ring_ask(NULL)
            : ring_error();
    } else {
        code = in_parts(part_from_device, device, stream, from, to, &r, heap_most());
    }
    if (code == 0) {
        pending_clear(device, stream);
    }
    return ring_end(code);
}

static int part_from_device_later(unsigned device, uint32_t stream, uint64_t from, uint8_t *to,
    const struct ucuda_rect *rect) {
    struct heap_region *region = heap_take(rect->bytes * rect->rows);
    if (!region) {
        return ring_error();
    }
    struct ucuda_rect packed = *rect;
    packed.host_pitch = rect->bytes;
    if (!reserve(device, stream, UCUDA_DEVICE_TO_HEAP, from, heap_offset(region), &packed, 0)) {
        return ring_error();
    }
    ring_commit();
    pending_mark(device, stream);
    return later_add(device, region, to, rect) ? 0 : ring_error();
}

int ucuda_copy_from_device_later(unsigned device, uint32_t stream, void *to, uint64_t from,
    const struct ucuda_rect *rect) {
    int code = check(rect);
    if (code != 0 || (code = ring_begin(RING_HEALTHY)) != 0) {
        return code;
    }
    struct ucuda_rect r = flat(rect);
    return ring_end(in_parts(part_from_device_later, device, stream, from, to, &r, heap_most()));
}

int ucuda_copy_on_device(unsigned device, uint32_t stream, uint64_t to, uint64_t from,
    const struct ucuda_rect *rect) {
    int code = check(rect);
    if (code != 0 || (code = ring_begin(RING_HEALTHY)) != 0) {
        return code;
    }
    struct ucuda_rect r = flat(rect);
    if (!reserve(device, stream, UCUDA_DEVICE_TO_DEVICE, to, from, &r, 0)) {
        return ring_end(ring_error());
    }
    ring_commit();
    pending_mark(device, stream);
    return ring_end(0);
}

int ucuda_set(unsigned device, uint32_t stream, uint64_t at, uint32_t value, unsigned unit,
    uint64_t bytes, uint32_t rows, uint32_t pitch) {
    int code = ring_begin(RING_HEALTHY);
    if (code != 0) {
        return code;
    }
    struct ucuda_set *set = ring_reserve(UCUDA_SET, device, stream, sizeof(*set));
    if (!set) {
        return ring_end(ring_error());
    }
    set->device = at;
    set->bytes = bytes;
    set->value = value;
    set->unit = unit;
    set->rows = rows;
    set->pitch = pitch;
    ring_commit();
    pending_mark(device, stream);
    return ring_end(0);
}
