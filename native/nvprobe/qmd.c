// Queue metadata: the block of words that describes a kernel launch to the card. See nvprobe.h.
//
// The places of the fields in `places` are transcribed from NVIDIA's open-gpu-doc,
// classes/compute/cl{b1,c1,c3,c5,c6,cb}c0qmd.h, which say:
//
// Copyright (c) 2001-2023, NVIDIA CORPORATION. All rights reserved.
//
// Permission is hereby granted, free of charge, to any person obtaining a copy of this software and
// associated documentation files (the "Software"), to deal in the Software without restriction,
// including without limitation the rights to use, copy, modify, merge, publish, distribute,
// sublicense, and/or sell copies of the Software, and to permit persons to whom the Software is
// furnished to do so, subject to the following conditions:
//
// The above copyright notice and this permission notice shall be included in all copies or
// substantial portions of the Software.
//
// THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT
// NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND
// NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM,
// DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
// OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
#include "nvprobe.h"

#include <string.h>

// Versions of the metadata: columns of `places`.
enum { V1_07, V2_01, V2_02, V2_03, V3_00, V4_00, VERSIONS };

static const struct nvprobe_bits places[NVPROBE_QMD_FIELDS][VERSIONS] = {
    [NVPROBE_QMD_MAJOR] = {{580, 4}, {580, 4}, {580, 4}, {580, 4}, {580, 4}, {580, 4}},
    [NVPROBE_QMD_MINOR] = {{576, 4}, {576, 4}, {576, 4}, {576, 4}, {576, 4}, {576, 4}},
    [NVPROBE_QMD_TYPE] = {{0}, {0}, {0}, {0}, {0}, {23, 3}},
    [NVPROBE_QMD_GLOBAL_CACHING] = {{198, 1}, {134, 1}, {134, 1}, {134, 1}, {134, 1}, {0}},
    [NVPROBE_QMD_DROP_TEXTURE_HEADERS] = {{250, 1}, {186, 1}, {186, 1}, {186, 1}, {186, 1},
        {602, 1}},
    [NVPROBE_QMD_DROP_TEXTURE_SAMPLERS] = {{251, 1}, {187, 1}, {187, 1}, {187, 1}, {187, 1},
        {603, 1}},
    [NVPROBE_QMD_DROP_TEXTURE_DATA] = {{252, 1}, {188, 1}, {188, 1}, {188, 1}, {188, 1}, {604, 1}},
    [NVPROBE_QMD_DROP_SHADER_DATA] = {{253, 1}, {189, 1}, {189, 1}, {189, 1}, {189, 1}, {605, 1}},
    [NVPROBE_QMD_DROP_INSTRUCTIONS] = {{254, 1}, {190, 1}, {190, 1}, {190, 1}, {190, 1}, {606, 1}},
    [NVPROBE_QMD_DROP_CONSTANTS] = {{255, 1}, {191, 1}, {191, 1}, {191, 1}, {191, 1}, {607, 1}},
    [NVPROBE_QMD_CALL_LIMIT] = {{378, 1}, {378, 1}, {378, 1}, {378, 1}, {378, 1}, {568, 1}},
    [NVPROBE_QMD_SAMPLER_INDEX] = {{382, 1}, {382, 1}, {382, 1}, {382, 1}, {382, 1}, {569, 1}},
    [NVPROBE_QMD_MEMBAR] = {{368, 2}, {368, 2}, {368, 2}, {368, 2}, {368, 2}, {1136, 2}},
    [NVPROBE_QMD_GRID_X] = {{384, 32}, {384, 32}, {384, 32}, {384, 32}, {384, 32}, {1024, 32}},
    [NVPROBE_QMD_GRID_Y] = {{416, 16}, {416, 16}, {416, 16}, {416, 16}, {416, 16}, {1056, 16}},
    [NVPROBE_QMD_GRID_Z] = {{432, 16}, {448, 16}, {448, 16}, {448, 16}, {448, 16}, {1088, 16}},
    [NVPROBE_QMD_BLOCK_X] = {{592, 16}, {592, 16}, {592, 16}, {592, 16}, {592, 16}, {1152, 16}},
    [NVPROBE_QMD_BLOCK_Y] = {{608, 16}, {608, 16}, {608, 16}, {608, 16}, {608, 16}, {1168, 16}},
    [NVPROBE_QMD_BLOCK_Z] = {{624, 16}, {624, 16}, {624, 16}, {624, 16}, {624, 16}, {1184, 16}},
    [NVPROBE_QMD_PROGRAM_LOW] = {{256, 32}, {256, 32}, {1536, 32}, {1536, 32}, {1536, 32},
        {1216, 32}},
    [NVPROBE_QMD_PROGRAM_HIGH] = {{0}, {0}, {1568, 17}, {1568, 17}, {1568, 17}, {1248, 25}},
    [NVPROBE_QMD_SHARED] = {{544, 18}, {544, 18}, {544, 18}, {544, 18}, {544, 18}, {584, 18}},
    [NVPROBE_QMD_L1] = {{669, 3}, {0}, {0}, {0}, {0}, {0}},
    [NVPROBE_QMD_SHARED_MIN] = {{0}, {0}, {562, 7}, {562, 7}, {562, 6}, {608, 6}},
    [NVPROBE_QMD_SHARED_MAX] = {{0}, {0}, {569, 7}, {569, 7}, {569, 6}, {614, 6}},
    [NVPROBE_QMD_SHARED_TARGET] = {{0}, {0}, {657, 7}, {657, 7}, {657, 6}, {620, 6}},
    [NVPROBE_QMD_REGISTERS] = {{1496, 8}, {984, 8}, {648, 9}, {648, 9}, {648, 9}, {1200, 9}},
    [NVPROBE_QMD_BARRIERS] = {{1467, 5}, {955, 5}, {955, 5}, {955, 5}, {763, 5}, {1211, 5}},
    [NVPROBE_QMD_LOCAL_LOW] = {{1440, 24}, {928, 24}, {928, 24}, {928, 24}, {736, 24}, {512, 24}},
    [NVPROBE_QMD_LOCAL_HIGH] = {{1472, 24}, {960, 24}, {960, 24}, {960, 24}, {1600, 24}, {544, 24}},
    [NVPROBE_QMD_CALL_STACK] = {{1504, 24}, {992, 24}, {992, 24}, {0}, {0}, {0}},
    [NVPROBE_QMD_CONSTANT_VALID] = {{640, 1, 1}, {640, 1, 1}, {640, 1, 1}, {640, 1, 1}, {640, 1, 1},
        {416, 1, 4}},
    [NVPROBE_QMD_CONSTANT_LOW] = {{928, 32, 64}, {1024, 32, 64}, {1024, 32, 64}, {1024, 32, 64},
        {1024, 32, 64}, {1536, 32, 64}},
    [NVPROBE_QMD_CONSTANT_HIGH] = {{960, 8, 64}, {1056, 17, 64}, {1056, 17, 64}, {1056, 17, 64},
        {1056, 17, 64}, {1568, 19, 64}},
    [NVPROBE_QMD_CONSTANT_SIZE] = {{975, 17, 64}, {1075, 13, 64}, {1075, 13, 64}, {1075, 13, 64},
        {1075, 13, 64}, {1587, 13, 64}},
    [NVPROBE_QMD_CONSTANT_DROP] = {{974, 1, 64}, {1074, 1, 64}, {1074, 1, 64}, {1074, 1, 64},
        {1074, 1, 64}, {419, 1, 4}},
    [NVPROBE_QMD_RELEASE] = {{202, 1}, {138, 1}, {138, 1}, {138, 1}, {823, 1}, {320, 1, 16}},
    [NVPROBE_QMD_RELEASE_LOW] = {{736, 32}, {736, 32}, {736, 32}, {736, 32}, {768, 32}, {640, 32}},
    [NVPROBE_QMD_RELEASE_HIGH] = {{768, 8}, {768, 8}, {768, 8}, {768, 8}, {800, 8}, {672, 25}},
    [NVPROBE_QMD_RELEASE_SIZE] = {{799, 1}, {799, 1}, {799, 1}, {799, 1}, {830, 2}, {321, 2, 16}},
    [NVPROBE_QMD_RELEASE_MEMBAR] = {{366, 1}, {366, 1}, {366, 1}, {366, 1}, {819, 1}, {323, 1, 16}},
    [NVPROBE_QMD_RELEASE_PAYLOAD] = {{800, 32}, {800, 32}, {800, 32}, {800, 32}, {832, 32},
        {704, 32}},
};

