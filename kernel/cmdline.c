// Words of the boot loader's command line: crash=, nmi=, pmem=.
#include "cmdline.h"

#include "boot/bootinfo.h"
#include "bytes.h"

bool cmdline_is(const char *value, const char *word) {
    const char *end = kstrskip(value, word);
    return end && (!*end || *end == ' ');
}

const char *cmdline_next(const char *key, const char *last) {
    const char *line = bootinfo.cmdline;
    for (const char *p = last ? last : line; *p; p++) {
        const char *value = p == line || p[-1] == ' ' ? kstrskip(p, key) : NULL;
        if (value) {
            return value;
        }
    }
    return NULL;
}

bool cmdline_has(const char *word) {
    const char *line = bootinfo.cmdline;
    for (const char *p = line; *p; p++) {
        if ((p == line || p[-1] == ' ') && cmdline_is(p, word)) {
            return true;
        }
    }
    return false;
}
