// Ways to die on purpose; see deaths.c.
#ifndef CLLM_SELFTEST_DEATHS_H
#define CLLM_SELFTEST_DEATHS_H

#include <stdbool.h>

// Dies of `kind` on core number `core`; false when there is no such kind.
bool die(const char *kind, unsigned core);

#endif
