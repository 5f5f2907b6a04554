// Which NVIDIA cards the PCI bus has, how large their regions are, and what chip answers there: see
// nvprobe.h. Reads configuration space and registers; the only writes are native/pci's, which
// measure regions.
#include "nvprobe.h"

#include "../pci/pci.h"

enum {
    VENDOR_NVIDIA = 0x10de,
    CLASS_DISPLAY = 0x03,

    COMMAND = 0x04,
    COMMAND_MEMORY = 2,

    // PCI Express 5.0, sections 7.6.3 and 7.8.6.
    EXTENDED_FIRST = 0x100,
    EXTENDED_END = 0x1000,
    CAPABILITY_RESIZABLE = 0x0015,
    RESIZABLE_REGIONS = 6,

    BOOT_0 = 0x000,
    BOOT_42 = 0xa00,
    ROM = 0x300000, // in region 0
    REGISTERS_MIN = ROM + NVPROBE_ROM_MAX,
};

struct nvprobe_hooks nvprobe_hooks;

static const struct {
    uint16_t id;
    char name[6];
} chips[] = {
    {0x117, "GM107"},
    {0x118, "GM108"},
    {0x120, "GM200"},
    {0x124, "GM204"},
    {0x126, "GM206"},
    {0x130, "GP100"},
    {0x132, "GP102"},
    {0x134, "GP104"},
    {0x136, "GP106"},
    {0x137, "GP107"},
    {0x138, "GP108"},
    {0x140, "GV100"},
    {0x162, "TU102"},
    {0x164, "TU104"},
    {0x166, "TU106"},
    {0x167, "TU117"},
    {0x168, "TU116"},
    {0x170, "GA100"},
    {0x172, "GA102"},
    {0x173, "GA103"},
    {0x174, "GA104"},
    {0x176, "GA106"},
    {0x177, "GA107"},
    {0x180, "GH100"},
    {0x192, "AD102"},
    {0x193, "AD103"},
    {0x194, "AD104"},
    {0x196, "AD106"},
    {0x197, "AD107"},
};

static enum nvprobe_generation generation_of(unsigned architecture) {
    switch (architecture) {
        case 0x11:
        case 0x12:
            return NVPROBE_MAXWELL;
        case 0x13:
            return NVPROBE_PASCAL;
        case 0x14:
            return NVPROBE_VOLTA;
        case 0x16:
            return NVPROBE_TURING;
        case 0x17:
            return NVPROBE_AMPERE;
        case 0x18:
            return NVPROBE_HOPPER;
        case 0x19:
            return NVPROBE_ADA;
    }
    return NVPROBE_UNKNOWN;
}

const char *nvprobe_generation_name(enum nvprobe_generation generation) {
    static const char names[NVPROBE_GENERATIONS][8] = {"unknown", "Maxwell", "Pascal", "Volta",
        "Turing", "Ampere", "Hopper", "Ada"};
    return names[generation < NVPROBE_GENERATIONS ? generation : NVPROBE_UNKNOWN];
}

// Ones are what an absent device reads as, 0xbad..... is the card's own answer for a register that
// is out of reach. Bits 31:29 are 0 in both registers of every chip.
static bool is_answer(uint32_t value) {
    return value != 0 && value != 0xffffffff && value >> 20 != 0xbad;
}

// dev_boot: minor revision 3:0, major 7:4, implementation 23:20, architecture 28:24, whose top bit
// is bit 8. BOOT_42 has the architecture in one piece, 29:24, the implementation at 23:20, the
// major revision at 19:16 and the minor at 15:12; chips before Pascal leave it 0.
bool nvprobe_chip(uint32_t boot0, uint32_t boot42, struct nvprobe_chip *out) {
    *out = (struct nvprobe_chip){0};
    if (!is_answer(boot0)) {
        return false;
    }
    unsigned architecture = (boot0 >> 24 & 0x1f) | (boot0 >> 8 & 1) << 5;
    unsigned implementation = boot0 >> 20 & 0xf;
    out->id = architecture << 4 | implementation;
    out->revision = boot0 & 0xff;
    out->generation = generation_of(architecture);
    for (size_t i = 0; i < sizeof(chips) / sizeof(chips[0]); i++) {
        if (chips[i].id == out->id) {
            out->name = chips[i].name;
        }
    }
    // A register that cannot be read contradicts nothing.
    return !is_answer(boot42) || (boot42 >> 20 & 0x3ff) == out->id;
}

