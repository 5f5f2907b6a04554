// What the loader said, whatever its protocol.
#include "boot/bootinfo.h"

struct bootinfo bootinfo;

static void copy_string(char *dst, size_t size, const char *src) {
    size_t i = 0;
    for (; src[i] && i + 1 < size; i++) {
        dst[i] = src[i];
    }
    dst[i] = 0;
}

// "path/to/file name" names the module `name`; a lone "path/to/file" names it `file`.
static const char *module_name(const char *string) {
    const char *name = string;
    for (const char *p = string; *p; p++) {
        if (*p == ' ' || *p == '/') {
            name = p + 1;
        }
    }
    return name;
}

void bootinfo_add_ram(uint64_t start, uint64_t size) {
    if (size && bootinfo.n_ram < BOOT_MAX_RAM) {
        bootinfo.ram[bootinfo.n_ram++] = (struct boot_range){start, size};
    }
}

void bootinfo_add_module(const char *string, uint64_t start, uint64_t size) {
    if (bootinfo.n_modules < BOOT_MAX_MODULES) {
        struct boot_module *m = &bootinfo.modules[bootinfo.n_modules++];
        copy_string(m->name, sizeof(m->name), module_name(string));
        m->start = start;
        m->size = size;
    }
}

void bootinfo_set_cmdline(const char *line) {
    copy_string(bootinfo.cmdline, sizeof(bootinfo.cmdline), line);
}

const struct boot_module *boot_module(size_t i) {
    for (size_t k = 0; k < bootinfo.n_modules; k++) {
        // One without a name was removed.
        if (bootinfo.modules[k].name[0] && !i--) {
            return &bootinfo.modules[k];
        }
    }
    return NULL;
}

const char *boot_cmdline(void) {
    return bootinfo.cmdline;
}
