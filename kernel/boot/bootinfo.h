// What a boot protocol says to the kernel. One adapter per protocol, such as multiboot2.c, fills
// this; nothing past boot/ knows which protocol it was.
#ifndef CLLM_BOOT_BOOTINFO_H
#define CLLM_BOOT_BOOTINFO_H

#include "include/machine.h"

#define BOOT_MAX_RAM 128
#define BOOT_MAX_MODULES 16
#define BOOT_MAX_CPUS 64
#define BOOT_CMDLINE_MAX 1024

struct boot_range {
    uint64_t start; // physical address, bytes
    uint64_t size;  // bytes
};

// A screen of pixels, as the firmware left it. `address` is 0 where there is none that the kernel
// can use. Colours are red, green, blue: `size` bits from bit `shift` on.
struct boot_framebuffer {
    uint64_t address;
    uint32_t pitch; // bytes from one row to the next
    uint32_t width, height;
    uint8_t bits; // of a pixel: 24 or 32
    uint8_t shift[3], size[3];
};

struct bootinfo {
    const char *protocol;
    char cmdline[BOOT_CMDLINE_MAX];
    struct boot_range ram[BOOT_MAX_RAM]; // usable RAM, as the firmware reports it
    size_t n_ram;
    struct boot_module modules[BOOT_MAX_MODULES];
    size_t n_modules;
    const void *rsdp; // ACPI's root pointer; NULL where the loader does not say, see acpi.c
    struct boot_framebuffer framebuffer;
    uint8_t cpus[BOOT_MAX_CPUS]; // local APIC ids of enabled processors; none without ACPI
    size_t n_cpus;
    size_t n_cpus_present; // MAY be more than there is room for
};

extern struct bootinfo bootinfo;

// Whether all of [start, start + size) is usable RAM.
bool bootinfo_is_ram(uint64_t start, uint64_t size);

// For the adapters. What there is no room for is left out.
void bootinfo_set_cmdline(const char *line);
void bootinfo_add_ram(uint64_t start, uint64_t size);
// `string` is the loader's: "path/to/file name" names the module `name`, "path/to/file" alone
// `file`.
void bootinfo_add_module(const char *string, uint64_t start, uint64_t size);
// Leaves out one of a form that the console cannot draw on.
void bootinfo_set_framebuffer(const struct boot_framebuffer *framebuffer);

#endif
