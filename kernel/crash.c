// Death: one report for whatever ends the machine by mistake. The report is printed, and kept for
// the next boot to show where a warm reset leaves it alone.
//
// The record lies at a fixed physical address below the image. Loaders reload the image and put
// modules behind it; firmware works in the first MiB and at the top of RAM; GRUB's own code starts
// at 1 MiB and ends well below. A record that did not survive fails its CRC and counts as none.
//
// The machine is broken, so nothing can be trusted. The report is made in parts: a fault in one
// part goes on with the next.
#include "crash.h"

#include "backtrace.h"
#include "boot/bootinfo.h"
#include "bytes.h"
#include "cmdline.h"
#include "cpu/cpu.h"
#include "cpu/io.h"
#include "cpu/stop.h"
#include "cpu/thread.h"
#include "dev/console.h"
#include "print.h"

#define MAGIC "cllmdead"
// A machine that dies this often this soon after booting stays down, with the report on its screen.
#define SOON_NS 60000000000ul
// One more than the application's own remedy takes (frozen/boot/disks.py).
#define STREAK_MAX 4

#define LOG_SHOWN 16

extern char __image_start[];

static struct crash_record *const area = (struct crash_record *)CRASH_AREA;
// At the end of the area, with or without a death.
static struct boots {
    uint32_t count, complement; // of resets since power-on
} *const boots = (struct boots *)(CRASH_AREA + CRASH_AREA_SIZE - sizeof(struct boots));
static bool have_area, have_last;
static enum crash_policy { CRASH_REBOOT, CRASH_EXIT, CRASH_HALT } policy;

static struct crash_record record;    // being written
static struct trap_frame frame;       // where it happened
static const char *volatile happened; // set once a death is under way
static unsigned part;
static uint32_t owner;
static uint32_t earlier_count, earlier_streak;

_Static_assert(sizeof(struct crash_record) + sizeof(struct boots) <= CRASH_AREA_SIZE,
    "the record has its area");

static uint32_t crc32(const uint8_t *p, size_t n) {
    uint32_t crc = ~0u;
    while (n--) {
        crc ^= *p++;
        for (int i = 0; i < 8; i++) {
            crc = crc >> 1 ^ (crc & 1 ? 0xEDB88320 : 0);
        }
    }
    return ~crc;
}

static uint32_t record_crc(const struct crash_record *r) {
    size_t from = offsetof(struct crash_record, crc) + 4;
    return crc32((const uint8_t *)r + from, sizeof(*r) - from);
}

static void commit(struct crash_record *r) {
    kmemcpy(r->magic, MAGIC, 8);
    r->size = sizeof(*r);
    r->crc = record_crc(r);
    if (have_area && r != area) {
        kmemcpy(area, r, sizeof(*r));
    }
}

// --- The report --------------------------------------------------------------------------------

// Prints to the console and appends to `field`.
static void __attribute__((format(printf, 3, 4))) say(char *field, size_t size, const char *fmt,
    ...) {
    char line[512];
    va_list ap;
    va_start(ap, fmt);
    size_t n = kvsnprintf(line, sizeof(line), fmt, ap);
    va_end(ap);
    console_write_text(line, n);
    size_t used = kstrlen(field);
    if (used + n < size) {
        kmemcpy(field + used, line, n + 1);
    }
}

#define SAY(field, ...) say(record.field, sizeof(record.field), __VA_ARGS__)

