// The kernel's log and the formatting behind it.
#ifndef CLLM_PRINT_H
#define CLLM_PRINT_H

#include <stdarg.h>

#include "include/machine.h"

// ksnprintf() of machine.h with a list of arguments.
size_t kvsnprintf(char *buf, size_t size, const char *fmt, va_list ap);
// Prints to the console, as one piece of at most 511 bytes.
void kprintf(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
// Prints one line, with the seconds since boot in front.
void klog(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

#endif
