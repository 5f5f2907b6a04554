// The local APIC's registers. Source: SDM vol. 3A, chapter 12 (12.4.1 register map, 12.5.4 timer,
// 12.6.1 interrupt command register).
#include "cpu/apic.h"

#include "cpu/io.h"
#include "cpu/trap.h"
#include "include/machine.h"

#define X2APIC (1u << 10) // in MSR_APIC_BASE

#define APIC_ID 0x20
#define APIC_EOI 0xB0
#define APIC_SVR 0xF0
#define APIC_ICR_LOW 0x300
#define APIC_ICR_HIGH 0x310
#define APIC_LVT_TIMER 0x320
#define APIC_LVT_LINT0 0x350
#define APIC_TIMER_INIT 0x380
#define APIC_TIMER_CURRENT 0x390
#define APIC_TIMER_DIVIDE 0x3E0

#define LVT_EXTINT (7u << 8)
#define LVT_MASKED (1u << 16)

#define ICR_NMI (4u << 8)
#define ICR_INIT (5u << 8)
#define ICR_STARTUP (6u << 8)
#define ICR_PENDING (1u << 12)
#define ICR_ASSERT (1u << 14)
#define ICR_OTHERS (3u << 18)

static volatile uint32_t *apic;

static uint32_t get(unsigned reg) {
    return apic[reg / 4];
}

static void set(unsigned reg, uint32_t v) {
    apic[reg / 4] = v;
}

void apic_init(void) {
    uint64_t base = rdmsr(MSR_APIC_BASE);
    if (base & X2APIC) { // firmware may leave it on; 12.12.5: only a disabled one leaves that mode
        base &= ~(uint64_t)(X2APIC | 1u << 11);
        wrmsr(MSR_APIC_BASE, base);
    }
    wrmsr(MSR_APIC_BASE, base | 1u << 11);
    apic = (volatile uint32_t *)(base & 0xFFFFFF000ul);
    set(APIC_SVR, 0x100 | VECTOR_SPURIOUS);
    set(APIC_TIMER_INIT, 0);
    set(APIC_TIMER_DIVIDE, 3); // by 16
    set(APIC_LVT_TIMER, VECTOR_TIMER);
}

uint8_t apic_id(void) {
    return (uint8_t)(get(APIC_ID) >> 24);
}

void apic_eoi(void) {
    set(APIC_EOI, 0);
}

// MP Specification 1.4, 3.6.2.2 "virtual wire mode": the 8259s' output is at LINT0.
void apic_accept_pic(bool on) {
    set(APIC_LVT_LINT0, on ? LVT_EXTINT : LVT_MASKED);
}

void apic_timer_start(uint32_t ticks) {
    set(APIC_TIMER_INIT, ticks);
}

uint32_t apic_timer_left(void) {
    return get(APIC_TIMER_CURRENT);
}

// The two writes belong together: an interrupt handler that sends must not come between.
static void command(uint8_t id, uint32_t low) {
    uint64_t flags = irq_save();
    while (get(APIC_ICR_LOW) & ICR_PENDING) {
        __builtin_ia32_pause();
    }
    set(APIC_ICR_HIGH, (uint32_t)id << 24);
    set(APIC_ICR_LOW, low);
    irq_restore(flags);
}

void apic_send(uint8_t id, uint8_t vector) {
    command(id, ICR_ASSERT | vector);
}

void apic_send_others(uint8_t vector) {
    command(0, ICR_OTHERS | ICR_ASSERT | vector);
}

void apic_send_nmi_others(void) {
    command(0, ICR_OTHERS | ICR_ASSERT | ICR_NMI);
}

void apic_send_init_others(void) {
    command(0, ICR_OTHERS | ICR_ASSERT | ICR_INIT);
}

void apic_send_startup(uint8_t id, uint8_t page) {
    command(id, ICR_ASSERT | ICR_STARTUP | page);
}
