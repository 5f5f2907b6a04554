// Boot modules that nobody loads: files that QEMU maps into the machine as persistent memory
// (-device nvdimm), so that neither host nor firmware copies a model, and 2 GiB are no limit.
//
// The command line says where they are: "pmem=NAME@START+SIZE", both in hexadecimal, START on a
// page boundary. Such memory consists of whole pages of the file. The bytes behind the last whole
// page come as a module of the usual kind, NAME.tail, and are copied to a page that is mapped
// behind the others.
#include "boot/pmem.h"

#include "boot/bootinfo.h"
#include "bytes.h"
#include "cmdline.h"
#include "crash.h"
#include "mm/paging.h"
#include "mm/phys.h"

#define TAIL ".tail"

static const char *take_hex(const char *p, uint64_t *out) {
    *out = 0;
    for (;; p++) {
        unsigned digit = *p >= '0' && *p <= '9' ? (unsigned)(*p - '0')
            : *p >= 'a' && *p <= 'f'            ? (unsigned)(*p - 'a' + 10)
                                                : 16;
        if (digit == 16) {
            return p;
        }
        *out = *out << 4 | digit;
    }
}

// Reads the value of a pmem= word. False when it is not of that form.
static bool parse(const char *p, struct boot_module *m) {
    size_t n = 0;
    for (; *p && *p != ' ' && *p != '@'; p++) {
        if (n + sizeof(TAIL) >= sizeof(m->name)) {
            return false;
        }
        m->name[n++] = *p;
    }
    m->name[n] = 0;
    if (!n || *p != '@') {
        return false;
    }
    p = take_hex(p + 1, &m->start);
    if (*p != '+') {
        return false;
    }
    p = take_hex(p + 1, &m->size);
    m->mapped = true;
    return (!*p || *p == ' ') && !(m->start & PAGE_MASK) && m->start >= 4 * GiB && m->size
        && m->start + m->size > m->start;
}

void pmem_parse(void) {
    for (const char *value = NULL; (value = cmdline_next("pmem=", value));) {
        struct boot_module *m = &bootinfo.modules[bootinfo.n_modules];
        if (bootinfo.n_modules == BOOT_MAX_MODULES || !parse(value, m)) {
            panic("boot: the command line names no memory here: pmem=%s", value);
        }
        bootinfo.n_modules++;
    }
}

static struct boot_module *find_tail(const char *name) {
    for (size_t i = 0; i < bootinfo.n_modules; i++) {
        const char *rest = kstrskip(bootinfo.modules[i].name, name);
        if (rest && kstreq(rest, TAIL)) {
            return &bootinfo.modules[i];
        }
    }
    return NULL;
}

// A frame with the last bytes of `m`. Removes the module that brought them.
static uint64_t tail_frame(const struct boot_module *m, uint64_t size) {
    struct boot_module *tail = find_tail(m->name);
    uint64_t frame = phys_alloc();
    if (!tail || tail->size != size || !frame) {
        panic("boot: the last %lu bytes of %s are missing", size, m->name);
    }
    kmemzero((void *)frame, PAGE_SIZE);
    kmemcpy((void *)frame, (const void *)tail->start, size);
    tail->name[0] = 0;
    return frame;
}

void pmem_map(void) {
    for (size_t i = 0; i < bootinfo.n_modules; i++) {
        struct boot_module *m = &bootinfo.modules[i];
        if (!m->mapped) {
            continue;
        }
        uint64_t whole = ALIGN_DOWN(m->size, PAGE_SIZE), end = m->start + whole;
        int err = whole ? paging_map(m->start, m->start, whole, PROT_R) : 0;
        if (!err && m->size != whole) {
            err = paging_map(end, tail_frame(m, m->size - whole), PAGE_SIZE, PROT_R);
        }
        if (err) {
            panic("mm: no memory for page tables");
        }
    }
    // The tails are no files of their own.
    size_t n = 0;
    for (size_t i = 0; i < bootinfo.n_modules; i++) {
        if (bootinfo.modules[i].name[0]) {
            bootinfo.modules[n++] = bootinfo.modules[i];
        }
    }
    bootinfo.n_modules = n;
}
