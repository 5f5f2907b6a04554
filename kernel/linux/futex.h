// Futexes, for the end of a thread (set_tid_address(2)).
#ifndef CLLM_LINUX_FUTEX_H
#define CLLM_LINUX_FUTEX_H

#include <stdint.h>

// Wakes up to `most` threads that wait for the word at `address`.
void futex_wake(uint64_t address, uint64_t most);

#endif
