// The local APIC: one per core, at the same address on all; every call is about the calling core's.
#ifndef CLLM_CPU_APIC_H
#define CLLM_CPU_APIC_H

#include <stdbool.h>
#include <stdint.h>

// Enables the calling core's APIC, its timer stopped.
void apic_init(void);
uint8_t apic_id(void);
void apic_eoi(void);
// Whether the 8259s' interrupts reach the calling core.
void apic_accept_pic(bool on);

// One-shot timer: `ticks` of the APIC's clock divided by 16; 0 stops it.
void apic_timer_start(uint32_t ticks);
uint32_t apic_timer_left(void);

// Interrupt `vector` on the core with this APIC id, or on every core but this one.
void apic_send(uint8_t id, uint8_t vector);
void apic_send_others(uint8_t vector);
void apic_send_nmi_others(void);
// INIT to every core but this one, then start-up of one at the 4 KiB `page` below 1 MiB.
void apic_send_init_others(void);
void apic_send_startup(uint8_t id, uint8_t page);

#endif
