// Python's lines in backtraces: kernel_hooks.describe_frame.
#ifndef CLLM_PYFRAME_H
#define CLLM_PYFRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Where the interpreter returns to (vm_entry.S).
extern char vm_entry_return[];

// Writes "python FILE:LINE in FUNCTION" for the call of the interpreter with this frame pointer;
// false, and "python ?", when what it points to is none. Calls nothing of libc and reads nothing
// unmapped.
bool pyframe_describe(uint64_t frame_pointer, char *line, size_t size);

#endif
