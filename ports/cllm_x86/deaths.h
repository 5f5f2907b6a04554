// Ways to die on purpose; see deaths.c.
#ifndef CLLM_DEATHS_H
#define CLLM_DEATHS_H

#include <stdbool.h>

// Dies of `kind` on the core numbered so, from 0; false when there is no such kind.
bool die(const char *kind, unsigned core);

#endif
