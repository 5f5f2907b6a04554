// The machine layer's contract: everything that the MicroPython side (main.c, mphalport.c, mod*.c)
// may call, and what the parts of the kernel share.
//
// Rules:
// * Kernel code (boot/ cpu/ mm/ dev/ linux/) is compiled for general registers only, without libc,
//   so that a trap or a system call never touches vector state. It MUST NOT call libc.
// * Physical addresses of RAM and of device registers are mapped at the same virtual address
//   (identity); mmap() areas live above VM_BASE.
// * A function that can fail returns 0 or a negative Linux errno.
// * Hooks run in interrupt context: interrupts off, on an interrupt stack; they MUST NOT call libc
//   or Python and MUST be compiled for general registers only (py/scheduler.c is, see Makefile).
#ifndef CLLM_KERNEL_H
#define CLLM_KERNEL_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PAGE_SIZE 4096ul
#define PAGE_MASK (PAGE_SIZE - 1)
#define LARGE_PAGE_SIZE (2 * MiB)
#define ALIGN_UP(x, a) (((x) + (a) - 1) & ~((uint64_t)(a) - 1))
#define ALIGN_DOWN(x, a) ((x) & ~((uint64_t)(a) - 1))
#define KiB 1024ul
#define MiB (1024ul * 1024ul)
#define GiB (1024ul * 1024ul * 1024ul)

