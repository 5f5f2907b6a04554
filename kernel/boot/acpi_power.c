// Fields of the FADT, and the package \_S5_ of the DSDT, found by its bytes: there is no AML
// interpreter.
// Source: ACPI Specification 6.5, 5.2.3.2 (generic addresses), 5.2.9 (FADT), 4.8.2 and 4.8.3
// (registers), 7.4.2 (\_Sx), 20.2 (AML's grammar).
#include "boot/acpi_power.h"

#define SYSTEM_MEMORY 0
#define SYSTEM_IO 1
#define PCI_CONFIGURATION 2
#define FLAG_BUTTON_IS_A_DEVICE (1u << 4) // PWR_BUTTON
#define FLAG_RESET (1u << 10)             // RESET_REG_SUP
#define FLAG_HARDWARE_REDUCED (1u << 20)
#define PORTS 0x10000u
// Lines that belong to something else: timer, keyboard, cascade, serial line, CMOS clock,
// coprocessor.
#define LINES_TAKEN (1u << 0 | 1u << 1 | 1u << 2 | 1u << 4 | 1u << 8 | 1u << 13)

#define NAME_OP 0x08
#define ROOT_CHAR 0x5C
#define PACKAGE_OP 0x12
#define ZERO_OP 0x00
#define ONE_OP 0x01
#define BYTE_PREFIX 0x0A
#define WORD_PREFIX 0x0B
#define DWORD_PREFIX 0x0C
#define SLEEP_TYPE_MAX 7 // three bits

struct bytes {
    const uint8_t *p;
    size_t n;
};

// `count` bytes at `at`, little-endian; 0 where a table of an older revision has ended.
static uint64_t get(struct bytes t, size_t at, unsigned count) {
    uint64_t v = 0;
    for (unsigned i = 0; i < count && at + count <= t.n; i++) {
        v |= (uint64_t)t.p[at + i] << 8 * i;
    }
    return v;
}

// The first port of a register block of `length` bytes, from its old field or the generic address
// of later revisions. 0 when the block is not in I/O space.
static uint16_t ports(struct bytes t, size_t old, size_t generic, unsigned length) {
    uint64_t at = get(t, old, 4);
    if (!at && get(t, generic, 1) == SYSTEM_IO) {
        at = get(t, generic + 4, 8);
    }
    return length && at && at < PORTS && at + length <= PORTS ? (uint16_t)at : 0;
}

// 4.8.3.6: one byte, in memory, I/O space or the configuration space of bus 0.
static void reset_register(struct acpi_power *power, struct bytes t) {
    uint64_t at = get(t, 120, 8);
    uint64_t space = get(t, 116, 1);
    if (!at || t.n < 129) {
        return;
    }
    if (space == SYSTEM_MEMORY) {
        power->reset_space = ACPI_MEMORY;
    } else if (space == SYSTEM_IO && at < PORTS) {
        power->reset_space = ACPI_IO;
    } else if (space == PCI_CONFIGURATION && (at >> 32) < 32 && (at >> 16 & 0xFFFF) < 8
        && (at & 0xFFFF) < 256) { // 5.2.3.2: device, function, offset
        power->reset_space = ACPI_PCI;
    }
    power->reset = at;
    power->reset_value = (uint8_t)get(t, 128, 1);
}

void acpi_power_fadt(struct acpi_power *power, const void *fadt, size_t size) {
    struct bytes t = {fadt, size};
    uint32_t flags = (uint32_t)get(t, 112, 4);
    if (flags & FLAG_RESET) {
        reset_register(power, t);
    }
    if (flags & FLAG_HARDWARE_REDUCED) { // 4.1: none of these registers exists
        return;
    }
    unsigned event_bytes = (unsigned)get(t, 88, 1), control_bytes = (unsigned)get(t, 89, 1);
    for (unsigned i = 0; i < 2; i++) {
        power->status[i] = event_bytes >= 4 ? ports(t, 56 + 4 * i, 148 + 12 * i, event_bytes) : 0;
        power->enable[i] = power->status[i] ? (uint16_t)(power->status[i] + event_bytes / 2) : 0;
        power->control[i] =
            control_bytes >= 2 ? ports(t, 64 + 4 * i, 172 + 12 * i, control_bytes) : 0;
        unsigned gpe_bytes = (unsigned)get(t, 92 + i, 1);
        uint16_t gpe = ports(t, 80 + 4 * i, 220 + 12 * i, gpe_bytes);
        power->gpe[i] = gpe ? (uint16_t)(gpe + gpe_bytes / 2) : 0;
        power->gpe_bytes[i] = (uint8_t)(gpe_bytes / 2);
    }
    power->timer = ports(t, 76, 208, (unsigned)get(t, 91, 1));
    power->smi_acpi_on = (uint8_t)get(t, 52, 1);
    uint64_t smi_port = get(t, 48, 4);
    power->smi_port = power->smi_acpi_on && smi_port < PORTS ? (uint16_t)smi_port : 0;
    uint64_t sci = get(t, 46, 2);
    power->sci = sci < 16 && !(LINES_TAKEN >> sci & 1) ? (uint8_t)sci : 0;
    power->button = !(flags & FLAG_BUTTON_IS_A_DEVICE) && power->status[0] && power->sci;
}

uint64_t acpi_power_dsdt(const void *fadt, size_t size) {
    struct bytes t = {fadt, size};
    uint64_t at = get(t, 140, 8);
    return at ? at : get(t, 40, 4);
}

// Reads the integer at *at and moves *at behind it. False when there is none, or it is too large
// for a sleep type.
static bool sleep_type(struct bytes t, size_t *at, uint8_t *type) {
    if (*at >= t.n) {
        return false;
    }
    uint8_t op = t.p[*at];
    unsigned length = op == BYTE_PREFIX ? 1 : op == WORD_PREFIX ? 2 : op == DWORD_PREFIX ? 4 : 0;
    if (*at + 1 + length > t.n || (!length && op != ZERO_OP && op != ONE_OP)) {
        return false;
    }
    uint64_t v = length ? get(t, *at + 1, length) : op;
    *at += 1 + length;
    *type = (uint8_t)v;
    return v <= SLEEP_TYPE_MAX;
}

// Reads the package that begins at `at`, behind the name.
static bool package(struct bytes t, size_t at, uint8_t type[2]) {
    if (at + 2 > t.n || t.p[at] != PACKAGE_OP) {
        return false;
    }
    at += 2u + (t.p[at + 1] >> 6); // 20.2.4: the two high bits count the bytes that follow
    if (at >= t.n || !t.p[at]) {
        return false;
    }
    unsigned elements = t.p[at++];
    type[1] = 0;
    return sleep_type(t, &at, &type[0]) && (elements < 2 || sleep_type(t, &at, &type[1]));
}

bool acpi_power_s5(struct acpi_power *power, const void *table, size_t size) {
    struct bytes t = {table, size};
    for (size_t at = 1; at + 4 <= t.n; at++) {
        const uint8_t *s = t.p + at;
        if (s[0] != '_' || s[1] != 'S' || s[2] != '5' || s[3] != '_') {
            continue;
        }
        bool named = s[-1] == NAME_OP || (at > 1 && s[-1] == ROOT_CHAR && s[-2] == NAME_OP);
        uint8_t type[2];
        if (named && package(t, at + 4, type)) {
            power->sleep_type[0] = type[0];
            power->sleep_type[1] = type[1];
            power->can_sleep = true;
            return true;
        }
    }
    return false;
}
