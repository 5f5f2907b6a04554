// The kernel's contract: the one header that the application on it, the MicroPython port, includes.
// The headers beside the kernel's own files are for the kernel alone.
//
// Rules:
// * RAM and mapped device registers have the same virtual address as their physical one. Memory
//   from mmap() lies above all of them.
// * A function that can fail returns 0 or a negative Linux errno, unless it says otherwise.
// * Hooks run in interrupt context: interrupts off, on an interrupt stack. They MUST NOT call libc
//   or Python and MUST be compiled with GENERAL_REGS (kernel.mk), because nobody saves vector
//   registers for them. They MAY call what is declared here, except clock_wait().
// * The main thread is the first one, pinned to core 0. Device interrupts and the alarm arrive on
//   core 0.
#ifndef CLLM_MACHINE_H
#define CLLM_MACHINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define KiB 1024ul
#define MiB (1024ul * 1024ul)
#define GiB (1024ul * 1024ul * 1024ul)
#define PAGE_SIZE 4096ul
#define ALIGN_UP(x, a) (((x) + (a) - 1) & ~((uint64_t)(a) - 1))
#define ALIGN_DOWN(x, a) ((x) & ~((uint64_t)(a) - 1))

// --- Hooks -----------------------------------------------------------------------------------

// What the kernel calls in the application. A null pointer is not called.
struct kernel_hooks {
    void (*irq)(unsigned line);   // a device interrupted; its line is masked until irq_unmask()
    void (*alarm)(void);          // the deadline of clock_alarm() has passed
    void (*interrupt_char)(void); // the interrupt character arrived on the console
    void (*power_button)(void);   // the power button was pressed; see power_presses()
    // For backtraces: the return address of the interpreter's calls, and a function that writes
    // one line about what the call with this frame pointer runs. False when it cannot say, which
    // the line says then. It MUST NOT read what is not memory_readable().
    const void *interpreter_return;
    bool (*describe_frame)(uint64_t frame_pointer, char *line, size_t size);
};
extern struct kernel_hooks kernel_hooks;

// --- Console: serial line and screen ---------------------------------------------------------

