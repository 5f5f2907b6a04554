// Multiboot 2 adapter: copies what the loader left in memory into `struct bootinfo`, so that its
// memory can be given away.
// Source: Multiboot2 Specification 2.0, 3.6 "Boot information"; UEFI Specification 2.10, 7.2.3
// (memory descriptors).
#include "boot/multiboot2.h"

#include "boot/bootinfo.h"
#include "bytes.h"

enum {
    TAG_END = 0,
    TAG_CMDLINE = 1,
    TAG_MODULE = 3,
    TAG_BASIC_MEMORY = 4,
    TAG_MEMORY_MAP = 6,
    TAG_FRAMEBUFFER = 8,
    TAG_EFI64_TABLE = 12,
    TAG_RSDP_OLD = 14,
    TAG_RSDP_NEW = 15,
    TAG_EFI_MAP = 17,
};

#define MAP_USABLE 1
#define FRAMEBUFFER_RGB 1

#define EFI_PAGE 4096ul

struct tag {
    const uint8_t *p; // with its type and size
    size_t size;
};

// `count` bytes at `at` of a tag, little-endian; 0 behind its end.
static uint64_t get(struct tag t, size_t at, unsigned count) {
    uint64_t v = 0;
    for (unsigned i = 0; i < count && at + count <= t.size; i++) {
        v |= (uint64_t)t.p[at + i] << 8 * i;
    }
    return v;
}

// Copies the text at `at` of a tag, which may lack its NUL.
static void copy_text(char *to, size_t room, struct tag t, size_t at) {
    size_t i = 0;
    for (; at + i < t.size && t.p[at + i] && i + 1 < room; i++) {
        to[i] = (char)t.p[at + i];
    }
    to[i] = 0;
}

// A range that runs over the end of the address space ends there.
static void add_ram(uint64_t start, uint64_t size) {
    bootinfo_add_ram(start, size > -1ul - start ? -1ul - start : size);
}

static void take_module(struct tag t) {
    static char string[BOOT_CMDLINE_MAX];
    uint64_t start = get(t, 8, 4), end = get(t, 12, 4);
    if (t.size > 16 && end >= start) {
        copy_text(string, sizeof(string), t, 16);
        bootinfo_add_module(string, start, end - start);
    }
}

static void take_memory_map(struct tag t) {
    size_t entry = get(t, 8, 4);
    if (entry < 20) { // 3.6.8: address, length, type
        return;
    }
    for (size_t at = 16; at < t.size && t.size - at >= entry; at += entry) {
        if (get(t, at + 16, 4) == MAP_USABLE) {
            add_ram(get(t, at, 8), get(t, at + 8, 8));
        }
    }
}

// UEFI 7.2.3: what is an application's once boot services have ended.
static bool is_free(uint64_t type) {
    return (type >= 1 && type <= 4) || type == 7; // loader, boot services, conventional
}

static void take_efi_map(struct tag t) {
    size_t entry = get(t, 8, 4);
    if (entry < 40) { // type, physical and virtual start, pages, attributes
        return;
    }
    for (size_t at = 16; at < t.size && t.size - at >= entry; at += entry) {
        uint64_t pages = get(t, at + 24, 8);
        if (is_free(get(t, at, 4)) && pages <= -1ul / EFI_PAGE) {
            add_ram(get(t, at + 8, 8), pages * EFI_PAGE);
        }
    }
}

static void take_framebuffer(struct tag t) {
    struct boot_framebuffer f = {
        .address = get(t, 8, 8),
        .pitch = (uint32_t)get(t, 16, 4),
        .width = (uint32_t)get(t, 20, 4),
        .height = (uint32_t)get(t, 24, 4),
        .bits = (uint8_t)get(t, 28, 1),
    };
    if (get(t, 29, 1) != FRAMEBUFFER_RGB || t.size < 38) {
        return; // indexed colours, or a text screen
    }
    for (unsigned i = 0; i < 3; i++) { // red, green, blue: position, then number of bits
        f.shift[i] = (uint8_t)get(t, 32 + 2 * i, 1);
        f.size[i] = (uint8_t)get(t, 33 + 2 * i, 1);
    }
    bootinfo_set_framebuffer(&f);
}

// 3.6.11, 3.6.12: a copy of the RSDP.
static void take_rsdp(struct tag t, size_t least) {
    static uint64_t copy[5]; // of 36 bytes, aligned
    if (t.size < 8 + least || (bootinfo.rsdp && least == 20)) {
        return;
    }
    size_t n = t.size - 8 < 36 ? t.size - 8 : 36;
    kmemset(copy, 0, sizeof(copy));
    kmemcpy(copy, t.p + 8, n);
    bootinfo.rsdp = copy;
}

static void take(struct tag t, bool *have_map, struct tag *efi_map) {
    static char line[BOOT_CMDLINE_MAX];
    switch (get(t, 0, 4)) {
        case TAG_CMDLINE:
            copy_text(line, sizeof(line), t, 8);
            bootinfo_set_cmdline(line);
            break;
        case TAG_MODULE:
            take_module(t);
            break;
        case TAG_MEMORY_MAP:
            *have_map = true;
            take_memory_map(t);
            break;
        case TAG_FRAMEBUFFER:
            take_framebuffer(t);
            break;
        case TAG_EFI64_TABLE:
            bootinfo.protocol = "multiboot2, UEFI";
            break;
        case TAG_RSDP_OLD:
            take_rsdp(t, 20);
            break;
        case TAG_RSDP_NEW:
            take_rsdp(t, 36);
            break;
        case TAG_EFI_MAP:
            *efi_map = t;
            break;
    }
}

bool multiboot2_parse(const void *info, size_t limit) {
    struct tag all = {info, limit}, efi_map = {0}, basic = {0};
    size_t total = limit < 8 ? 0 : get(all, 0, 4);
    bool have_map = false;
    bootinfo.protocol = "multiboot2";
    if (total < 16 || total > limit) {
        return false;
    }
    // 3.6.2: each tag begins at a multiple of 8, and its size does not count the padding.
    for (size_t at = 8; at + 8 <= total;) {
        struct tag t = {all.p + at, 8};
        size_t size = get(t, 4, 4);
        if (get(t, 0, 4) == TAG_END || size < 8 || size > total - at) {
            break;
        }
        t.size = size;
        if (get(t, 0, 4) == TAG_BASIC_MEMORY) {
            basic = t;
        }
        take(t, &have_map, &efi_map);
        at += ALIGN_UP(size, 8);
    }
    if (!have_map && efi_map.size) {
        take_efi_map(efi_map);
    } else if (!have_map && basic.size >= 16) {
        add_ram(0, get(basic, 8, 4) << 10);
        add_ram(MiB, get(basic, 12, 4) << 10);
    }
    return true;
}
