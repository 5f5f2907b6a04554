// What the loader said, whatever its protocol.
#include "boot/bootinfo.h"

#include "bytes.h"

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

// Firmware may list hundreds of neighbouring pieces: those in order become one.
void bootinfo_add_ram(uint64_t start, uint64_t size) {
    struct boot_range *last = bootinfo.n_ram ? &bootinfo.ram[bootinfo.n_ram - 1] : NULL;
    if (last && last->start + last->size == start) {
        last->size += size;
    } else if (size && bootinfo.n_ram < BOOT_MAX_RAM) {
        bootinfo.ram[bootinfo.n_ram++] = (struct boot_range){start, size};
    }
}

bool bootinfo_is_ram(uint64_t start, uint64_t size) {
    for (size_t i = 0; i < bootinfo.n_ram; i++) {
        const struct boot_range *r = &bootinfo.ram[i];
        if (start >= r->start && start - r->start <= r->size
            && size <= r->size - (start - r->start)) {
            return true;
        }
    }
    return false;
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

void bootinfo_set_framebuffer(const struct boot_framebuffer *f) {
    uint64_t bytes = f->bits / 8, row = f->width * bytes;
    bool fits = f->address && f->pitch >= row && f->width && f->height
        && f->address + (uint64_t)f->pitch * f->height > f->address;
    for (unsigned i = 0; i < 3; i++) {
        fits &= f->size[i] && f->size[i] <= 16 && f->shift[i] + f->size[i] <= f->bits;
    }
    if (fits && (f->bits == 24 || f->bits == 32)) {
        kmemcpy(&bootinfo.framebuffer, f, sizeof(*f));
    }
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
