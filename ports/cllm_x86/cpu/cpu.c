// The processor: segments, interrupt table, vector units, the system call instruction; names and
// randomness from CPUID and RDRAND; and the ways to end the machine.
#include "kernel.h"
#include "cpu/io.h"
#include "cpu/trap.h"

#define SEL_CODE 0x08
#define SEL_DATA 0x10
#define SEL_TSS 0x18

#define IST_INTERRUPT 1    // device and timer interrupts: they do not nest (interrupt gates)
#define IST_FAULT 2        // exceptions: may arrive inside an interrupt handler
#define IST_DOUBLE_FAULT 3 // never the stack that may be the cause
#define IST_SIZE (32 * KiB)

// %gs points here for good; offsets are known to entry.S.
struct percpu {
    void *syscall_stack;
    uint64_t caller_rsp;
};

// SDM vol. 3A, figure 9-11 "64-Bit TSS Format".
struct tss {
    uint32_t reserved0;
    uint64_t rsp[3];
    uint64_t reserved1;
    uint64_t ist[7];
    uint64_t reserved2;
    uint16_t reserved3, iomap_base;
} __attribute__((packed));

// SDM vol. 3A, figure 7-8 "64-Bit IDT Gate Descriptors".
struct gate {
    uint16_t offset_low, selector;
    uint8_t ist, type;
    uint16_t offset_mid;
    uint32_t offset_high, reserved;
};

struct table_pointer {
    uint16_t limit;
    uint64_t base;
} __attribute__((packed));

extern char boot_stack_top[], trap_entries[], trap_entry_spurious[], syscall_entry[];

static struct percpu percpu;
static struct tss tss;
static uint64_t gdt[5];
static struct gate idt[256];
static char ist_stacks[3][IST_SIZE] __attribute__((aligned(16)));
static char brand[49];
static bool have_rdrand, have_hypervisor;

static void set_gate(unsigned vector, const char *entry, unsigned ist) {
    uint64_t a = (uint64_t)entry;
    idt[vector] = (struct gate) {
        .offset_low = (uint16_t)a, .selector = SEL_CODE, .ist = (uint8_t)ist,
        .type = 0x8E, // present, ring 0, interrupt gate
        .offset_mid = (uint16_t)(a >> 16), .offset_high = (uint32_t)(a >> 32),
    };
}

static void load_tables(void) {
    uint64_t t = (uint64_t)&tss;
    for (int i = 0; i < 3; i++) {
        tss.ist[i] = (uint64_t)ist_stacks[i] + IST_SIZE;
    }
    tss.iomap_base = sizeof(tss);
    gdt[SEL_CODE / 8] = 0x00AF9A000000FFFF;
    gdt[SEL_DATA / 8] = 0x00CF92000000FFFF;
    gdt[SEL_TSS / 8] = (sizeof(tss) - 1) | (t & 0xFFFFFF) << 16 | 0x89ul << 40
        | (t >> 24 & 0xFF) << 56;
    gdt[SEL_TSS / 8 + 1] = t >> 32;
    struct table_pointer gp = {sizeof(gdt) - 1, (uint64_t)gdt};
    __asm__ volatile ("lgdt %0" :: "m" (gp));
    __asm__ volatile ("ltr %0" :: "r" ((uint16_t)SEL_TSS));

    for (unsigned v = 0; v <= VECTOR_TIMER; v++) {
        unsigned ist = v >= VECTOR_PIC ? IST_INTERRUPT : v == 8 ? IST_DOUBLE_FAULT : IST_FAULT;
        set_gate(v, trap_entries + 16 * v, ist);
    }
    set_gate(VECTOR_SPURIOUS, trap_entry_spurious, IST_INTERRUPT);
    struct table_pointer ip = {sizeof(idt) - 1, (uint64_t)idt};
    __asm__ volatile ("lidt %0" :: "m" (ip));
}

