// Backtraces: which calls led to a place.
#ifndef CLLM_BACKTRACE_H
#define CLLM_BACKTRACE_H

#include "cpu/trap.h"
#include "include/machine.h"

// Calls `say` with a line for each frame from `f` outwards, innermost first. In a long backtrace
// the middle is left out.
void backtrace(const struct trap_frame *f, void (*say)(const char *line));
// Writes one line about `f`: the core, the function, and what the innermost interpreter runs. From
// any context.
size_t backtrace_where(const struct trap_frame *f, char *line, size_t size);

#endif
