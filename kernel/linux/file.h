// Boot modules as files, for mmap.
#ifndef CLLM_LINUX_FILE_H
#define CLLM_LINUX_FILE_H

#include <stdint.h>

// The address of `length` bytes at `offset` of the open module `fd`, or a negative errno.
int64_t file_address(int fd, uint64_t offset, uint64_t length);

#endif
