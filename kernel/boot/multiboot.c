// Multiboot 1 adapter: copies what the loader left in low memory into `struct bootinfo`, so that
// its memory can be given away.
// Source: Multiboot Specification 0.6.96, section 3.3 "Boot information format".
#include "boot/multiboot.h"

#include "boot/bootinfo.h"
#include "crash.h"

#define MULTIBOOT_LOADER_MAGIC 0x2BADB002
#define MB_INFO_MEMORY (1u << 0)
#define MB_INFO_CMDLINE (1u << 2)
#define MB_INFO_MODS (1u << 3)
#define MB_INFO_MMAP (1u << 6)

struct mb_info {
    uint32_t flags;
    uint32_t mem_lower, mem_upper; // KiB
    uint32_t boot_device;
    uint32_t cmdline;
    uint32_t mods_count, mods_addr;
    uint32_t syms[4];
    uint32_t mmap_length, mmap_addr;
};

struct mb_module {
    uint32_t start, end, string, reserved;
};

// `size` does not count itself, so entries lie `size + 4` bytes apart.
struct mb_mmap {
    uint32_t size;
    uint64_t addr, len;
    uint32_t type; // 1 = usable RAM
} __attribute__((packed));

void multiboot_parse(uint32_t magic, uint32_t info_addr) {
    const struct mb_info *info = (const struct mb_info *)(uintptr_t)info_addr;
    if (magic != MULTIBOOT_LOADER_MAGIC) {
        panic("boot: not started by a Multiboot loader (eax=%x)", magic);
    }
    bootinfo.protocol = "multiboot";
    if (info->flags & MB_INFO_CMDLINE) {
        bootinfo_set_cmdline((const char *)(uintptr_t)info->cmdline);
    }
    if (info->flags & MB_INFO_MMAP) {
        uint64_t at = info->mmap_addr, end = at + info->mmap_length;
        while (at < end) {
            const struct mb_mmap *e = (const struct mb_mmap *)at;
            if (e->type == 1) {
                bootinfo_add_ram(e->addr, e->len);
            }
            at += e->size + 4;
        }
    } else if (info->flags & MB_INFO_MEMORY) {
        bootinfo_add_ram(0, (uint64_t)info->mem_lower << 10);
        bootinfo_add_ram(0x100000, (uint64_t)info->mem_upper << 10);
    }
    if (info->flags & MB_INFO_MODS) {
        const struct mb_module *mods = (const struct mb_module *)(uintptr_t)info->mods_addr;
        for (uint32_t i = 0; i < info->mods_count; i++) {
            bootinfo_add_module((const char *)(uintptr_t)mods[i].string, mods[i].start,
                mods[i].end - mods[i].start);
        }
    }
}
