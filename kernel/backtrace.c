// Backtraces, by the chain of frame pointers. Nothing here may be trusted: the machine may be
// broken, so every pointer is looked up before it is followed.
#include "backtrace.h"

#include "bytes.h"
#include "cpu/cpu.h"
#include "mm/paging.h"
#include "print.h"
#include "symbols.h"

#define FRAMES_SHOWN 40    // innermost
#define FRAMES_OUTER 8     // outermost
#define FRAMES_MAX 1000000 // more than a stack of the smallest frames has
#define RESYNC_WORDS 2048
#define WHERE_FRAMES 1000

extern char __text_start[], __text_end[];

// Whether a saved frame pointer and the return address above it can be read.
static bool readable(uint64_t at) {
    return !(at & 7) && memory_readable(at, 16);
}

static bool is_code(uint64_t pc) {
    return pc >= (uint64_t)__text_start && pc < (uint64_t)__text_end;
}

struct walk {
    uint64_t pc;      // in the function of this frame
    uint64_t fp;      // its frame pointer
    bool interpreter; // an interpreter's call: describe_frame() says what it runs
    bool guessed;     // found without a chain to it
};

// Field by field: an initializer may become a call of memset.
static void walk_from(struct walk *w, uint64_t pc, uint64_t fp) {
    w->pc = pc;
    w->fp = fp;
    w->interpreter = false;
    w->guessed = false;
}

// Some code keeps no frame pointer: machine code that an interpreter emits, parts of libc. From
// the last good frame on, looks for the next pair of saved frame pointer and return address that
// leads on.
static bool resync(struct walk *w, uint64_t from) {
    for (uint64_t at = from; at < from + RESYNC_WORDS * 8; at += 8) {
        if (!readable(at)) {
            return false;
        }
        const uint64_t *pair = (const uint64_t *)at;
        if (pair[0] > at && pair[0] < at + MiB && is_code(pair[1]) && readable(pair[0])
            && (is_code(((const uint64_t *)pair[0])[1]) || !((const uint64_t *)pair[0])[0])) {
            walk_from(w, pair[1] - 1, pair[0]);
            w->guessed = true;
            return true;
        }
    }
    return false;
}

// The caller of a frame; false at the outermost.
static bool walk_up(struct walk *w) {
    if (!w->fp || !readable(w->fp)) {
        return false;
    }
    const uint64_t *saved = (const uint64_t *)w->fp;
    if (!is_code(saved[1]) || (saved[0] && !readable(saved[0]))) {
        return resync(w, w->fp + 8);
    }
    uint64_t fp = saved[0], pc = saved[1];
    // The return address may be the first of the next function, when the callee does not return.
    walk_from(w, pc - 1, fp);
    w->interpreter = fp && pc == (uint64_t)kernel_hooks.interpreter_return;
    return true;
}

// A jump to nowhere, or into a function that has not made its frame yet, leaves the caller on top
// of the stack.
static bool caller_on_top(struct walk *w, const struct trap_frame *f) {
    if (is_code(f->rip) || !readable(f->rsp)) {
        return false;
    }
    uint64_t pc = *(const uint64_t *)f->rsp;
    if (!is_code(pc)) {
        return false;
    }
    walk_from(w, pc - 1, f->rbp);
    return true;
}

static void __attribute__((format(printf, 2, 3))) say_line(void (*say)(const char *line),
    const char *fmt, ...) {
    char line[512];
    va_list ap;
    va_start(ap, fmt);
    kvsnprintf(line, sizeof(line), fmt, ap);
    va_end(ap);
    say(line);
}

static void say_frame(const struct walk *w, void (*say)(const char *line)) {
    char name[256];
    uint64_t offset;
    if (w->interpreter) {
        kernel_hooks.describe_frame(w->fp, name, sizeof(name));
        say_line(say, "%s\n", name);
    } else if (symbol_find(w->pc, name, sizeof(name), &offset)) {
        say_line(say, "%016lx %s+0x%lx%s\n", w->pc, name, offset, w->guessed ? " (guessed)" : "");
    } else {
        say_line(say, "%016lx ?\n", w->pc);
    }
}

void backtrace(const struct trap_frame *f, void (*say)(const char *line)) {
    struct walk w, last;
    unsigned n = 0, i = 0, repeated = 0;
    walk_from(&w, f->rip, f->rbp);
    do {
        n++;
    } while (n < FRAMES_MAX && walk_up(&w));
    walk_from(&w, f->rip, f->rbp);
    say_frame(&w, say);
    if (caller_on_top(&w, f)) {
        say_frame(&w, say);
    }
    kmemcpy(&last, &w, sizeof(w));
    while (++i < n && walk_up(&w)) {
        if (w.pc == last.pc && !w.interpreter) { // recursion
            repeated++;
            continue;
        }
        if (repeated) {
            say_line(say, "... the same %u times more\n", repeated);
            n -= repeated;
            i -= repeated;
            repeated = 0;
        }
        kmemcpy(&last, &w, sizeof(w));
        if (i < FRAMES_SHOWN || n - i <= FRAMES_OUTER) {
            say_frame(&w, say);
        } else if (i == FRAMES_SHOWN) {
            say_line(say, "... %u frames left out\n", n - i - FRAMES_OUTER);
        }
    }
    if (repeated) {
        say_line(say, "... the same %u times more\n", repeated);
    }
}

size_t backtrace_where(const struct trap_frame *f, char *line, size_t size) {
    char name[256];
    uint64_t offset;
    struct walk w;
    walk_from(&w, f->rip, f->rbp);
    if (!symbol_find(f->rip, name, sizeof(name), &offset)) {
        kmemcpy(name, "?", 2);
        offset = 0;
    }
    size_t n = ksnprintf(line, size, "processor %u at %016lx %s+0x%lx", cpu_initial_apic_id(),
        f->rip, name, offset);
    for (unsigned i = 0; i < WHERE_FRAMES && walk_up(&w); i++) {
        if (w.interpreter && kernel_hooks.describe_frame(w.fp, name, sizeof(name))) {
            return n + ksnprintf(line + n, size - n, ", %s", name);
        }
    }
    return n;
}
