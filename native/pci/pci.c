// PCI configuration access, enumeration and region sizes: see pci.h. Section numbers are those of
// the PCI Local Bus Specification 3.0, unless the PCI-to-PCI Bridge specification 1.2 is named.
#include "pci.h"

#include <stdatomic.h>

enum {
    CONFIG_ADDRESS = 0xcf8,
    CONFIG_DATA = 0xcfc,
    PORTS_REACH = 256,

    VENDOR = 0x00,
    DEVICE = 0x02,
    COMMAND = 0x04,
    REVISION_CLASS = 0x08,
    HEADER_TYPE = 0x0e,
    BAR0 = 0x10,
    SECONDARY_BUS = 0x19, // PCI-to-PCI Bridge, section 3.2.5.4

    COMMAND_IO = 1,
    COMMAND_MEMORY = 2,
    COMMAND_MASTER = 4,

    MULTIFUNCTION = 0x80,
    TYPE_NORMAL = 0,
    TYPE_BRIDGE = 1,

    NO_VENDOR = 0xffff,
    CLASS_BRIDGE_PCI = 0x0604,
};

#if defined(__x86_64__) || defined(__i386__)
static uint32_t port_in(uint16_t port, unsigned size) {
    uint32_t value = 0;
    if (size == 1) {
        __asm__ volatile("inb %1, %b0" : "+a"(value) : "Nd"(port));
    } else if (size == 2) {
        __asm__ volatile("inw %1, %w0" : "+a"(value) : "Nd"(port));
    } else {
        __asm__ volatile("inl %1, %0" : "=a"(value) : "Nd"(port));
    }
    return value;
}

static void port_out(uint16_t port, unsigned size, uint32_t value) {
    if (size == 1) {
        __asm__ volatile("outb %b0, %1" : : "a"(value), "Nd"(port));
    } else if (size == 2) {
        __asm__ volatile("outw %w0, %1" : : "a"(value), "Nd"(port));
    } else {
        __asm__ volatile("outl %0, %1" : : "a"(value), "Nd"(port));
    }
}

struct pci_ports pci_ports = {port_in, port_out};
#else
struct pci_ports pci_ports;
#endif

// Section 3.2.2.3.2: enable bit, bus, device, function and register, then the data port's byte.
static uint16_t select_register(uint16_t bdf, unsigned offset) {
    pci_ports.out(CONFIG_ADDRESS, 4, 0x80000000u | (uint32_t)bdf << 8 | (offset & 0xfc));
    return CONFIG_DATA + (offset & 3);
}

// An access is two cycles, and several threads look for devices. It takes microseconds, so waiters
// spin.
static atomic_flag busy = ATOMIC_FLAG_INIT;

static void begin(void) {
    while (atomic_flag_test_and_set_explicit(&busy, memory_order_acquire)) {
    }
}

static void end(void) {
    atomic_flag_clear_explicit(&busy, memory_order_release);
}

static struct {
    uintptr_t base; // 0: not in use
    unsigned first, last;
} memory;

// A function's register in memory, 0 where it is not there.
static uintptr_t in_memory(uint16_t bdf, unsigned offset) {
    unsigned bus = bdf >> 8;
    return memory.base && bus >= memory.first && bus <= memory.last
        ? memory.base + ((uintptr_t)bdf << 12 | offset)
        : 0;
}

static uint32_t memory_read(uintptr_t at, unsigned size) {
    return size == 1 ? *(volatile uint8_t *)at
        : size == 2  ? *(volatile uint16_t *)at
                     : *(volatile uint32_t *)at;
}

uint32_t pci_read(uint16_t bdf, unsigned offset, unsigned size) {
    uintptr_t at = in_memory(bdf, offset);
    if (at) {
        return memory_read(at, size);
    }
    if (offset >= PORTS_REACH) {
        return 0xffffffffu >> (32 - 8 * size);
    }
    begin();
    uint32_t value = pci_ports.in(select_register(bdf, offset), size);
    end();
    return value;
}

void pci_write(uint16_t bdf, unsigned offset, unsigned size, uint32_t value) {
    uintptr_t at = in_memory(bdf, offset);
    if (at) {
        if (size == 1) {
            *(volatile uint8_t *)at = value;
        } else if (size == 2) {
            *(volatile uint16_t *)at = value;
        } else {
            *(volatile uint32_t *)at = value;
        }
        return;
    }
    if (offset >= PORTS_REACH) {
        return;
    }
    begin();
    pci_ports.out(select_register(bdf, offset), size, value);
    end();
}

bool pci_use_memory(uintptr_t base, unsigned first, unsigned last) {
    // Bus 0 shows at once whether a table lies: it has the host bridge.
    uint16_t bdf = first << 8;
    uint32_t by_port = pci_read(bdf, VENDOR, 4);
    if (by_port != 0xffffffff && by_port != memory_read(base + ((uintptr_t)bdf << 12), 4)) {
        return false;
    }
    memory.base = base;
    memory.first = first;
    memory.last = last;
    return true;
}

static uint8_t header_type(uint16_t bdf) {
    return pci_read(bdf, HEADER_TYPE, 1);
}