static const struct nvprobe_qmd_layout layouts[] = {
    [NVPROBE_MAXWELL] =
        {.version = V1_07, .major = 1, .minor = 7, .words = 64, .parameters = 0x140},
    [NVPROBE_PASCAL] = {.version = V2_01,
        .major = 2,
        .minor = 1,
        .words = 64,
        .parameters = 0x140,
        .size_shift = 4},
    [NVPROBE_VOLTA] = {.version = V2_02,
        .major = 2,
        .minor = 2,
        .words = 64,
        .parameters = 0x160,
        .size_shift = 4,
        .wide_program = true},
    [NVPROBE_TURING] = {.version = V2_03,
        .major = 2,
        .minor = 3,
        .words = 64,
        .parameters = 0x160,
        .size_shift = 4,
        .wide_program = true},
    [NVPROBE_AMPERE] = {.version = V3_00,
        .major = 3,
        .minor = 0,
        .words = 64,
        .parameters = 0x160,
        .size_shift = 4,
        .wide_program = true},
    [NVPROBE_ADA] = {.version = V3_00,
        .major = 3,
        .minor = 0,
        .words = 64,
        .parameters = 0x160,
        .size_shift = 4,
        .wide_program = true},
    [NVPROBE_HOPPER] = {.version = V4_00,
        .major = 4,
        .minor = 0,
        .words = 96,
        .parameters = 0x210,
        .constant_shift = 6,
        .size_shift = 4,
        .wide_program = true},
};

