// The tables of a core: segments, interrupt table and stacks, the system call instruction.
#include "cpu/tables.h"

#include "cpu/apic.h"
#include "cpu/io.h"
#include "cpu/trap.h"
#include "cpu/vectors.h"

#define SEL_TSS 0x18
// SDM vol. 3A, 13.12.2: as after a reset, but for entry 1, which is write-combining.
#define PAT 0x0007010600070106ul

#define IST_INTERRUPT 1    // device and timer interrupts: they do not nest (interrupt gates)
#define IST_FAULT 2        // exceptions: may arrive inside an interrupt handler
#define IST_DOUBLE_FAULT 3 // another stack than the one that may be the cause
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

static void set_gate(unsigned vector, const char *entry, unsigned ist) {
    uint64_t a = (uint64_t)entry;
    idt[vector] = (struct gate){
        .offset_low = (uint16_t)a,
        .selector = SEL_CODE,
        .ist = (uint8_t)ist,
        .type = 0x8E, // present, ring 0, interrupt gate
        .offset_mid = (uint16_t)(a >> 16),
        .offset_high = (uint32_t)(a >> 32),
    };
}

static void fill_idt(void) {
    for (unsigned v = 0; v <= VECTOR_LAST; v++) {
        unsigned ist = v >= VECTOR_TIMER ? IST_INTERRUPT
            : v == VECTOR_DOUBLE_FAULT   ? IST_DOUBLE_FAULT
            : v == VECTOR_NMI            ? IST_NMI
                                         : IST_FAULT;
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
    c->gdt[SEL_TSS / 8] =
        (sizeof(c->tss) - 1) | (t & 0xFFFFFF) << 16 | 0x89ul << 40 | (t >> 24 & 0xFF) << 56;
    c->gdt[SEL_TSS / 8 + 1] = t >> 32;
    struct table_pointer gp = {sizeof(c->gdt) - 1, (uint64_t)c->gdt};
    __asm__ volatile("lgdt %0" ::"m"(gp));
    // Reload the segments: an application processor's come from its trampoline's table.
    __asm__ volatile("pushq %0; leaq 1f(%%rip), %%rax; pushq %%rax; lretq;"
                     "1: movl %1, %%ds; movl %1, %%es; movl %1, %%ss" ::"i"(SEL_CODE),
        "r"(SEL_DATA)
        : "rax", "memory");
    __asm__ volatile("ltr %0" ::"r"((uint16_t)SEL_TSS));
    struct table_pointer ip = {sizeof(idt) - 1, (uint64_t)idt};
    __asm__ volatile("lidt %0" ::"m"(ip));
}

void cpu_init_core(struct cpu *c) {
    load_tables(c);
    wrmsr(MSR_GS_BASE, (uint64_t)c);
    wrmsr(MSR_PAT, PAT);
    vectors_enable();
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
}
