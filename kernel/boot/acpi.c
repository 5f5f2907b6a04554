// Processors and power from the ACPI tables: RSDP, then RSDT or XSDT, then MADT and FADT. Runs on
// the boot page tables, because firmware keeps the tables in memory that it does not report as
// RAM.
// Source: ACPI Specification 6.5, 5.2.5 (RSDP), 5.2.7 and 5.2.8 (RSDT, XSDT), 5.2.12 (MADT).
#include "boot/acpi.h"

#include "boot/acpi_power.h"
#include "boot/bootinfo.h"
#include "boot/madt.h"
#include "boot/reach.h"
#include "bytes.h"
#include "cmdline.h"

#define MADT_LOCAL_APIC 0
#define LOCAL_APIC_ENABLED 1u

struct rsdp {
    char signature[8]; // "RSD PTR "
    uint8_t checksum;
    char oem[6];
    uint8_t revision;
    uint32_t rsdt;
    uint32_t length; // this and what follows: revision 2 and later
    uint64_t xsdt;
    uint8_t checksum_all, reserved[3];
} __attribute__((packed));

struct table {
    char signature[4];
    uint32_t length;
    uint8_t revision, checksum;
    char oem[6], oem_table[8];
    uint32_t oem_revision, creator, creator_revision;
} __attribute__((packed));

struct madt_local_apic {
    uint8_t type, length, processor, apic_id;
    uint32_t flags;
} __attribute__((packed));

static struct acpi_power power;
static struct boot_ecam ecam;
static struct madt inputs;
static uint64_t hpet;

static bool sums_to_zero(const void *p, size_t n) {
    uint8_t sum = 0;
    for (size_t i = 0; i < n; i++) {
        sum += ((const uint8_t *)p)[i];
    }
    return sum == 0;
}

static bool same(const char *a, const char *b, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (a[i] != b[i]) {
            return false;
        }
    }
    return true;
}

static bool is_rsdp(const struct rsdp *r) {
    return same(r->signature, "RSD PTR ", 8) && sums_to_zero(r, 20);
}

static const struct rsdp *search(uint64_t start, uint64_t end) {
    for (uint64_t at = start; at < end; at += 16) {
        if (is_rsdp((const struct rsdp *)at)) {
            return (const struct rsdp *)at;
        }
    }
    return NULL;
}

// The loader's, else where a BIOS has it (5.2.5.1).
static const struct rsdp *find_rsdp(void) {
    if (bootinfo.rsdp && is_rsdp(bootinfo.rsdp)) {
        return bootinfo.rsdp;
    }
    uint64_t ebda = (uint64_t)*(const uint16_t *)0x40E << 4; // BIOS data area
    const struct rsdp *r = ebda >= 0x80000 && ebda < 0xA0000 ? search(ebda, ebda + KiB) : NULL;
    return r ? r : search(0xE0000, 0x100000);
}

// The table at `at`, NULL unless it can be read, is whole and has this signature.
static const struct table *table_at(uint64_t at, const char *signature) {
    const struct table *t = (const struct table *)at;
    if (!at || !boot_reach(at, sizeof(*t)) || !same(t->signature, signature, 4)
        || t->length < sizeof(*t) || !boot_reach(at, t->length) || !sums_to_zero(t, t->length)) {
        return NULL;
    }
    return t;
}

// The next table with this signature that the root table names, from the offset *at on, 0 for the
// first. NULL after the last one.
static const struct table *next_table(const struct rsdp *r, const char *signature, size_t *at) {
    bool wide = r->revision >= 2 && r->xsdt;
    const struct table *root = table_at(wide ? r->xsdt : r->rsdt, wide ? "XSDT" : "RSDT");
    if (!root) {
        return NULL;
    }
    size_t size = wide ? 8 : 4;
    *at = *at ? *at : sizeof(*root);
    while (*at + size <= root->length) {
        uint64_t address = 0;
        kmemcpy(&address, (const char *)root + *at, size);
        *at += size;
        const struct table *found = table_at(address, signature);
        if (found) {
            return found;
        }
    }
    return NULL;
}

static const struct table *find_table(const struct rsdp *r, const char *signature) {
    size_t at = 0;
    return next_table(r, signature, &at);
}

static void parse_madt(const struct table *madt) {
    const uint8_t *end = (const uint8_t *)madt + madt->length;
    for (const uint8_t *e = (const uint8_t *)(madt + 1) + 8; e + 2 <= end && e[1] >= 2; e += e[1]) {
        const struct madt_local_apic *cpu = (const struct madt_local_apic *)e;
        if (cpu->type == MADT_LOCAL_APIC && e + sizeof(*cpu) <= end
            && (cpu->flags & LOCAL_APIC_ENABLED)) {
            bootinfo.n_cpus_present++;
            if (bootinfo.n_cpus < BOOT_MAX_CPUS) {
                bootinfo.cpus[bootinfo.n_cpus++] = cpu->apic_id;
            }
        }
    }
}

// PCI Firmware Specification 3.2, 4.1.2 (MCFG): configuration space of segment 0, if that is named.
static void parse_mcfg(const struct table *t) {
    for (size_t at = sizeof(*t) + 8; at + 16 <= t->length; at += 16) {
        const uint8_t *e = (const uint8_t *)t + at;
        uint64_t address;
        kmemcpy(&address, e, sizeof(address));
        if (!(e[8] | e[9]) && address && !(address & (MiB - 1)) && e[11] >= e[10]) {
            ecam = (struct boot_ecam){address, e[10], e[11]};
            return;
        }
    }
}

const struct boot_ecam *boot_ecam(void) {
    return ecam.address && !cmdline_has("pci=ports") ? &ecam : NULL;
}

static void parse_power(const struct rsdp *r) {
    const struct table *fadt = find_table(r, "FACP");
    if (!fadt) {
        return;
    }
    acpi_power_fadt(&power, fadt, fadt->length);
    const struct table *dsdt = table_at(acpi_power_dsdt(fadt, fadt->length), "DSDT");
    if (dsdt && acpi_power_s5(&power, dsdt + 1, dsdt->length - sizeof(*dsdt))) {
        return;
    }
    const struct table *ssdt;
    for (size_t at = 0; (ssdt = next_table(r, "SSDT", &at));) {
        if (acpi_power_s5(&power, ssdt + 1, ssdt->length - sizeof(*ssdt))) {
            return;
        }
    }
}

// IA-PC HPET Specification 1.0a, 3.2.4: the base address is a generic one, in memory.
static void parse_hpet(const struct table *t) {
    if (t->length >= 52 && ((const uint8_t *)t)[40] == 0) {
        uint64_t address;
        kmemcpy(&address, (const char *)t + 44, sizeof(address));
        hpet = boot_reach(address, KiB) ? address : 0;
    }
}

void acpi_parse(void) {
    const struct rsdp *r = find_rsdp();
    if (!r) {
        return;
    }
    const struct table *madt = find_table(r, "APIC");
    if (madt) {
        parse_madt(madt);
        madt_parse(&inputs, madt, madt->length);
    }
    const struct table *timer = find_table(r, "HPET");
    if (timer) {
        parse_hpet(timer);
    }
    const struct table *mcfg = find_table(r, "MCFG");
    if (mcfg) {
        parse_mcfg(mcfg);
    }
    parse_power(r);
}

uint64_t acpi_hpet(void) {
    return hpet;
}

void acpi_madt(struct madt *to) {
    kmemcpy(to, &inputs, sizeof(inputs));
}

void acpi_power(struct acpi_power *to) {
    kmemcpy(to, &power, sizeof(power));
}
