// Formatting and the log. Everything above the console and the clock prints through here.
#include "print.h"

#include "bytes.h"
#include "dev/console.h"

struct buffer {
    char *at, *end;
};

static void put(struct buffer *b, const char *s, size_t n) {
    while (n-- && b->at < b->end) {
        *b->at++ = *s++;
    }
}

static void put_number(struct buffer *b, uint64_t v, unsigned base, bool negative, int width,
    char pad) {
    char buf[24];
    int n = 0;
    do {
        buf[n++] = "0123456789abcdef"[v % base];
        v /= base;
    } while (v);
    if (negative) {
        buf[n++] = '-';
    }
    while (n < width && n < (int)sizeof(buf)) {
        buf[n++] = pad;
    }
    while (n--) {
        put(b, &buf[n], 1);
    }
}

size_t kvsnprintf(char *buf, size_t size, const char *fmt, va_list ap) {
    struct buffer b = {buf, buf + size - 1};
    for (; *fmt; fmt++) {
        if (*fmt != '%') {
            put(&b, fmt, 1);
            continue;
        }
        char pad = ' ';
        int width = 0;
        bool is_long = false;
        if (*++fmt == '0') {
            pad = '0';
            fmt++;
        }
        for (; *fmt >= '0' && *fmt <= '9'; fmt++) {
            width = width * 10 + *fmt - '0';
        }
        for (; *fmt == 'l'; fmt++) {
            is_long = true;
        }
        switch (*fmt) {
            case 's': {
                const char *s = va_arg(ap, const char *);
                put(&b, s, kstrlen(s));
                break;
            }
            case 'c': {
                char c = (char)va_arg(ap, int);
                put(&b, &c, 1);
                break;
            }
            case 'd': {
                int64_t v = is_long ? va_arg(ap, int64_t) : va_arg(ap, int);
                put_number(&b, v < 0 ? -(uint64_t)v : (uint64_t)v, 10, v < 0, width, pad);
                break;
            }
            case 'u':
                put_number(&b, is_long ? va_arg(ap, uint64_t) : va_arg(ap, unsigned), 10, false,
                    width, pad);
                break;
            case 'p':
                put_number(&b, (uint64_t)va_arg(ap, void *), 16, false, 16, '0');
                break;
            case 'x':
                put_number(&b, is_long ? va_arg(ap, uint64_t) : va_arg(ap, unsigned), 16, false,
                    width, pad);
                break;
            default:
                put(&b, fmt, 1);
        }
    }
    *b.at = 0;
    return (size_t)(b.at - buf);
}

size_t ksnprintf(char *buf, size_t size, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    size_t n = kvsnprintf(buf, size, fmt, ap);
    va_end(ap);
    return n;
}

void kprintf(const char *fmt, ...) {
    char text[512];
    va_list ap;
    va_start(ap, fmt);
    size_t n = kvsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    console_write_text(text, n);
}

void klog(const char *fmt, ...) {
    char line[512];
    uint64_t us = clock_ns() / 1000;
    size_t n = ksnprintf(line, sizeof(line), "[%3lu.%06lu] ", us / 1000000, us % 1000000);
    va_list ap;
    va_start(ap, fmt);
    n += kvsnprintf(line + n, sizeof(line) - n - 1, fmt, ap); // leaves room for the newline
    va_end(ap);
    line[n++] = '\n';
    console_write_text(line, n);
}