// How much of the memory that is shared with the L1 cache may be set aside, in KiB (CUDA C++
// Programming Guide, "Compute Capabilities"); 0 ends the list.
static const uint8_t shared_sizes[NVPROBE_GENERATIONS][10] = {
    [NVPROBE_VOLTA] = {8, 16, 32, 64, 96},
    [NVPROBE_TURING] = {32, 64},
    [NVPROBE_AMPERE] = {8, 16, 32, 64, 100, 132, 164},
    [NVPROBE_ADA] = {8, 16, 32, 64, 100},
    [NVPROBE_HOPPER] = {8, 16, 32, 64, 100, 132, 164, 196, 228},
};

// Values of fields, from the same headers.
enum {
    TYPE_GRID = 2,
    CALL_LIMIT_NO_CHECK = 1,
    MEMBAR_SYSTEM = 1,
    RELEASE_ONE_WORD = 1,
    L1_STEP = 16 * 1024, // the directly addressable part, 1 to 3 of these

    SHARED_ALIGN = 0x100, // bytes
    LOCAL_ALIGN = 0x10,
    SHARED_STEP = 4, // KiB; sizes of the configuration count from 1
};

const struct nvprobe_qmd_layout *nvprobe_qmd_layout(enum nvprobe_generation generation) {
    bool known = generation > NVPROBE_UNKNOWN && generation < NVPROBE_GENERATIONS;
    return known ? &layouts[generation] : NULL;
}

