// What was written to standard error last. abort() gives no reason, but its callers (an assertion,
// std::terminate) print one first.
#ifndef CLLM_LINUX_STDERR_H
#define CLLM_LINUX_STDERR_H

#include <stddef.h>

// Keeps the last line of what is written.
void stderr_keep(const char *s, size_t n);
// That line.
const char *stderr_last(void);

#endif
