// Words of a push buffer: see nvprobe.h. Formats are those of open-gpu-doc: classes/host/cla06f.h
// and clc56f.h (DMA_*, GP_ENTRY*, SEMAPHORE*, SEM_*), classes/compute/clb1c0.h and clc6c0.h.
#include "nvprobe.h"

#include <string.h>

enum {
    // A header word: operation 31:29, count 28:16, subchannel 15:13, method / 4 in 11:0.
    OPERATION_INCREMENTING = 1,
    OPERATION_NOT_INCREMENTING = 3,
    COUNT_MAX = 0x1fff,

    SUBCHANNEL_HOST = 0, // methods below 0x100 are the channel's on any subchannel

    SET_OBJECT = 0x0000,
    // Until Pascal
    SEMAPHORE_A = 0x0010,
    SEMAPHORE_ACQUIRE_GEQ = 4,
    SEMAPHORE_RELEASE = 2,
    SEMAPHORE_ACQUIRE_SWITCH = 1 << 12,
    SEMAPHORE_RELEASE_4BYTE = 1 << 24,
    // From Volta
    SEM_ADDRESS_LOW = 0x005c,
    SEM_RELEASE = 1,
    SEM_ACQUIRE_CIRCULAR_GEQ = 3,
    SEM_ACQUIRE_SWITCH = 1 << 12,
    SEM_RELEASE_WAIT = 1 << 20,

    LINE_LENGTH_IN = 0x0180, // then LINE_COUNT, OFFSET_OUT_UPPER, OFFSET_OUT
    LAUNCH_DMA = 0x01b0,
    LAUNCH_DMA_PITCH_FLUSH = 1 << 0 | 1 << 4,
    LOAD_INLINE_DATA = 0x01b4,
    SEND_PCAS_A = 0x02b4,
    SEND_SIGNALING_PCAS_B = 0x02bc,
    SIGNALING_INVALIDATE_SCHEDULE = 3,
    SET_PROGRAM_REGION_A = 0x1608,
};

static bool reserve(struct nvprobe_push *push, size_t words) {
    if (push->full || words > push->room - push->count) {
        push->full = true;
        return false;
    }
    return true;
}

static void put_header(struct nvprobe_push *push, unsigned operation, unsigned subchannel,
    unsigned method, unsigned count) {
    push->words[push->count++] =
        operation << 29 | count << 16 | (subchannel & 7) << 13 | (method / 4 & 0xfff);
}

void nvprobe_push_methods(struct nvprobe_push *push, unsigned subchannel, unsigned method,
    const uint32_t *values, unsigned count) {
    if (count > COUNT_MAX) {
        push->full = true;
    }
    if (!reserve(push, 1 + count)) {
        return;
    }
    put_header(push, OPERATION_INCREMENTING, subchannel, method, count);
    memcpy(push->words + push->count, values, count * sizeof(*values));
    push->count += count;
}

void nvprobe_push_method(struct nvprobe_push *push, unsigned subchannel, unsigned method,
    uint32_t value) {
    nvprobe_push_methods(push, subchannel, method, &value, 1);
}

void nvprobe_push_begin(struct nvprobe_push *push, const struct nvprobe_chip *chip,
    uint64_t program_region) {
    const struct nvprobe_qmd_layout *layout = nvprobe_qmd_layout(chip->generation);
    if (!layout) {
        push->full = true;
        return;
    }
    uint16_t class = nvprobe_compute_class(chip);
    nvprobe_push_method(push, NVPROBE_SUBCHANNEL_COMPUTE, SET_OBJECT, class);
    if (!layout->wide_program) {
        uint32_t region[] = {program_region >> 32, program_region};
        nvprobe_push_methods(push, NVPROBE_SUBCHANNEL_COMPUTE, SET_PROGRAM_REGION_A, region, 2);
    }
}

void nvprobe_push_inline(struct nvprobe_push *push, uint64_t to, const void *data, size_t bytes) {
    const uint8_t *from = data;
    while (bytes != 0) {
        size_t part = bytes < COUNT_MAX * 4u ? bytes : COUNT_MAX * 4u;
        uint32_t head[] = {part, 1, to >> 32, to};
        nvprobe_push_methods(push, NVPROBE_SUBCHANNEL_COMPUTE, LINE_LENGTH_IN, head, 4);
        nvprobe_push_method(push, NVPROBE_SUBCHANNEL_COMPUTE, LAUNCH_DMA, LAUNCH_DMA_PITCH_FLUSH);
        if (part % 4 != 0 || !reserve(push, 1 + part / 4)) {
            push->full = true;
            return;
        }
        put_header(push, OPERATION_NOT_INCREMENTING, NVPROBE_SUBCHANNEL_COMPUTE, LOAD_INLINE_DATA,
            part / 4);
        memcpy(push->words + push->count, from, part);
        push->count += part / 4;
        from += part;
        to += part;
        bytes -= part;
    }
}

void nvprobe_push_launch(struct nvprobe_push *push, uint64_t qmd) {
    if (qmd & 0xff || qmd >> 40) {
        push->full = true;
        return;
    }
    nvprobe_push_method(push, NVPROBE_SUBCHANNEL_COMPUTE, SEND_PCAS_A, qmd >> 8);
    nvprobe_push_method(push, NVPROBE_SUBCHANNEL_COMPUTE, SEND_SIGNALING_PCAS_B,
        SIGNALING_INVALIDATE_SCHEDULE);
}

static bool has_new_semaphores(enum nvprobe_generation generation) {
    return generation >= NVPROBE_VOLTA;
}

static void semaphore(struct nvprobe_push *push, enum nvprobe_generation generation,
    uint64_t address, uint32_t value, uint32_t old_operation, uint32_t new_operation) {
    if (address & 3 || address >> 40) {
        push->full = true;
    } else if (has_new_semaphores(generation)) {
        uint32_t words[] = {address, address >> 32, value, 0, new_operation};
        nvprobe_push_methods(push, SUBCHANNEL_HOST, SEM_ADDRESS_LOW, words, 5);
    } else {
        uint32_t words[] = {address >> 32, address, value, old_operation};
        nvprobe_push_methods(push, SUBCHANNEL_HOST, SEMAPHORE_A, words, 4);
    }
}

void nvprobe_push_acquire(struct nvprobe_push *push, enum nvprobe_generation generation,
    uint64_t address, uint32_t value) {
    semaphore(push, generation, address, value, SEMAPHORE_ACQUIRE_GEQ | SEMAPHORE_ACQUIRE_SWITCH,
        SEM_ACQUIRE_CIRCULAR_GEQ | SEM_ACQUIRE_SWITCH);
}

// Waits for all earlier work: that is RELEASE_WFI, whose bit means so when it is 0 in the older
// format (RELEASE_WFI_EN) and when it is 1 in the newer.
void nvprobe_push_release(struct nvprobe_push *push, enum nvprobe_generation generation,
    uint64_t address, uint32_t value) {
    semaphore(push, generation, address, value, SEMAPHORE_RELEASE | SEMAPHORE_RELEASE_4BYTE,
        SEM_RELEASE | SEM_RELEASE_WAIT);
}

// Word 0: address 31:2. Word 1: address 39:32 at 7:0, length in words at 30:10.
uint64_t nvprobe_ring_entry(uint64_t address, size_t words) {
    if (address & 3 || address >> 40 || words == 0 || words >> 21) {
        return 0;
    }
    return address | (uint64_t)words << 42;
}