struct nvprobe_bits nvprobe_qmd_bits(const struct nvprobe_qmd_layout *layout,
    enum nvprobe_qmd_field field) {
    return places[field][layout->version];
}

uint16_t nvprobe_compute_class(const struct nvprobe_chip *chip) {
    switch (chip->generation) {
        case NVPROBE_MAXWELL:
            return chip->id < 0x120 ? 0xb0c0 : 0xb1c0;
        case NVPROBE_PASCAL:
            return chip->id == 0x130 ? 0xc0c0 : 0xc1c0;
        case NVPROBE_VOLTA:
            return 0xc3c0;
        case NVPROBE_TURING:
            return 0xc5c0;
        case NVPROBE_AMPERE:
            return chip->id == 0x170 ? 0xc6c0 : 0xc7c0;
        case NVPROBE_ADA:
            return 0xc9c0;
        case NVPROBE_HOPPER:
            return 0xcbc0;
        default:
            return 0;
    }
}

bool nvprobe_qmd_set(const struct nvprobe_qmd_layout *layout, uint32_t *qmd,
    enum nvprobe_qmd_field field, unsigned index, uint64_t value) {
    struct nvprobe_bits bits = places[field][layout->version];
    if (bits.width == 0 || value >> bits.width != 0
        || index >= (bits.stride ? NVPROBE_BANKS : 1u)) {
        return false;
    }
    // No field crosses a word's end: a test looks at all of them.
    unsigned low = bits.low + index * bits.stride;
    uint32_t mask = (uint32_t)((UINT64_C(1) << bits.width) - 1) << low % 32;
    qmd[low / 32] = (qmd[low / 32] & ~mask) | (uint32_t)value << low % 32;
    return true;
}

// A launch being written: fields that the generation lacks are passed over where they say only how
// fast, and are an error where they say what.
struct builder {
    const struct nvprobe_qmd_layout *layout;
    uint32_t *qmd;
    bool fits;
};

static void must(struct builder *b, enum nvprobe_qmd_field field, unsigned index, uint64_t value) {
    b->fits &= nvprobe_qmd_set(b->layout, b->qmd, field, index, value);
}

static void may(struct builder *b, enum nvprobe_qmd_field field, uint64_t value) {
    if (places[field][b->layout->version].width != 0) {
        must(b, field, 0, value);
    }
}

static uint32_t round_up(uint32_t value, uint32_t step) {
    return value + (step - value % step) % step;
}

static void set_shared(struct builder *b, enum nvprobe_generation generation, uint32_t wanted) {
    uint32_t bytes = round_up(wanted, SHARED_ALIGN), most = 0, least = 0;
    must(b, NVPROBE_QMD_SHARED, 0, bytes);
    if (generation < NVPROBE_VOLTA) {
        may(b, NVPROBE_QMD_L1, bytes <= L1_STEP ? 1 : round_up(bytes, L1_STEP) / L1_STEP);
        b->fits &= bytes <= 3 * L1_STEP;
        return;
    }
    for (const uint8_t *size = shared_sizes[generation]; *size; size++) {
        most = *size;
        if (least == 0 && *size * 1024u >= bytes) {
            least = *size;
        }
    }
    b->fits &= least != 0;
    must(b, NVPROBE_QMD_SHARED_MIN, 0, least / SHARED_STEP + 1);
    must(b, NVPROBE_QMD_SHARED_TARGET, 0, least / SHARED_STEP + 1);
    must(b, NVPROBE_QMD_SHARED_MAX, 0, most / SHARED_STEP + 1);
}

