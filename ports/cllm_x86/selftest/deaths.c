// Ways to die on purpose: tests look at the report, at the reboot and at what is left of it, in
// the same image that serves. _x86.crash(kind) ends here.
#define _GNU_SOURCE // CPU_SET
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "kernel/include/machine.h"
#include "deaths.h"

// Reports name these functions.
#define WAY __attribute__((noinline))

static unsigned char data[16] = {0xC3}; // ret

static void WAY null_write(void) {
    volatile int *volatile p = NULL;
    *p = 1;
}

static void WAY text_write(void) {
    *(volatile unsigned char *)(uintptr_t)null_write = 0x90;
}

static void WAY data_execute(void) {
    ((void (*)(void))(uintptr_t)data)();
    __asm__ volatile(""); // no tail call, which would leave this function out of the backtrace
}

static int WAY recurse(volatile int *depth) {
    volatile int here[64];
    here[0] = ++*depth;
    return recurse(depth) + here[0];
}

static void WAY stack_overflow(void) {
    volatile int depth = 0;
    recurse(&depth);
}

static void WAY divide(void) {
    int zero = 0;
    __asm__ volatile("xorl %%edx, %%edx; movl $1, %%eax; divl %0" ::"r"(zero) : "eax", "edx");
}

// An interrupt table that ends behind the double fault's entry: delivering a page fault fails, and
// so does delivering the general protection fault about that.
static void WAY double_fault(void) {
    struct {
        uint16_t limit;
        uint64_t base;
    } __attribute__((packed)) table;
    __asm__ volatile("cli; sidt %0" : "=m"(table));
    table.limit = 9 * 16 - 1;
    __asm__ volatile("lidt %0" ::"m"(table));
    null_write();
}

static void WAY hang(void) {
    for (;;) {
        __asm__ volatile("pause");
    }
}

static void WAY give_up(void) {
    panic("asked for");
}

static void WAY call_abort(void) {
    abort();
}

static const struct {
    const char *kind;
    void (*die)(void);
} ways[] = {
    {"null", null_write},
    {"text", text_write},
    {"data", data_execute},
    {"stack", stack_overflow},
    {"divide", divide},
    {"double", double_fault},
    {"hang", hang},
    {"panic", give_up},
    {"abort", call_abort},
};

static unsigned chosen_core;

static void *die_elsewhere(void *way) {
    cpu_set_t only;
    CPU_ZERO(&only);
    CPU_SET(chosen_core, &only);
    if (!sched_setaffinity(0, sizeof(only), &only)) {
        sched_yield(); // goes on over there
        ((void (*)(void))way)();
    }
    return NULL;
}

bool die(const char *kind, unsigned core) {
    for (size_t i = 0; i < sizeof(ways) / sizeof(ways[0]); i++) {
        if (!strcmp(ways[i].kind, kind)) {
            pthread_t thread;
            chosen_core = core;
            if (core == 0) { // the caller's
                ways[i].die();
            } else if (!pthread_create(&thread, NULL, die_elsewhere, (void *)ways[i].die)) {
                pthread_join(thread, NULL);
            }
        }
    }
    return false;
}