static void say_registers(void) {
    const struct trap_frame *f = &frame;
    uint64_t cr2, cr3;
    __asm__ volatile("movq %%cr2, %0" : "=r"(cr2));
    __asm__ volatile("movq %%cr3, %0" : "=r"(cr3));
    SAY(registers, "rax %016lx rbx %016lx rcx %016lx rdx %016lx\n", f->rax, f->rbx, f->rcx, f->rdx);
    SAY(registers, "rsi %016lx rdi %016lx rbp %016lx rsp %016lx\n", f->rsi, f->rdi, f->rbp, f->rsp);
    SAY(registers, "r8  %016lx r9  %016lx r10 %016lx r11 %016lx\n", f->r8, f->r9, f->r10, f->r11);
    SAY(registers, "r12 %016lx r13 %016lx r14 %016lx r15 %016lx\n", f->r12, f->r13, f->r14, f->r15);
    SAY(registers, "rip %016lx flags %014lx cr2 %016lx cr3 %016lx\n", f->rip, f->rflags, cr2, cr3);
    SAY(registers, "fs  %016lx processor %u\n", rdmsr(MSR_FS_BASE), owner);
}

static void say_line(const char *line) {
    SAY(backtrace, "%s", line);
}

static void say_backtrace(void) {
    kprintf("backtrace:\n");
    backtrace(&frame, say_line);
}

// The main thread waits for the thread that died, or does not know of it.
static void say_main_thread(void) {
    const struct trap_frame *f = thread_main_frame();
    if (f) {
        SAY(backtrace, "the main thread meanwhile:\n");
        backtrace(f, say_line);
    }
}

static void say_log(void) {
    // record.log was filled when the death began, before the report went to the console.
    const char *s = record.log, *from = s + kstrlen(s);
    for (unsigned lines = 0; from > s; from--) {
        if (from[-1] == '\n' && lines++ == LOG_SHOWN) {
            break;
        }
    }
    kprintf("last lines of the log:\n");
    while (*from) {
        const char *end = from;
        while (*end && *end != '\n') {
            end++;
        }
        console_write_text("| ", 2);
        console_write_text(from, (size_t)(end - from));
        console_write_text("\n", 1);
        from = *end ? end + 1 : end;
    }
}

static void (*const parts[])(void) = {say_registers, say_backtrace, say_main_thread, say_log};

// --- The end -----------------------------------------------------------------------------------

static void __attribute__((noreturn)) halt(void) {
    for (;;) {
        __asm__ volatile("cli; hlt");
    }
}

// True for the first call. A fault in the report comes back here on the same processor. A second
// processor that dies, or gets the NMI to stop, halts.
static bool death_begin(const char *why) {
    irq_save();
    const char *nobody = NULL;
    if (__atomic_compare_exchange_n(&happened, &nobody, why, false, __ATOMIC_SEQ_CST,
            __ATOMIC_SEQ_CST)) {
        owner = cpu_initial_apic_id();
        stop_others();
        return true;
    }
    if (cpu_initial_apic_id() != owner) {
        halt();
    }
    return false;
}

static void say_end(const char *what) {
    kprintf("cllm: %s\n", what);
    console_status(CONSOLE_STATUS - 1, what, kstrlen(what));
}

static void __attribute__((noreturn)) death_end(void) {
    bool looping = record.streak >= STREAK_MAX;
    if (policy == CRASH_EXIT) {
        say_end("exiting");
        machine_exit((int)record.code);
    }
    if (policy == CRASH_HALT || looping) {
        char why[80];
        ksnprintf(why, sizeof(why), "halted");
        if (looping) {
            ksnprintf(why, sizeof(why), "halted: died %u times in a row within %lu s of booting",
                record.streak, SOON_NS / 1000000000);
        }
        say_end(why);
        halt();
    }
    say_end("rebooting");
    machine_reboot();
}

static void __attribute__((noreturn)) vcrash(const struct trap_frame *f, int code, const char *fmt,
    va_list ap) {
    if (death_begin(fmt)) {
        kmemcpy(&frame, f, sizeof(frame));
        record.code = (uint32_t)code;
        record.uptime_ns = clock_ns();
        record.realtime_ns = clock_realtime_ns();
        record.count = earlier_count + 1;
        record.streak = record.uptime_ns < SOON_NS ? earlier_streak + 1 : 1;
        kvsnprintf(record.reason, sizeof(record.reason), fmt, ap);
        console_panic();
        record.log[console_log(record.log, sizeof(record.log) - 1)] = 0;
        commit(&record);
        kprintf("\ncllm: %s\n", record.reason);
    } else {
        char again[200];
        kvsnprintf(again, sizeof(again), fmt, ap);
        SAY(backtrace, "(while reporting: %s at %lx)\n", again, f->rip);
    }
    while (part < sizeof(parts) / sizeof(parts[0])) {
        parts[part++]();
        commit(&record);
    }
    death_end();
}

