// memory.cpp: a guest's commands on memory. Every range is checked here: on a device it lies in one
// allocation of the guest's, on the host in the heap or in a window.
#include "commands.h"

#include <algorithm>
#include <cstring>

#include "../ucuda/abi.h"

namespace gpud {

namespace {

constexpr uint64_t granule = 256; // what an allocation takes of the quota is a multiple of this
constexpr size_t most_regions = 1 << 16;

// The bytes from the first row's start to the last one's end. False: rows overlap, or there are
// none, or the sum is not to be written in 64 bits.
bool extent_of(uint64_t bytes, uint32_t rows, uint32_t pitch, uint64_t *extent) {
    uint64_t before;
    return bytes != 0 && rows != 0 && (rows == 1 || pitch >= bytes)
        && !__builtin_mul_overflow((uint64_t)(rows - 1), (uint64_t)pitch, &before)
        && !__builtin_add_overflow(rows == 1 ? 0 : before, bytes, extent);
}

bool within(uint64_t offset, uint64_t extent, uint64_t total) {
    return offset <= total && extent <= total - offset;
}

} // namespace

bool commands::on_device(uint64_t address, uint64_t extent) const {
    auto next = regions.upper_bound(address);
    if (next == regions.begin()) {
        return false;
    }
    const auto &[start, region] = *std::prev(next);
    return within(address - start, extent, region.bytes);
}

uint8_t *commands::in_heap(uint64_t offset, uint64_t extent) const {
    return within(offset, extent, heap_bytes) ? heap + offset : nullptr;
}

uint8_t *commands::in_window(uint64_t address, uint64_t extent, bool write) const {
    for (const window &w : settings.windows) {
        if (address >= w.start && within(address - w.start, extent, w.size)) {
            return !write || (w.flags & 1) ? w.at + (address - w.start) : nullptr;
        }
    }
    return nullptr;
}

int commands::device_info(const ucuda_call &call) {
    uint8_t *to = in_heap(call.a[0], sizeof(ucuda_device));
    if (!to) {
        return fail(UCUDA_EINVAL, "device info: not in the heap");
    }
    ucuda_device out = devices[call.header.device];
    out.memory = device_memory(call.header.device);
    memcpy(to, &out, sizeof(out));
    return 0;
}

uint64_t commands::device_memory(unsigned device) {
    return std::min(settings.quota, devices[device].memory);
}

int commands::memory_info(const ucuda_call &call, uint64_t ret[2]) {
    ret[1] = device_memory(call.header.device);
    uint64_t left = settings.quota - used_bytes;
    ret[0] = std::min({left, ret[1], engine.free_memory(call.header.device)});
    return 0;
}

int commands::alloc(const ucuda_call &call, uint64_t ret[2]) {
    uint64_t bytes = call.a[0];
    if (bytes == 0) {
        return fail(UCUDA_EINVAL, "alloc: 0 bytes");
    }
    uint64_t left = settings.quota - used_bytes;
    if (bytes > left || (bytes + granule - 1) / granule * granule > left) {
        return fail(UCUDA_ENOMEM, "out of memory: %llu bytes asked for, %llu of %llu are left",
            (unsigned long long)bytes, (unsigned long long)left,
            (unsigned long long)settings.quota);
    }
    if (regions.size() >= most_regions) {
        return fail(UCUDA_ENOMEM, "too many allocations");
    }
    bytes = (bytes + granule - 1) / granule * granule;
    uint64_t address = 0;
    int code = engine.alloc(call.header.device, bytes, &address);
    if (code != 0) {
        return from_engine(code, "alloc");
    }
    regions[address] = {bytes, call.header.device, false};
    used_bytes += bytes;
    ret[0] = address;
    return 0;
}

int commands::free(const ucuda_call &call) {
    auto found = regions.find(call.a[0]);
    if (found == regions.end() || found->second.global) {
        return fail(UCUDA_EINVAL, "free: 0x%llx was not allocated", (unsigned long long)call.a[0]);
    }
    region gone = found->second;
    regions.erase(found);
    used_bytes -= gone.bytes;
    return from_engine(engine.free(gone.device, call.a[0]), "free");
}

int commands::copy(const ucuda_copy &what, const uint8_t *data) {
    object stream = 0;
    uint64_t on_device_bytes, on_host_bytes;
    if (!find_stream(what.header, &stream)) {
        return fail(UCUDA_EHANDLE, "copy: device %u has no stream %u", what.header.device,
            what.header.stream);
    }
    if (!extent_of(what.bytes, what.rows, what.device_pitch, &on_device_bytes)
        || !extent_of(what.bytes, what.rows, what.host_pitch, &on_host_bytes)) {
        return fail(UCUDA_EINVAL, "copy: %u rows of %llu bytes, pitches %u and %u", what.rows,
            (unsigned long long)what.bytes, what.device_pitch, what.host_pitch);
    }
    if (!on_device(what.device, on_device_bytes)) {
        return fail(UCUDA_EINVAL, "copy: [0x%llx, +%llu) is not in an allocation",
            (unsigned long long)what.device, (unsigned long long)on_device_bytes);
    }
    const uint8_t *from = nullptr;
    uint8_t *to = nullptr;
    switch (what.kind) {
        case UCUDA_INLINE_TO_DEVICE:
            from = on_host_bytes <= what.header.size - sizeof(what) ? data : nullptr;
            break;
        case UCUDA_HEAP_TO_DEVICE:
            from = in_heap(what.host, on_host_bytes);
            break;
        case UCUDA_WINDOW_TO_DEVICE:
            from = in_window(what.host, on_host_bytes, false);
            break;
        case UCUDA_DEVICE_TO_HEAP:
            to = in_heap(what.host, on_host_bytes);
            break;
        case UCUDA_DEVICE_TO_WINDOW:
            to = in_window(what.host, on_host_bytes, true);
            break;
        case UCUDA_DEVICE_TO_DEVICE:
            if (!on_device(what.host, on_host_bytes)) {
                return fail(UCUDA_EINVAL, "copy: from [0x%llx, +%llu), not in an allocation",
                    (unsigned long long)what.host, (unsigned long long)on_host_bytes);
            }
            return from_engine(engine.copy_on_device(what.header.device, stream, what),
                "copy on the device");
        default:
            return fail(UCUDA_EINVAL, "copy: kind %u", what.kind);
    }
    if (from) {
        int code = engine.copy_to_device(what.header.device, stream, what, from);
        // The guest's memory is its own again when it hears of the end.
        if (code == 0 && what.kind == UCUDA_WINDOW_TO_DEVICE
            && (what.header.flags & UCUDA_WANT_CQE)) {
            code = engine.synchronize(what.header.device, stream, false);
        }
        return from_engine(code, "copy to the device");
    }
    if (to) {
        int code = engine.copy_from_device(what.header.device, stream, what, to);
        if (code == 0 && (what.header.flags & UCUDA_WANT_CQE)) {
            code = engine.synchronize(what.header.device, stream, false);
        }
        return from_engine(code, "copy from the device");
    }
    return fail(UCUDA_EINVAL, "copy: [0x%llx, +%llu) is not for copies of kind %u",
        (unsigned long long)what.host, (unsigned long long)on_host_bytes, what.kind);
}

int commands::set(const ucuda_set &what) {
    object stream = 0;
    uint64_t extent;
    if (!find_stream(what.header, &stream)) {
        return fail(UCUDA_EHANDLE, "set: device %u has no stream %u", what.header.device,
            what.header.stream);
    }
    bool unit_is_good = what.unit == 1 || what.unit == 2 || what.unit == 4;
    if (!unit_is_good || what.bytes % what.unit || what.device % what.unit
        || (what.rows > 1 && what.pitch % what.unit)
        || !extent_of(what.bytes, what.rows, what.pitch, &extent)) {
        return fail(UCUDA_EINVAL, "set: %u rows of %llu bytes by %u, pitch %u", what.rows,
            (unsigned long long)what.bytes, what.unit, what.pitch);
    }
    if (!on_device(what.device, extent)) {
        return fail(UCUDA_EINVAL, "set: [0x%llx, +%llu) is not in an allocation",
            (unsigned long long)what.device, (unsigned long long)extent);
    }
    return from_engine(engine.set(what.header.device, stream, what), "set");
}

} // namespace gpud
