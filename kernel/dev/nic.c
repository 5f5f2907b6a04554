// A head start for the network card, whose driver is Python (frozen/drivers/e1000.py).
//
// QEMU's e1000 takes no frame for a second after each write to RCTL (hw/net/e1000.c,
// set_rx_control() and its flush_queue_timer), which is longer than all the rest of booting.
// Enabling the receiver here, as early as possible, lets the second pass while the machine boots.
// The driver, and a second call, leave a register alone that has its value already.
//
// On a real controller this does nothing: its bus mastering is off, so that it cannot touch memory,
// its ring is empty (RDH and RDT are 0 after a reset), and the driver's reset, which clears RCTL,
// comes before anything else. Firmware used a controller that may master the bus: it is left alone.
#include "dev/nic.h"
#include "cpu/io.h"

// PCI Local Bus 3.0, 3.2.2.3.2 and 6.1.
#define CONFIG_ADDRESS 0xCF8
#define CONFIG_DATA 0xCFC
#define ID 0x00
#define COMMAND 0x04
#define COMMAND_MEMORY (1u << 1)
#define COMMAND_MASTER (1u << 2)
#define BAR0 0x10

// The controllers that e1000.py knows: 82540EM and 82545EM (317453, 5.2).
#define ID_82540EM 0x100E8086u
#define ID_82545EM 0x100F8086u
// 317453, 13.4.22; the driver's _RCTL_VALUE.
#define RCTL 0x100
#define RCTL_VALUE (1u << 1 | 1u << 15 | 1u << 26)

static uint32_t config(unsigned device, unsigned offset) {
    outl(CONFIG_ADDRESS, 0x80000000u | device << 11 | offset);
    return inl(CONFIG_DATA);
}

void nic_head_start(void) {
    // Only on the first bus, where QEMU's card is: no other gains by it.
    for (unsigned device = 0; device < 32; device++) {
        uint32_t id = config(device, ID);
        uint32_t bar = config(device, BAR0);
        if ((id == ID_82540EM || id == ID_82545EM)
            && (config(device, COMMAND) & (COMMAND_MEMORY | COMMAND_MASTER)) == COMMAND_MEMORY
            && !(bar & 7) && bar) { // in memory, below 4 GiB, which are mapped by now
            volatile uint32_t *rctl = (volatile uint32_t *)((uintptr_t)bar + RCTL);
            if (*rctl != RCTL_VALUE) {
                *rctl = RCTL_VALUE;
            }
        }
    }
}