void crash(const struct trap_frame *f, int code, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    vcrash(f, code, fmt, ap);
}

void panic(const char *fmt, ...) {
    struct trap_frame f;
    kmemset(&f, 0, sizeof(f));
    __asm__ volatile(
        "movq %%rbx, %0; movq %%r12, %1; movq %%r13, %2; movq %%r14, %3; movq %%r15, %4"
        : "=m"(f.rbx), "=m"(f.r12), "=m"(f.r13), "=m"(f.r14), "=m"(f.r15));
    f.rip = (uint64_t)__builtin_return_address(0) - 1;
    f.rbp = *(uint64_t *)__builtin_frame_address(0);
    f.rsp = (uint64_t)__builtin_frame_address(0) + 16;
    va_list ap;
    va_start(ap, fmt);
    char reason[240];
    kmemcpy(reason, "panic: ", 7);
    kvsnprintf(reason + 7, sizeof(reason) - 7, fmt, ap);
    va_end(ap);
    crash(&f, CRASH_CODE_PANIC, "%s", reason);
}

// --- The next boot -----------------------------------------------------------------------------

const struct crash_record *crash_last(void) {
    return have_last ? area : NULL;
}

uint32_t crash_boots(void) {
    return have_area ? boots->count : 0;
}

static bool overlaps(uint64_t start, uint64_t end) {
    return start < CRASH_AREA + CRASH_AREA_SIZE && end > CRASH_AREA;
}

// The last crash= word counts.
static void read_policy(void) {
    static const char *const words[] = {"reboot", "exit", "halt"}; // as enum crash_policy
    for (const char *value = NULL; (value = cmdline_next("crash=", value));) {
        for (unsigned i = 0; i < 3; i++) {
            policy = cmdline_is(value, words[i]) ? (enum crash_policy)i : policy;
        }
    }
}

void crash_init(void) {
    read_policy();
    have_area = !overlaps((uint64_t)__image_start, (uint64_t)__image_start + 1)
        && bootinfo_is_ram(CRASH_AREA, CRASH_AREA_SIZE);
    for (size_t i = 0; i < bootinfo.n_modules; i++) {
        const struct boot_module *m = &bootinfo.modules[i];
        have_area &= !overlaps(m->start, m->start + m->size);
    }
    if (!have_area) {
        klog("crash: the record of a death has no place, something lies there");
        return;
    }
    boots->count = boots->count == ~boots->complement ? boots->count + 1 : 0;
    boots->complement = ~boots->count;
    bool magic = true;
    for (int i = 0; i < 8; i++) {
        magic &= area->magic[i] == MAGIC[i];
    }
    if (!magic || area->size != sizeof(*area) || area->crc != record_crc(area)) {
        return;
    }
    have_last = true;
    earlier_count = area->count;
    earlier_streak = area->boots ? 0 : area->streak;
    area->boots++;
    commit(area);
    if (area->boots > 1) {
        return;
    }
    klog("crash: the last run died after %lu s: %s", area->uptime_ns / 1000000000, area->reason);
    const char *s = area->backtrace;
    for (unsigned i = 0; i < 10 && *s; i++) {
        size_t n = 0;
        while (s[n] && s[n] != '\n') {
            n++;
        }
        char line[160];
        size_t k = n < sizeof(line) - 1 ? n : sizeof(line) - 1;
        kmemcpy(line, s, k);
        line[k] = 0;
        klog("crash:   %s", line);
        s += n + (s[n] != 0);
    }
}
