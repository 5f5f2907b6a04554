// The kernel's table of contents: every subsystem in the order it comes up, then the application
// (musl, MicroPython, llama.cpp), which runs in the same ring and address space. The log lives
// here too, because everything uses it.
#include "kernel.h"
#include "boot/acpi.h"
#include "boot/bootinfo.h"
#include "cpu/io.h"
#include "cpu/sched.h"
#include "cpu/smp.h"
#include "dev/nic.h"

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

struct boot_phase boot_phases[BOOT_MAX_PHASES];
size_t n_boot_phases;
uint64_t boot_began;

void boot_phases_restart(void) {
    n_boot_phases = 0;
    boot_began = rdtsc();
}

void boot_phase(const char *name) {
    if (n_boot_phases < BOOT_MAX_PHASES) {
        boot_phases[n_boot_phases++] = (struct boot_phase) {name, rdtsc()};
    }
}

void kernel_start(uint32_t magic, uint32_t info) {
    boot_phase("firmware and loader");
    nic_head_start();
    console_init();
    cpu_init();
    multiboot_parse(magic, info);
    pmem_parse();
    acpi_parse();
    boot_phase("kernel");
    clock_init();
    boot_phase("clock calibration");
    klog("cllm: %s, %s, TSC %lu MHz", bootinfo.protocol, cpu_brand(), clock_tsc_hz() / 1000000);
    char title[80];
    console_status(0, title, ksnprintf(title, sizeof(title), "cllm on %s", cpu_brand()));
    phys_init();
    paging_init();
    boot_phase("memory");
    klog("mm: %lu MiB of RAM, %lu MiB free", phys_total() / MiB, phys_free_bytes() / MiB);
    for (size_t i = 0; i < bootinfo.n_modules; i++) {
        klog("boot: module %s, %lu KiB at %lx", bootinfo.modules[i].name,
            bootinfo.modules[i].size / KiB, bootinfo.modules[i].start);
    }
    crash_init();
    sched_init();
    smp_start();
    boot_phase("cores");
    klog("smp: %u of %lu cores", n_cpus, bootinfo.n_cpus ? bootinfo.n_cpus : 1);
    power_init();
    console_enable_irq();
    process_start();
}
