// The way into the application.
#ifndef CLLM_LINUX_PROCESS_H
#define CLLM_LINUX_PROCESS_H

#include <stdint.h>

// Enters musl's _start with the initial stack of a Linux process.
void process_start(void) __attribute__((noreturn));
uint64_t process_stack_size(void);

#endif
