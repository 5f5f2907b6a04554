// The processor: segments, interrupt table, vector units, the system call instruction; names and
// randomness from CPUID and RDRAND; and the ways to end the machine.
#include "kernel.h"
#include "cpu/apic.h"
#include "cpu/io.h"
#include "cpu/smp.h"
#include "cpu/trap.h"

#define SEL_TSS 0x18

#define IST_INTERRUPT 1    // device and timer interrupts: they do not nest (interrupt gates)
#define IST_FAULT 2        // exceptions: may arrive inside an interrupt handler
#define IST_DOUBLE_FAULT 3 // never the stack that may be the cause
#define IST_NMI 4          // may arrive inside any of them

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

static struct cpu boot_cpu;
static struct gate idt[256];
static char brand[49];
static bool have_rdrand, have_hypervisor;
static uint32_t xsave_size;

static void set_gate(unsigned vector, const char *entry, unsigned ist) {
    uint64_t a = (uint64_t)entry;
    idt[vector] = (struct gate) {
        .offset_low = (uint16_t)a, .selector = SEL_CODE, .ist = (uint8_t)ist,
        .type = 0x8E, // present, ring 0, interrupt gate
        .offset_mid = (uint16_t)(a >> 16), .offset_high = (uint32_t)(a >> 32),
    };
}

static void fill_idt(void) {
    for (unsigned v = 0; v <= VECTOR_LAST; v++) {
        unsigned ist = v >= VECTOR_PIC ? IST_INTERRUPT : v == VECTOR_DOUBLE_FAULT ? IST_DOUBLE_FAULT
            : v == VECTOR_NMI ? IST_NMI : IST_FAULT;
        set_gate(v, trap_entries + 16 * v, ist);
    }
    set_gate(VECTOR_SPURIOUS, trap_entry_spurious, IST_INTERRUPT);
}

static void load_tables(struct cpu *c) {
    uint64_t t = (uint64_t)&c->tss;
    for (int i = 0; i < IST_STACKS; i++) {
        c->tss.ist[i] = (uint64_t)c->ist_stacks[i] + IST_SIZE;
    }
    c->tss.iomap_base = sizeof(c->tss);
    c->gdt[SEL_CODE / 8] = 0x00AF9A000000FFFF;
    c->gdt[SEL_DATA / 8] = 0x00CF92000000FFFF;
    c->gdt[SEL_TSS / 8] = (sizeof(c->tss) - 1) | (t & 0xFFFFFF) << 16 | 0x89ul << 40
        | (t >> 24 & 0xFF) << 56;
    c->gdt[SEL_TSS / 8 + 1] = t >> 32;
    struct table_pointer gp = {sizeof(c->gdt) - 1, (uint64_t)c->gdt};
    __asm__ volatile ("lgdt %0" :: "m" (gp));
    // Reload what may come from another table: an application processor's trampoline has its own.
    __asm__ volatile (
        "pushq %0; leaq 1f(%%rip), %%rax; pushq %%rax; lretq; 1: movl %1, %%ds; movl %1, %%es; movl %1, %%ss"
        :: "i" (SEL_CODE), "r" (SEL_DATA) : "rax", "memory");
    __asm__ volatile ("ltr %0" :: "r" ((uint16_t)SEL_TSS));
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
        cpuid(0xD, 0, r);
        xsave_size = r[1]; // for what is enabled now
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

void cpu_init_core(struct cpu *c) {
    load_tables(c);
    wrmsr(MSR_GS_BASE, (uint64_t)c);
    enable_vector_units();
    wrmsr(MSR_STAR, (uint64_t)SEL_CODE << 32); // CS = 0x08, SS = CS + 8
    wrmsr(MSR_LSTAR, (uint64_t)syscall_entry);
    wrmsr(MSR_FMASK, 1u << 9 | 1u << 10); // IF and DF off on entry
}

void cpu_init(void) {
    boot_cpu.self = cpus[0] = &boot_cpu;
    boot_cpu.syscall_stack = boot_stack_top;
    fill_idt();
    cpu_init_core(&boot_cpu);
    apic_init();
    boot_cpu.apic_id = apic_id();
    boot_cpu.online = true;
    read_brand();
    pic_init();
}

bool cpu_is_virtual(void) {
    return have_hypervisor;
}

uint32_t cpu_xsave_size(void) {
    return xsave_size;
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
        power_off();
        if (!have_hypervisor) {
            klog("power: the machine can be switched off now");
            for (;;) {
                __asm__ volatile ("cli; hlt");
            }
        }
        // Without ACPI's tables: PM1a_CNT of QEMU's PIIX4 and ICH9, SLP_EN with S5.
        outw(0x604, 0x2000);
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
