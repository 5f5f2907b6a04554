// Linux's error numbers. Functions of the kernel return them negated.
#ifndef CLLM_ERRORS_H
#define CLLM_ERRORS_H

#define L_ENOENT 2
#define L_ESRCH 3
#define L_EBADF 9
#define L_EAGAIN 11
#define L_ENOMEM 12
#define L_EACCES 13
#define L_EEXIST 17
#define L_ENOTDIR 20
#define L_EISDIR 21
#define L_EINVAL 22
#define L_EMFILE 24
#define L_ENOTTY 25
#define L_ENOSPC 28
#define L_ESPIPE 29
#define L_EROFS 30
#define L_ERANGE 34
#define L_ENOSYS 38
#define L_EOPNOTSUPP 95
#define L_ETIMEDOUT 110

#endif
