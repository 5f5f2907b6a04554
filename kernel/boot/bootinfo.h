// What a boot protocol tells the kernel. One adapter per protocol (multiboot.c today) fills this;
// nothing past boot/ knows which protocol it was.
#ifndef CLLM_BOOT_BOOTINFO_H
#define CLLM_BOOT_BOOTINFO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define BOOT_MAX_RAM 32
#define BOOT_MAX_MODULES 16
#define BOOT_NAME_MAX 64
#define BOOT_MAX_CPUS 64
#define BOOT_CMDLINE_MAX 1024

struct boot_range {
    uint64_t start; // physical address, bytes
    uint64_t size;  // bytes
};

struct boot_module {
    char name[BOOT_NAME_MAX]; // last word of the module's string, without directories
    uint64_t start;           // physical address, page aligned
    uint64_t size;            // bytes
    bool mapped;              // not in RAM; see pmem.c
};

struct bootinfo {
    const char *protocol;
    char cmdline[BOOT_CMDLINE_MAX];
    struct boot_range ram[BOOT_MAX_RAM]; // usable RAM, as the firmware reports it
    size_t n_ram;
    struct boot_module modules[BOOT_MAX_MODULES];
    size_t n_modules;
    uint8_t cpus[BOOT_MAX_CPUS]; // local APIC ids of enabled processors; none without ACPI
    size_t n_cpus;
    size_t n_cpus_present; // may be more than there is room for
};

extern struct bootinfo bootinfo;

// Fills `bootinfo` from a Multiboot 0.6.96 information structure.
void multiboot_parse(uint32_t magic, uint32_t info);

// Adds the modules that the command line names; then, once there are page tables, maps them.
void pmem_parse(void);
void pmem_map(void);

#endif