// x87, SSE and, where CPUID offers them, AVX and AVX-512 state (SDM vol. 1, 13.5.1; vol. 3A, 2.5).
static void enable_vector_units(void) {
    uint32_t r[4];
    uint64_t cr0, cr4;
    __asm__ volatile ("movq %%cr0, %0" : "=r" (cr0));
    cr0 = (cr0 & ~(1ul << 2 | 1ul << 3)) | 1ul << 1 | 1ul << 5; // not EM, not TS; MP, NE
    __asm__ volatile ("movq %0, %%cr0" :: "r" (cr0));
    __asm__ volatile ("movq %%cr4, %0" : "=r" (cr4));
    cr4 |= 1ul << 9 | 1ul << 10; // OSFXSR, OSXMMEXCPT
    cpuid(1, 0, r);
    bool xsave = r[2] >> 26 & 1;
    have_rdrand = r[2] >> 30 & 1;
    have_hypervisor = r[2] >> 31 & 1;
    if (xsave) {
        cr4 |= 1ul << 18; // OSXSAVE
    }
    __asm__ volatile ("movq %0, %%cr4" :: "r" (cr4));
    if (xsave) {
        cpuid(0xD, 0, r);
        uint32_t mask = r[0] & 0xE7; // x87, SSE, AVX, and the three AVX-512 parts
        if ((mask & 0xE4) != 0xE4) {
            mask &= 7;               // AVX-512 parts only together with AVX (13.3)
        }
        __asm__ volatile ("xsetbv" :: "c" (0), "a" (mask), "d" (0));
    }
    __asm__ volatile ("fninit");
    uint32_t mxcsr = 0x1F80; // all exceptions masked, round to nearest
    __asm__ volatile ("ldmxcsr %0" :: "m" (mxcsr));
}

static void read_brand(void) {
    uint32_t r[4];
    cpuid(0x80000000, 0, r);
    if (r[0] < 0x80000004) {
        kmemcpy(brand, "x86-64", 7);
        return;
    }
    for (uint32_t i = 0; i < 3; i++) {
        cpuid(0x80000002 + i, 0, r);
        kmemcpy(brand + 16 * i, r, 16);
    }
}

void cpu_init(void) {
    load_tables();
    percpu.syscall_stack = boot_stack_top;
    wrmsr(MSR_GS_BASE, (uint64_t)&percpu);
    enable_vector_units();
    read_brand();
    wrmsr(MSR_STAR, (uint64_t)SEL_CODE << 32); // CS = 0x08, SS = CS + 8
    wrmsr(MSR_LSTAR, (uint64_t)syscall_entry);
    wrmsr(MSR_FMASK, 1u << 9 | 1u << 10); // IF and DF off on entry
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) | 1);
    pic_init();
}

const char *cpu_brand(void) {
    return brand;
}

// RDRAND may run dry: retry as SDM vol. 1, 7.3.17.1 advises. Without it, mix the TSC's low bits
// through splitmix64; weaker, but never constant.
static uint64_t random64(void) {
    static uint64_t state;
    uint64_t v;
    for (int i = 0; have_rdrand && i < 10; i++) {
        bool ok;
        __asm__ volatile ("rdrand %0" : "=r" (v), "=@ccc" (ok));
        if (ok) {
            return v;
        }
    }
    state += rdtsc() * 0x9E3779B97F4A7C15ul;
    v = state;
    v = (v ^ v >> 30) * 0xBF58476D1CE4E5B9ul;
    v = (v ^ v >> 27) * 0x94D049BB133111EBul;
    return v ^ v >> 31;
}

void cpu_random(void *buf, size_t n) {
    uint8_t *p = buf;
    while (n) {
        uint64_t v = random64();
        size_t k = n < 8 ? n : 8;
        kmemcpy(p, &v, k);
        p += k;
        n -= k;
    }
}

void machine_exit(int code) {
    irq_save();
    if (code == 0) {
        outw(0x604, 0x2000); // QEMU's PIIX4 and ICH9 power management: PM1a_CNT, SLP_EN with S5
    } else if (have_hypervisor) {
        outl(0xF4, (uint32_t)code); // QEMU's isa-debug-exit
    }
    machine_reboot();
}

void machine_reboot(void) {
    irq_save();
    outb(0xCF9, 0x06); // reset control register of PIIX and later chipsets: full reset
    outb(0x64, 0xFE);  // else the keyboard controller's pulse
    struct table_pointer none = {0, 0};
    __asm__ volatile ("lidt %0; int3" :: "m" (none)); // else a triple fault
    for (;;) {
        __asm__ volatile ("hlt");
    }
}