static void set_banks(struct builder *b, const struct nvprobe_launch *launch) {
    unsigned shift = b->layout->constant_shift, size_shift = b->layout->size_shift;
    for (unsigned i = 0; i < NVPROBE_BANKS; i++) {
        uint64_t address = launch->bank[i].address;
        uint32_t bytes = launch->bank[i].bytes;
        if (bytes == 0) {
            continue;
        }
        b->fits &= (address & ((1u << shift) - 1)) == 0 && (bytes & ((1u << size_shift) - 1)) == 0;
        must(b, NVPROBE_QMD_CONSTANT_VALID, i, 1);
        must(b, NVPROBE_QMD_CONSTANT_DROP, i, 1);
        must(b, NVPROBE_QMD_CONSTANT_LOW, i, (uint32_t)(address >> shift));
        must(b, NVPROBE_QMD_CONSTANT_HIGH, i, address >> shift >> 32);
        must(b, NVPROBE_QMD_CONSTANT_SIZE, i, bytes >> size_shift);
    }
}

static void set_program(struct builder *b, const struct nvprobe_launch *launch) {
    if (b->layout->wide_program) {
        must(b, NVPROBE_QMD_PROGRAM_LOW, 0, (uint32_t)launch->program);
        must(b, NVPROBE_QMD_PROGRAM_HIGH, 0, launch->program >> 32);
    } else {
        must(b, NVPROBE_QMD_PROGRAM_LOW, 0, launch->program - launch->program_region);
    }
}

static void set_release(struct builder *b, const struct nvprobe_launch *launch) {
    b->fits &= (launch->release & 3) == 0;
    must(b, NVPROBE_QMD_RELEASE, 0, 1);
    must(b, NVPROBE_QMD_RELEASE_LOW, 0, (uint32_t)launch->release);
    must(b, NVPROBE_QMD_RELEASE_HIGH, 0, launch->release >> 32);
    must(b, NVPROBE_QMD_RELEASE_SIZE, 0, RELEASE_ONE_WORD);
    must(b, NVPROBE_QMD_RELEASE_MEMBAR, 0, MEMBAR_SYSTEM);
    must(b, NVPROBE_QMD_RELEASE_PAYLOAD, 0, launch->payload);
}

bool nvprobe_qmd_build(enum nvprobe_generation generation, const struct nvprobe_launch *launch,
    uint32_t *qmd) {
    const struct nvprobe_qmd_layout *layout = nvprobe_qmd_layout(generation);
    if (!layout) {
        return false;
    }
    struct builder b = {.layout = layout, .qmd = qmd, .fits = true};
    memset(qmd, 0, layout->words * sizeof(*qmd));
    must(&b, NVPROBE_QMD_MAJOR, 0, layout->major);
    must(&b, NVPROBE_QMD_MINOR, 0, layout->minor);
    may(&b, NVPROBE_QMD_TYPE, TYPE_GRID);
    may(&b, NVPROBE_QMD_GLOBAL_CACHING, 1);
    for (unsigned i = NVPROBE_QMD_DROP_TEXTURE_HEADERS; i <= NVPROBE_QMD_DROP_CONSTANTS; i++) {
        must(&b, i, 0, 1);
    }
    must(&b, NVPROBE_QMD_CALL_LIMIT, 0, CALL_LIMIT_NO_CHECK);
    must(&b, NVPROBE_QMD_MEMBAR, 0, MEMBAR_SYSTEM);
    for (unsigned i = 0; i < 3; i++) {
        must(&b, NVPROBE_QMD_GRID_X + i, 0, launch->grid[i]);
        must(&b, NVPROBE_QMD_BLOCK_X + i, 0, launch->block[i]);
        b.fits &= launch->grid[i] != 0 && launch->block[i] != 0;
    }
    set_program(&b, launch);
    set_shared(&b, generation, launch->shared);
    must(&b, NVPROBE_QMD_LOCAL_LOW, 0, round_up(launch->local, LOCAL_ALIGN));
    must(&b, NVPROBE_QMD_REGISTERS, 0, launch->registers);
    must(&b, NVPROBE_QMD_BARRIERS, 0, launch->barriers);
    set_banks(&b, launch);
    if (launch->release) {
        set_release(&b, launch);
    }
    return b.fits;
}
