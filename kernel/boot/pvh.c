// PVH adapter: copies what the hypervisor left in memory into `struct bootinfo`.
//
// The protocol brings one initrd, without a name. It becomes the module that the word module=NAME
// of the command line names, or config.json.
// Source: Xen's public headers, arch-x86/hvm/start_info.h; docs/misc/pvh.pandoc.
#include "boot/pvh.h"

#include "boot/bootinfo.h"
#include "boot/reach.h"
#include "cmdline.h"
#include "crash.h"

#define TYPE_RAM 1

struct start_info {
    uint32_t magic, version, flags, n_modules;
    uint64_t modules, cmdline, rsdp;
    uint64_t memory; // this and what follows: version 1 and later
    uint32_t n_memory, reserved;
};

struct module {
    uint64_t start, size, cmdline, reserved;
};

struct memory {
    uint64_t start, size;
    uint32_t type, reserved;
};

static bool within(uint64_t at, uint64_t size) {
    return at && boot_reach(at, size);
}

// The next name that the command line has for a module.
static const char *next_name(const char **last) {
    *last = cmdline_next("module=", *last);
    return *last ? *last : "config.json";
}

static void add_module(const struct module *m, const char *name) {
    char word[BOOT_NAME_MAX];
    size_t n = 0;
    for (; name[n] && name[n] != ' ' && n + 1 < sizeof(word); n++) {
        word[n] = name[n];
    }
    word[n] = 0;
    bootinfo_add_module(word, m->start, m->size);
}

void pvh_parse(uint32_t at) {
    const struct start_info *info = (const struct start_info *)(uintptr_t)at;
    bootinfo.protocol = "PVH";
    if (info->magic != PVH_MAGIC) {
        panic("boot: PVH start information has the magic %x", info->magic);
    }
    if (info->version < 1 || !within(info->memory, info->n_memory * sizeof(struct memory))) {
        panic("boot: PVH version %u brings no memory map", info->version);
    }
    const struct memory *memory = (const struct memory *)info->memory;
    for (uint32_t i = 0; i < info->n_memory; i++) {
        if (memory[i].type == TYPE_RAM) {
            bootinfo_add_ram(memory[i].start, memory[i].size);
        }
    }
    if (within(info->cmdline, 1)) {
        bootinfo_set_cmdline((const char *)info->cmdline);
    }
    if (within(info->rsdp, 1)) {
        bootinfo.rsdp = (const void *)info->rsdp;
    }
    const char *last = NULL;
    const struct module *modules = (const struct module *)info->modules;
    bool has_modules =
        info->n_modules && within(info->modules, info->n_modules * sizeof(struct module));
    for (uint32_t i = 0; has_modules && i < info->n_modules; i++) {
        add_module(&modules[i],
            within(modules[i].cmdline, 1) && *(const char *)modules[i].cmdline
                ? (const char *)modules[i].cmdline
                : next_name(&last));
    }
}