uint64_t nvprobe_resizable(uint16_t bdf, unsigned bar) {
    if (!nvprobe_hooks.read_extended) {
        return 0;
    }
    // Each capability has at least a header: more steps than headers fit would be a loop.
    unsigned offset = EXTENDED_FIRST;
    for (unsigned steps = 0; steps < (EXTENDED_END - EXTENDED_FIRST) / 4; steps++) {
        uint32_t header = nvprobe_hooks.read_extended(bdf, offset);
        if (header == 0 || header == 0xffffffff) {
            return 0;
        }
        if ((header & 0xffff) != CAPABILITY_RESIZABLE) {
            offset = header >> 20 & 0xffc;
            if (offset < EXTENDED_FIRST) {
                return 0;
            }
            continue;
        }
        // Pairs of a capability and a control register; the first control register has the number
        // of pairs at 7:5, each one its region's index at 2:0. Sizes of 1 MiB to 128 TiB are bits
        // 31:4 of the capability, larger ones bits 31:16 of the control register.
        unsigned regions = 1;
        for (unsigned i = 0; i < regions && offset + 8 * i + 12 <= EXTENDED_END; i++) {
            uint32_t capability = nvprobe_hooks.read_extended(bdf, offset + 4 + 8 * i);
            uint32_t control = nvprobe_hooks.read_extended(bdf, offset + 8 + 8 * i);
            if (i == 0) {
                regions = control >> 5 & 7;
                if (regions > RESIZABLE_REGIONS) {
                    return 0;
                }
            }
            if (i < regions && (control & 7) == bar) {
                return capability >> 4 | (uint64_t)(control >> 16) << 28;
            }
        }
        return 0;
    }
    return 0;
}

// The registers of region 0 if they may be read: mapped, and decoded by the card. Decoding stays as
// the firmware left it.
static const volatile uint32_t *registers(uint16_t bdf, uint64_t address, uint64_t bytes) {
    if (!nvprobe_hooks.map_registers || address == 0 || bytes < REGISTERS_MIN
        || !(pci_read(bdf, COMMAND, 2) & COMMAND_MEMORY)) {
        return NULL;
    }
    return nvprobe_hooks.map_registers(address, REGISTERS_MIN);
}

static uint64_t memory_region(uint16_t bdf, unsigned index, uint64_t *address) {
    struct pci_bar bar = {0};
    if (!pci_bar(bdf, index, &bar) || bar.is_io) {
        return 0;
    }
    if (address) {
        *address = bar.address;
    }
    return bar.size;
}

static void examine(const struct pci_function *function, struct nvprobe_finding *out) {
    *out = (struct nvprobe_finding){
        .bdf = function->bdf,
        .device = function->device,
        .class24 = function->class24,
    };
    out->bar0 = memory_region(out->bdf, 0, &out->registers);
    out->bar1 = memory_region(out->bdf, 1, NULL);
    // Region 1 has 64-bit addresses on all these generations: 2 is its upper half.
    out->bar3 = memory_region(out->bdf, 3, NULL);
    out->bar1_sizes = nvprobe_resizable(out->bdf, 1);
    const volatile uint32_t *at = registers(out->bdf, out->registers, out->bar0);
    if (at) {
        out->answered = nvprobe_chip(at[BOOT_0 / 4], at[BOOT_42 / 4], &out->chip);
    }
}

size_t nvprobe_find(struct nvprobe_finding *found, size_t room) {
    static struct pci_function functions[256];
    size_t count = pci_scan(functions, sizeof(functions) / sizeof(functions[0]));
    size_t cards = 0;
    for (size_t i = 0; i < count && i < sizeof(functions) / sizeof(functions[0]); i++) {
        if (functions[i].vendor != VENDOR_NVIDIA || functions[i].class24 >> 16 != CLASS_DISPLAY) {
            continue;
        }
        if (cards < room) {
            examine(&functions[i], &found[cards]);
        }
        cards++;
    }
    return cards;
}

size_t nvprobe_read_rom(const struct nvprobe_finding *card, uint8_t *rom, size_t room) {
    const volatile uint32_t *at = registers(card->bdf, card->registers, card->bar0);
    size_t words = (room < NVPROBE_ROM_MAX ? room : NVPROBE_ROM_MAX) / 4;
    if (!at || words == 0) {
        return 0;
    }
    for (size_t i = 0; i < words; i++) {
        uint32_t word = at[ROM / 4 + i];
        for (unsigned byte = 0; byte < 4; byte++) {
            rom[4 * i + byte] = word >> 8 * byte;
        }
    }
    struct nvprobe_vbios vbios;
    if (!nvprobe_vbios(rom, 4 * words, &vbios)) {
        return 0;
    }
    const struct nvprobe_image *last = &vbios.image[vbios.n_images - 1];
    return last->start + last->bytes;
}