static bool present(uint16_t bdf) {
    // Section 6.1: reads of an absent function return all ones, which is no vendor's number.
    return pci_read(bdf, VENDOR, 2) != NO_VENDOR;
}

// A walk in progress: each bus is visited once, whatever the bridges claim.
struct walk {
    struct pci_function *found;
    size_t room;
    size_t count;
    uint8_t visited[256 / 8];
};

static void walk_bus(struct walk *walk, unsigned bus) {
    if (walk->visited[bus / 8] & 1 << bus % 8) {
        return;
    }
    walk->visited[bus / 8] |= 1 << bus % 8;

    for (unsigned device = 0; device < 32; device++) {
        uint16_t first = bus << 8 | device << 3;
        if (!present(first)) {
            continue;
        }
        // Section 6.1: functions other than 0 exist only in a multi-function device.
        unsigned functions = header_type(first) & MULTIFUNCTION ? 8 : 1;
        for (unsigned function = 0; function < functions; function++) {
            uint16_t bdf = first | function;
            if (!present(bdf)) {
                continue;
            }
            uint32_t class24 = pci_read(bdf, REVISION_CLASS, 4) >> 8;
            if (walk->count < walk->room) {
                walk->found[walk->count] = (struct pci_function){
                    .bdf = bdf,
                    .vendor = pci_read(bdf, VENDOR, 2),
                    .device = pci_read(bdf, DEVICE, 2),
                    .class24 = class24,
                };
            }
            walk->count++;
            if (class24 >> 8 == CLASS_BRIDGE_PCI
                && (header_type(bdf) & ~MULTIFUNCTION) == TYPE_BRIDGE) {
                walk_bus(walk, pci_read(bdf, SECONDARY_BUS, 1));
            }
        }
    }
}

size_t pci_scan(struct pci_function *found, size_t room) {
    struct walk walk = {.found = found, .room = room};
    walk_bus(&walk, 0);
    // A machine with several host bridges shows them as functions of device 0 on bus 0, function
    // n leading to bus n.
    if (present(0) && header_type(0) & MULTIFUNCTION) {
        for (unsigned function = 1; function < 8; function++) {
            if (present(function)) {
                walk_bus(&walk, function);
            }
        }
    }
    return walk.count;
}

// The bits of one region register that can be set: those above the region's size.
static uint32_t settable(uint16_t bdf, unsigned offset) {
    uint32_t value = pci_read(bdf, offset, 4);
    pci_write(bdf, offset, 4, 0xffffffff);
    uint32_t mask = pci_read(bdf, offset, 4);
    pci_write(bdf, offset, 4, value);
    return mask;
}

bool pci_bar(uint16_t bdf, unsigned index, struct pci_bar *bar) {
    uint8_t type = header_type(bdf) & ~MULTIFUNCTION;
    unsigned registers = type == TYPE_NORMAL ? 6 : type == TYPE_BRIDGE ? 2 : 0;
    if (index >= registers) {
        return false;
    }
    // Section 6.2.5.1: bit 0 tells ports from memory, bits 2:1 == 2 a 64-bit address whose upper
    // half is the next register. Registers before `index` say whether it is such a half.
    for (unsigned i = 0; i < index; i++) {
        uint32_t low = pci_read(bdf, BAR0 + 4 * i, 4);
        if ((low & 7) == 4 && ++i == index) {
            return false;
        }
    }
    unsigned offset = BAR0 + 4 * index;
    uint32_t low = pci_read(bdf, offset, 4);
    bar->is_io = low & 1;
    bool wide = (low & 7) == 4 && index + 1 < registers;
    uint32_t flags = bar->is_io ? 3 : 15;

    // Section 6.2.5.1: the size is the lowest bit that can be set. The function must not answer at
    // the addresses that the registers name meanwhile.
    uint16_t command = pci_read(bdf, COMMAND, 2);
    pci_write(bdf, COMMAND, 2, command & ~(COMMAND_IO | COMMAND_MEMORY));
    uint64_t mask = settable(bdf, offset) & ~flags;
    bar->address = low & ~flags;
    if (wide) {
        bar->address |= (uint64_t)pci_read(bdf, offset + 4, 4) << 32;
        mask |= (uint64_t)settable(bdf, offset + 4) << 32;
    }
    pci_write(bdf, COMMAND, 2, command);

    bar->size = mask & -mask;
    return true;
}

void pci_enable(uint16_t bdf) {
    uint16_t command = pci_read(bdf, COMMAND, 2);
    pci_write(bdf, COMMAND, 2, command | COMMAND_IO | COMMAND_MEMORY | COMMAND_MASTER);
}

void pci_quiesce(void) {
    static struct pci_function found[256];
    size_t count = pci_scan(found, sizeof(found) / sizeof(found[0]));
    for (size_t i = 0; i < count && i < sizeof(found) / sizeof(found[0]); i++) {
        if (found[i].class24 >> 16 != CLASS_BRIDGE_PCI >> 8) {
            uint16_t command = pci_read(found[i].bdf, COMMAND, 2);
            pci_write(found[i].bdf, COMMAND, 2, command & ~COMMAND_MASTER);
        }
    }
}
