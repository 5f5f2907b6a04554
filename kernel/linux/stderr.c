// What was written to standard error last.
#include "linux/stderr.h"

#include <stdbool.h>

static char line[200];

void stderr_keep(const char *s, size_t n) {
    static size_t used;
    static bool ended;
    for (size_t i = 0; i < n; i++) {
        if (s[i] == '\n') {
            ended = true;
            continue;
        }
        if (ended) {
            used = 0;
            ended = false;
        }
        if (used + 1 < sizeof(line)) {
            line[used++] = s[i];
            line[used] = 0;
        }
    }
}

const char *stderr_last(void) {
    return line[0] ? line : "no reason given";
}
