// Memory and strings without libc. The compiler would make calls of memcpy and memset from plain
// loops and assignments of structures; musl's use vector registers, which the kernel must not
// touch.
#ifndef CLLM_BYTES_H
#define CLLM_BYTES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

static inline void kmemset(void *dst, int c, size_t n) {
    __asm__ volatile("rep stosb" : "+D"(dst), "+c"(n) : "a"(c) : "memory");
}
static inline void kmemcpy(void *dst, const void *src, size_t n) {
    __asm__ volatile("rep movsb" : "+D"(dst), "+S"(src), "+c"(n)::"memory");
}
// Clears `bytes`, a multiple of 8.
static inline void kmemzero(void *dst, size_t bytes) {
    size_t n = bytes / 8;
    __asm__ volatile("rep stosq" : "+D"(dst), "+c"(n) : "a"(0) : "memory");
}
static inline size_t kstrlen(const char *s) {
    size_t n = 0;
    while (s[n]) {
        n++;
    }
    return n;
}
static inline bool kstreq(const char *a, const char *b) {
    while (*a && *a == *b) {
        a++, b++;
    }
    return *a == *b;
}
// What follows `prefix` in `s`; NULL when `s` does not begin with it.
static inline const char *kstrskip(const char *s, const char *prefix) {
    while (*prefix && *s == *prefix) {
        s++, prefix++;
    }
    return *prefix ? NULL : s;
}

#endif
