// PCI configuration space, in memory (PCI Express Base 4.0, section 7.2.2) where the machine has it
// there, else through ports by mechanism #1 (PCI Local Bus 3.0, section 3.2.2.3.2).
//
// A function is named by `bdf`: bus << 8 | device << 3 | function. Ports are reached through
// `pci_ports`, which a test replaces; in the image it holds the IN and OUT instructions.
#ifndef CLLM_PCI_H
#define CLLM_PCI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct pci_ports {
    uint32_t (*in)(uint16_t port, unsigned size);
    void (*out)(uint16_t port, unsigned size, uint32_t value);
};
extern struct pci_ports pci_ports;

struct pci_function {
    uint16_t bdf;
    uint16_t vendor;
    uint16_t device;
    uint32_t class24; // class, subclass and programming interface
};

struct pci_bar {
    uint64_t address;
    uint64_t size; // 0: the function has no such region
    bool is_io;
};

// Uses configuration space in memory from now on: 1 MiB for each bus, the buses from `first` to
// `last`, bus 0 at `base`; mapped uncached. Other buses stay with the ports. False, and no change,
// where the ports show another machine.
bool pci_use_memory(uintptr_t base, unsigned first, unsigned last);

// Reads or writes `size` (1, 2 or 4) bytes at `offset`; the caller keeps offset + size <= 4096 and
// offset a multiple of size. Ports reach 256 bytes: behind them reads give all ones.
uint32_t pci_read(uint16_t bdf, unsigned offset, unsigned size);
void pci_write(uint16_t bdf, unsigned offset, unsigned size, uint32_t value);

// Fills `found` with the functions reachable from the host bridges, in the order of a walk through
// the bridges. Returns how many there are, which may be more than `room`.
size_t pci_scan(struct pci_function *found, size_t room);

// Region `index` (0 to 5). False: no such register in this header, or the upper half of another.
// The region does not decode while it is measured, so its driver must not run meanwhile.
bool pci_bar(uint16_t bdf, unsigned index, struct pci_bar *bar);

// Lets the function decode memory and ports and master the bus.
void pci_enable(uint16_t bdf);

// Takes bus mastering from every function, bridges apart: no device writes memory after that.
void pci_quiesce(void);

#endif