// Writes `n` bytes as they are, as one piece.
void console_write(const char *s, size_t n);
// The same for as long as clock_ns() is below `until`. Returns how many bytes were written.
size_t console_write_until(const char *s, size_t n, uint64_t until);
// The next byte received, or -1.
int console_getc(void);
bool console_has_input(void);
// From now on receiving `c` calls hooks.interrupt_char instead; -1 for none.
void console_set_interrupt_char(int c);
// The application provides it: letters 32 to 127, of 8 bytes each, one for a column of 8 dots, bit
// 0 on top.
extern const uint8_t *const console_font;
// Sets line 0 to CONSOLE_STATUS - 1 at the top of the screen.
#define CONSOLE_STATUS 4
void console_status(unsigned line, const char *s, size_t n);
// A subset of snprintf(): %s %c %d %u %x %p with l, width and zero padding. Returns the bytes
// written, at most size - 1, without the NUL.
size_t ksnprintf(char *buf, size_t size, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

// --- Clock -----------------------------------------------------------------------------------

// Nanoseconds since boot, without pauses: time in which no core could run. Never goes back.
uint64_t clock_ns(void);
// The pauses that clock_ns() has left out so far.
uint64_t clock_paused_ns(void);
// Ticks per second of the time-stamp counter.
uint64_t clock_tsc_hz(void);
// Wall time, since 1970-01-01 UTC.
int64_t clock_realtime_ns(void);
// Sets wall time and the CMOS clock (whole seconds, years 2000 to 2099), so it outlives power-off.
void clock_set_realtime(int64_t ns);
// Sets wall time only.
void clock_step(int64_t ns);
// Reads seconds since 1970 from the CMOS clock, which may run while the TSC stands still. The
// difference that it had to wall time at clock_set_realtime() is taken off. False without a clock.
bool clock_cmos(int64_t *seconds);

// Sets the one alarm: hooks.alarm runs at clock_ns() >= deadline. UINT64_MAX disarms.
void clock_alarm(uint64_t deadline_ns);
// For the main thread: sleeps until an interrupt, the alarm, clock_interrupted() or the deadline.
// Returns at once when one of them came since the last call: no wake-up gets lost.
void clock_wait(uint64_t deadline_ns);
// Ends the current clock_wait(), or the next one. From any thread or hook.
void clock_interrupted(void);

// --- Interrupts ------------------------------------------------------------------------------

// Turns interrupts off; returns the flags for irq_restore().
static inline uint64_t irq_save(void) {
    uint64_t flags;
    __asm__ volatile("pushfq; popq %0; cli" : "=r"(flags)::"memory");
    return flags;
}
static inline void irq_restore(uint64_t flags) {
    if (flags & (1u << 9)) { // IF
        __asm__ volatile("sti" ::: "memory");
    }
}

// Device interrupt lines: 0 to 15 as the 8259s number them, then inputs of I/O APICs by their
// global number, from IRQ_MESSAGE on messages (MSI). irq_mask() leaves lines alone that the kernel
// uses itself.
#define IRQ_LINES 64
#define IRQ_MESSAGE 48
void irq_mask(unsigned line);
void irq_unmask(unsigned line);
// Takes a message: a device that writes *data to *address interrupts core 0. Returns its line,
// masked; -ENOSPC when none is left; -EOPNOTSUPP under the command line's irq=lines. `control`:
// address of the device's mask, bit 0 of a mapped register of 32 bits, 0 where it has none.
int irq_take_message(uint64_t control, uint32_t *address, uint32_t *data);
// Masks all messages and takes them back.
void irq_free_messages(void);

// --- Cores, power ----------------------------------------------------------------------------

// Cores online.
unsigned cpu_count(void);
// Fills `buf` with random bytes: RDRAND's, else the TSC's jitter stretched.
void cpu_random(void *buf, size_t n);
// Returns how often the power button was pressed since the last call with `take`. 3 s after a press
// that nobody took, the next press switches the machine off.
unsigned power_presses(bool take);
// Ends the machine. 0 switches it off; a real machine that cannot be switched off halts. Anything
// else becomes QEMU's exit status, code << 1 | 1.
void machine_exit(int code) __attribute__((noreturn));
void machine_reboot(void) __attribute__((noreturn));

// --- Memory ----------------------------------------------------------------------------------

uint64_t memory_total(void);  // bytes of RAM
uint64_t memory_free(void);   // of them unused
uint64_t memory_mapped(void); // bytes behind mmap()
// The physical address behind `at`: returns how many of the n bytes from there on are contiguous, 0
// when `at` is not mapped.
size_t memory_physical(const void *at, size_t n, uint64_t *address);
// Whether all of [at, at + n) can be read. For hooks that follow pointers they do not trust.
bool memory_readable(uint64_t at, size_t n);

// Zeroed memory below 4 GiB for device DMA, physically contiguous, aligned to `align` bytes (a
// power of two). NULL when there is none.
void *dma_alloc(size_t size, size_t align);
// Frees every block. Bus mastering MUST be off.
void dma_free_all(void);
// Maps device registers uncached at their own address. -EINVAL for a range that wraps or is out of
// reach, -EEXIST for one that holds RAM.
int mmio_map(uint64_t address, uint64_t size);
// The same, write-back: for a device's memory that is RAM behind the device, such as memory shared
// with another program. Registers MUST NOT be mapped so, since the cache would answer for them.
int mmio_map_cached(uint64_t address, uint64_t size);

// --- Boot ------------------------------------------------------------------------------------

#define BOOT_NAME_MAX 64
struct boot_module {
    char name[BOOT_NAME_MAX]; // last word of the loader's string, without directories
    uint64_t start;           // address, on a page boundary
    uint64_t size;            // bytes
    bool mapped;              // beside RAM, not in it (boot/pmem.c)
};
// Module `i`, NULL after the last one.
const struct boot_module *boot_module(size_t i);
// Takes `size` bytes of RAM for a module that the application reads from a disk: contiguous, also
// for devices, on a 2 MiB boundary, and above 4 GiB where there is such memory, which leaves the
// lower for device DMA. *address receives it. -EEXIST for the name of a module, -EINVAL for none,
// -EMFILE for more modules than there is room for, -ENOMEM. The name of a reservation gets that one
// if it has the size, else it is released first.
int module_reserve(const char *name, uint64_t size, uint64_t *address);
// Makes a reservation a module, which is read-only. -ENOENT when there is none of that name.
int module_publish(const char *name);
// Frees a module that was published. Nobody may have it open or mapped: that is not checked.
// -ENOENT when there is none.
int module_remove(const char *name);
// Frees the reservation of that name, NULL for all. No device may write to it any more.
void module_release(const char *name);
// Where PCI configuration space is in memory: 1 MiB for each bus, of bus 0 at `address`.
struct boot_ecam {
    uint64_t address;
    uint8_t first, last; // buses
};
// NULL where ACPI names none, or under the command line's pci=ports.
const struct boot_ecam *boot_ecam(void);
// The loader's command line.
const char *boot_cmdline(void);

#define BOOT_MAX_PHASES 24
struct boot_phase {
    const char *name; // lives for good
    uint64_t tsc;     // when it ended
};
extern struct boot_phase boot_phases[BOOT_MAX_PHASES];
extern size_t n_boot_phases;
extern uint64_t boot_began; // TSC: 0 for power-on, or when the last soft reset began
// Records that the phase `name` ends now. It began where the one before ended.
void boot_phase(const char *name);
// Starts the list anew: a soft reset begins.
void boot_phases_restart(void);

// --- Death -----------------------------------------------------------------------------------

// Reports the reason, registers and a backtrace, keeps the report for the next boot, and ends the
// machine as the command line's crash= says. From anywhere, on any stack.
void panic(const char *fmt, ...) __attribute__((noreturn, format(printf, 1, 2)));

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
    char backtrace[12288]; // lines, innermost first, those of describe_frame() among them
    char log[16384];       // last lines of the console
};
// The last death since power-on, NULL without one.
const struct crash_record *crash_last(void);
// Resets since power-on, as far as memory kept the count.
uint32_t crash_boots(void);

#define WATCHDOGS 2
// Ends the machine, naming the watchdog, when `which` (0 to WATCHDOGS - 1) is not fed for
// `timeout_ns`; 0 stops it. Feeds it. `name` lives for good.
void watchdog_start(unsigned which, const char *name, uint64_t timeout_ns);
void watchdog_feed(unsigned which);
// While held, time does not count. Feeds it.
void watchdog_hold(unsigned which, bool hold);

#endif
