// The kernel's table of contents: every subsystem in the order it comes up, then the application
// (musl, MicroPython, llama.cpp), which runs in the same ring and address space. Log and panic live
// here too, because everything uses them.
#include "kernel.h"
#include "boot/acpi.h"
#include "boot/bootinfo.h"
#include "cpu/sched.h"
#include "cpu/smp.h"

struct kernel_hooks kernel_hooks;

size_t kstrlen(const char *s) {
    size_t n = 0;
    while (s[n]) {
        n++;
    }
    return n;
}

bool kstreq(const char *a, const char *b) {
    while (*a && *a == *b) {
        a++, b++;
    }
    return *a == *b;
}

static void put_number(uint64_t v, unsigned base, bool negative, int width, char pad) {
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
        console_write(&buf[n], 1);
    }
}

static void kvprintf(const char *fmt, va_list ap) {
    for (; *fmt; fmt++) {
        if (*fmt != '%') {
            console_write_text(fmt, 1);
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
                console_write_text(s, kstrlen(s));
                break;
            }
            case 'c': {
                char c = (char)va_arg(ap, int);
                console_write_text(&c, 1);
                break;
            }
            case 'd': {
                int64_t v = is_long ? va_arg(ap, int64_t) : va_arg(ap, int);
                put_number(v < 0 ? -(uint64_t)v : (uint64_t)v, 10, v < 0, width, pad);
                break;
            }
            case 'u':
                put_number(is_long ? va_arg(ap, uint64_t) : va_arg(ap, unsigned), 10, false,
                    width, pad);
                break;
            case 'p':
                put_number((uint64_t)va_arg(ap, void *), 16, false, 16, '0');
                break;
            case 'x':
                put_number(is_long ? va_arg(ap, uint64_t) : va_arg(ap, unsigned), 16, false,
                    width, pad);
                break;
            default:
                console_write(fmt, 1);
        }
    }
}

void kprintf(const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    kvprintf(fmt, ap);
    va_end(ap);
}

void klog(const char *fmt, ...) {
    uint64_t us = clock_ns() / 1000;
    kprintf("[%3lu.%06lu] ", us / 1000000, us % 1000000);
    va_list ap;
    va_start(ap, fmt);
    kvprintf(fmt, ap);
    va_end(ap);
    kprintf("\n");
}

void panic(const char *fmt, ...) {
    irq_save();
    kprintf("\ncllm: panic: ");
    va_list ap;
    va_start(ap, fmt);
    kvprintf(fmt, ap);
    va_end(ap);
    kprintf("\n");
    machine_exit(2);
}

void kernel_start(uint32_t magic, uint32_t info) {
    console_init();
    cpu_init();
    multiboot_parse(magic, info);
    acpi_parse();
    clock_init();
    klog("cllm: %s, %s, TSC %lu MHz", bootinfo.protocol, cpu_brand(), clock_tsc_hz() / 1000000);
    phys_init();
    paging_init();
    klog("mm: %lu MiB of RAM, %lu MiB free", phys_total() / MiB, phys_free_bytes() / MiB);
    for (size_t i = 0; i < bootinfo.n_modules; i++) {
        klog("boot: module %s, %lu KiB at %lx", bootinfo.modules[i].name,
            bootinfo.modules[i].size / KiB, bootinfo.modules[i].start);
    }
    sched_init();
    smp_start();
    klog("smp: %u of %lu cores", n_cpus, bootinfo.n_cpus ? bootinfo.n_cpus : 1);
    console_enable_irq();
    process_start();
}