// --- kernel.c: log and boot phases ------------------------------------------------------------
// printf subset: %s %c %d %u %x %p with l, width and zero padding. Formats at most `size - 1` bytes
// and a NUL; returns the bytes written without it.
size_t kvsnprintf(char *buf, size_t size, const char *fmt, va_list ap);
size_t ksnprintf(char *buf, size_t size, const char *fmt, ...)
__attribute__((format(printf, 3, 4)));
// To the console, as one piece of at most 511 bytes.
void kprintf(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
// As kprintf, one line, prefixed with seconds since power-on.
void klog(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

#define BOOT_MAX_PHASES 24
struct boot_phase {
    const char *name; // lives for good
    uint64_t tsc;     // when it ended
};
extern struct boot_phase boot_phases[BOOT_MAX_PHASES];
extern size_t n_boot_phases;
extern uint64_t boot_began; // of the time-stamp counter: 0, or when the last soft reset began
// Notes that the phase `name` ends now; it began where the one before ended. Full: ignored.
void boot_phase(const char *name);
void boot_phases_restart(void); // a soft reset begins: the list is of its own phases from here

// --- crash.c: death ----------------------------------------------------------------------------
// Prints the reason, registers and a backtrace, keeps them for the next boot, and ends the machine
// as crash_policy says. May be called from anywhere, on any stack.
void panic(const char *fmt, ...) __attribute__((noreturn, format(printf, 1, 2)));

// What to do once a death is reported: the word crash=reboot|exit|halt of the command line.
enum crash_policy {CRASH_REBOOT, CRASH_EXIT, CRASH_HALT};
// Finds what the last run left behind, logs it, and reads the policy. After phys_init().
void crash_init(void);
// Where the record lies: physical addresses that survive a warm reset (see crash.c).
#define CRASH_AREA 0x1F0000ul
#define CRASH_AREA_SIZE 0x10000ul

// The record of the last death since power-on, NULL without one.
struct crash_record {
    char magic[8];
    uint32_t size, crc;    // of all that follows `crc`
    uint32_t boots;        // since the death: 0 while dying, 1 in the next run
    uint32_t count;        // deaths since power-on
    uint32_t streak;       // of them, in a row and each soon after its boot
    uint32_t code;         // QEMU's exit code under crash=exit
    uint64_t uptime_ns;    // at death
    int64_t realtime_ns;   // at death, since 1970 UTC
    char reason[256];      // one line
    char registers[1024];  // lines
    char backtrace[12288]; // lines, innermost first; those of Python begin with "python "
    char log[16384];       // last lines of the console
};
const struct crash_record *crash_last(void);
// Resets since power-on, as far as memory tells.
uint32_t crash_boots(void);
// Notes what is written to standard error. Who calls abort() (an assertion, std::terminate) has told
// there why, in the last line.
void crash_stderr(const char *s, size_t n);
const char *crash_stderr_last(void);

struct trap_frame;
// What `f` interrupted, in one line: this processor's function and the line of Python above it.
// From any context.
size_t crash_where(const struct trap_frame *f, char *line, size_t size);
// Whether the word nmi=crash is on the command line.
bool crash_on_nmi(void);

// --- symbols.c ---------------------------------------------------------------------------------
// Name of the function at `pc` into `name`, and how far into it; false when there is none.
bool symbol_find(uint64_t pc, char *name, size_t size, uint64_t *offset);

// --- pyframe.c ---------------------------------------------------------------------------------
// "FILE:LINE in FUNCTION" of a running mp_execute_bytecode(). False when code_state is none. Calls
// nothing of libc and reads nothing unmapped, so a fault handler may ask.
bool pyframe_describe(uint64_t code_state, char *text, size_t size);

// --- watchdog.c --------------------------------------------------------------------------------
enum watchdog {
    WATCHDOG_LOOP,   // frozen main.py's event loop
    WATCHDOG_PYTHON, // machine.WDT
    WATCHDOGS,
};
// Ends the machine when `which` is not fed for `timeout_ns`; 0 stops it. Feeds it.
void watchdog_start(enum watchdog which, uint64_t timeout_ns);
void watchdog_feed(enum watchdog which);
// While held, time does not count; releasing feeds.
void watchdog_hold(enum watchdog which, bool hold);
// When the next one is due, UINT64_MAX when none runs.
uint64_t watchdog_deadline(void);

static inline void kmemset(void *dst, int c, size_t n) {
    __asm__ volatile ("rep stosb" : "+D" (dst), "+c" (n) : "a" (c) : "memory");
}
static inline void kmemcpy(void *dst, const void *src, size_t n) {
    __asm__ volatile ("rep movsb" : "+D" (dst), "+S" (src), "+c" (n) :: "memory");
}
static inline void kmemzero_page(void *dst, size_t bytes) {
    size_t n = bytes / 8;
    __asm__ volatile ("rep stosq" : "+D" (dst), "+c" (n) : "a" (0) : "memory");
}
size_t kstrlen(const char *s);
bool kstreq(const char *a, const char *b);

// --- dev/console.c ---------------------------------------------------------------------------
void console_init(void);
// The last bytes written, oldest first, up to `size`; returns how many.
size_t console_log(char *buf, size_t size);
// From here on output goes out at once, whoever held the console, and the screen does not scroll:
// what comes first is what explains a death.
void console_panic(void);
// Text of line 0 to CONSOLE_STATUS - 1 at the top of the screen.
#define CONSOLE_STATUS 4
void console_status(unsigned line, const char *s, size_t n);
// Writes to the serial line and the screen as is: no newline translation.
void console_write(const char *s, size_t n);
// The same with "\n" sent as "\r\n".
void console_write_text(const char *s, size_t n);
// The same from a non-maskable interrupt, which may have interrupted a writer: then it fails.
bool console_try_write_text(const char *s, size_t n);
// Next received byte, or -1.
int console_getc(void);
bool console_has_input(void);
// Receive interrupts on; `c` received while it is the interrupt character calls the hook instead.
void console_enable_irq(void);
void console_set_interrupt_char(int c);

// --- cpu/ ------------------------------------------------------------------------------------
void cpu_init(void);
// Bytes of hardware randomness (RDRAND, else the TSC's jitter stretched).
void cpu_random(void *buf, size_t n);
const char *cpu_brand(void);
bool cpu_is_virtual(void);
// Bytes of vector state that XSAVE writes, 0 if only FXSAVE is there.
uint32_t cpu_xsave_size(void);
// Ends the machine: 0 powers off, anything else is QEMU's exit status (code << 1 | 1). A real
// machine that cannot be switched off halts.
void machine_exit(int code) __attribute__((noreturn));
void machine_reboot(void) __attribute__((noreturn));

static inline uint64_t irq_save(void) {
    uint64_t flags;
    __asm__ volatile ("pushfq; popq %0; cli" : "=r" (flags) :: "memory");
    return flags;
}
static inline void irq_restore(uint64_t flags) {
    if (flags & (1u << 9)) {
        __asm__ volatile ("sti" ::: "memory");
    }
}

// Device interrupt lines 0..15 as the 8259s number them.
void irq_mask(unsigned line); // does nothing to the power button's
void irq_unmask(unsigned line);

struct kernel_hooks {
    void (*irq)(unsigned line);   // a line without a kernel handler fired; it is masked now
    void (*alarm)(void);          // alarm deadline passed
    void (*interrupt_char)(void); // Ctrl-C arrived
    void (*power_button)(void);   // was pressed; see power_presses()
};
extern struct kernel_hooks kernel_hooks;

// --- cpu/clock.c -----------------------------------------------------------------------------
void clock_init(void);
// Since clock_init(), without the time in which no core could run. Never goes back.
uint64_t clock_ns(void);
uint64_t clock_paused_ns(void);    // what clock_ns() left out so far
uint64_t clock_tsc_hz(void);
int64_t clock_realtime_ns(void);   // since 1970-01-01 UTC
// The same = clock_ns() + this, until the next pause.
int64_t clock_realtime_offset_ns(void);
// Sets the wall time, ns since 1970-01-01 UTC, of this clock and (whole seconds, years 2000 to 2099)
// of the CMOS clock, from which it is read at the next power-on.
void clock_set_realtime(int64_t ns);
void clock_step(int64_t ns); // the same, but not the CMOS clock
// Seconds since 1970 by the CMOS clock, without what it differed when the wall time was last set.
// It may run where the TSC stands still. False when there is none.
bool clock_cmos(int64_t *seconds);
// Arms the alarm hook for clock_ns() >= deadline; UINT64_MAX disarms.
void clock_alarm(uint64_t deadline_ns);
// For the main thread: sleeps until a device interrupt or the alarm was handled or the deadline has
// passed. Returns at once when one came since the last call, so a wake-up between check and sleep
// is not lost.
void clock_wait(uint64_t deadline_ns);
// Makes the current clock_wait() return, or the next one. From any thread or interrupt handler.
void clock_interrupted(void);
// For the scheduler, which owns the timers: sets the calling core's; the alarm's deadline.
void clock_start_timer(uint64_t deadline_ns);
uint64_t clock_alarm_deadline(void);

// --- cpu/power.c -----------------------------------------------------------------------------
// Turns ACPI mode and the power button's interrupt on, where there is one.
void power_init(void);
// How often the button was pressed since this was last called with `take`. Presses that nobody
// takes for 3 s make the next one switch the machine off.
unsigned power_presses(bool take);
// Switches the machine off; returns where that does not work.
void power_off(void);

// --- cpu/smp.c -------------------------------------------------------------------------------
unsigned cpu_count(void); // cores online

// --- mm/ -------------------------------------------------------------------------------------
void phys_init(void);
// Frames of 4 KiB. phys_alloc returns 0 when memory is exhausted.
uint64_t phys_alloc(void);
// 2 MiB, aligned to as much; 0 when there is no such piece.
uint64_t phys_alloc_large(void);
// `n` contiguous frames, aligned to `align` bytes, below `limit`; 0 when there are none.
uint64_t phys_alloc_contiguous(size_t n, uint64_t align, uint64_t limit);
void phys_free(uint64_t frame, size_t n);
uint64_t phys_total(void); // bytes of RAM the kernel manages
uint64_t phys_free_bytes(void);

#define PROT_R 1u
#define PROT_W 2u
#define PROT_X 4u
#define PROT_UNCACHED 8u
void paging_init(void);
// Maps [va, va + size) to pa with the largest pages that fit. 0 or -ENOMEM.
int paging_map(uint64_t va, uint64_t pa, uint64_t size, unsigned prot);
// Other cores may use what they had cached until smp_flush_others(). No right at all keeps the
// mapping's address, for paging_forget(). -ENOMEM when a part is not mapped or a table is missing.
int paging_protect(uint64_t va, uint64_t size, unsigned prot);
// Removes the page that starts at va, which no core may use any more; its physical address and size,
// or 0.
uint64_t paging_forget(uint64_t va, uint64_t *page_size);
// Physical address behind va and the bytes up to the end of its page; 0 when unmapped.
uint64_t paging_lookup(uint64_t va, uint64_t *page_size);

#define VM_BASE 0x100000000000ul // 16 TiB: above every physical address
#define VM_END 0x600000000000ul
// Anonymous zeroed memory; *out receives its address. 0, -ENOMEM or -EINVAL.
int vm_map(uint64_t size, unsigned prot, uint64_t *out);
int vm_unmap(uint64_t va, uint64_t size);
int vm_protect(uint64_t va, uint64_t size, unsigned prot);
uint64_t vm_mapped_bytes(void);

// Identity-mapped, physically contiguous, zeroed memory below 4 GiB for device DMA; NULL when there
// is none. dma_free_all() releases every block: bus mastering MUST be off by then.
void *dma_alloc(size_t size, size_t align);
void dma_free_all(void);

// --- linux/ ----------------------------------------------------------------------------------
// Enters musl's _start with a Linux process's initial stack. Does not return.
void process_start(void) __attribute__((noreturn));
uint64_t process_stack_size(void);

#endif
