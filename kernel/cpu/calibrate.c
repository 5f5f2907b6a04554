// The time-stamp counter's frequency, as stated or measured.
//
// Sources, the surest and quickest first: CPUID's leaves; a hypervisor's leaf; KVM's clock; then
// counters of a known frequency that can be read at any time: HPET, ACPI's timer, channel 0 of the
// 8254 (channel 2 needs port 61h, which microvm lacks), the local APIC's timer where the hypervisor
// is one that runs it at 1 GHz; at last the seconds of the CMOS clock.
// Sources: SDM vol. 2A (CPUID), vol. 3A 12.5.4 (APIC timer); IA-PC HPET 1.0a, 2.3; ACPI 6.5, 4.8.3.3
// (PM timer); Intel 8254 datasheet; MC146818A datasheet.
#include "cpu/calibrate.h"

#include "boot/acpi.h"
#include "boot/acpi_power.h"
#include "bytes.h"
#include "cmdline.h"
#include "cpu/apic.h"
#include "cpu/cpu.h"
#include "cpu/frequency.h"
#include "cpu/io.h"

#define PIT_HZ 1193182u
#define PM_TIMER_HZ 3579545u
#define HYPERVISOR_APIC_HZ (1000000000u / 16) // QEMU's APIC_BUS_CYCLE_NS, divided by 16

#define ROUNDS 6   // measure over 0.5, 1, 2 ... ms
#define AGREE 5000 // until two results are less than a 5000th apart
#define TRIES 8
#define SAMPLES 4      // readings, of which the quickest counts
#define PATIENCE 20000 // readings until a counter must have moved

// A counter that runs up or down at a known frequency.
struct counter {
    const char *name;
    uint64_t hz; // 0: not on this machine
    uint32_t mask;
    uint32_t (*read)(void);
};

static volatile uint32_t *hpet;
static uint16_t pm_timer;

static uint32_t read_hpet(void) {
    return hpet[0xF0 / 4];
}

static uint32_t read_pm_timer(void) {
    return inl(pm_timer);
}

// The latch command keeps the count until it is read (8254, "Counter Latch Command").
static uint32_t read_pit(void) {
    outb(0x43, 0x00);
    uint32_t low = inb(0x40);
    return ~(low | (uint32_t)inb(0x40) << 8); // it counts down
}

static uint32_t read_apic(void) {
    return UINT32_MAX - apic_timer_left();
}

// 2.3.4: bits 63:32 of the capabilities are the period in femtoseconds, at most 100 ns.
static uint64_t start_hpet(void) {
    uint64_t address = acpi_hpet();
    if (!address) {
        return 0;
    }
    hpet = (volatile uint32_t *)address;
    uint32_t period = hpet[1];
    if (!period || period > 100000000) {
        return 0;
    }
    hpet[0x10 / 4] |= 1; // ENABLE_CNF
    return 1000000000000000ul / period;
}

static uint64_t start_pm_timer(void) {
    struct acpi_power power;
    acpi_power(&power);
    pm_timer = power.timer;
    return pm_timer ? PM_TIMER_HZ : 0;
}

static void stop_pit(void) {
    outb(0x43, 0x30); // mode 0: it ends once
    outb(0x40, 1);
    outb(0x40, 0);
}

static uint64_t start_pit(void) {
    outb(0x43, 0x34); // channel 0, low then high byte, mode 2
    outb(0x40, 0);    // from 65536 on
    outb(0x40, 0);
    return PIT_HZ;
}

// CPUID 40000000H: the hypervisor's name, and in EAX its last leaf.
static uint32_t hypervisor(char name[13]) {
    uint32_t r[4] = {0};
    if (cpu_is_virtual()) {
        cpuid(0x40000000, 0, r);
    }
    kmemcpy(name, &r[1], 12);
    name[12] = 0;
    return r[0];
}

static uint64_t start_apic(void) {
    char name[13];
    hypervisor(name);
    return kstreq(name, "KVMKVMKVM") || kstreq(name, "TCGTCGTCGTCG") ? HYPERVISOR_APIC_HZ : 0;
}

static bool moves(const struct counter *c) {
    uint32_t first = c->read() & c->mask;
    for (int i = 0; i < PATIENCE; i++) {
        if ((c->read() & c->mask) != first) {
            return true;
        }
    }
    return false;
}

struct sample {
    uint64_t tsc;
    uint32_t counter, apic;
};

// Interrupts are off, but a hypervisor may deschedule the processor between two readings: the
// quickest of several tries is the truest.
static struct sample take(const struct counter *c) {
    struct sample best = {0};
    uint64_t least = UINT64_MAX;
    for (int i = 0; i < SAMPLES; i++) {
        uint64_t before = rdtsc();
        uint32_t counter = c->read();
        uint32_t apic = read_apic();
        uint64_t after = rdtsc();
        if (after - before < least) {
            least = after - before;
            best = (struct sample){before, counter, apic};
        }
    }
    return best;
}

// Measures over longer and longer times from one beginning, so that the error of a reading, and
// the counter's resolution, matter less and less.
// False when no two results agree: the processor was away for longer than the counter takes to
// begin anew.
static bool measure(const struct counter *c, struct frequencies *found) {
    apic_timer_start(UINT32_MAX);
    struct sample first = take(c), now;
    uint32_t ticks = (uint32_t)(c->hz / 2000);
    uint64_t last = 0;
    bool agreed = false;
    for (int i = 0; i < ROUNDS && !agreed; i++, ticks *= 2) {
        while (((c->read() - first.counter) & c->mask) < ticks) {
        }
        now = take(c);
        uint64_t counted = (now.counter - first.counter) & c->mask;
        found->tsc_hz = (now.tsc - first.tsc) * c->hz / counted;
        found->apic_hz = (now.apic - first.apic) * c->hz / counted;
        uint64_t apart = found->tsc_hz > last ? found->tsc_hz - last : last - found->tsc_hz;
        agreed = apart < last / AGREE;
        last = found->tsc_hz;
    }
    apic_timer_start(0);
    found->clock = c->name;
    return agreed;
}

// The APIC timer's, once the TSC's is known.
static void measure_apic(struct frequencies *found) {
    apic_timer_start(UINT32_MAX);
    uint64_t start = rdtsc(), now;
    uint32_t first = read_apic();
    while ((now = rdtsc()) - start < found->tsc_hz / 1000) {
    }
    found->apic_hz = (uint64_t)(read_apic() - first) * found->tsc_hz / (now - start);
    apic_timer_start(0);
}

static uint64_t stated_by_processor(void) {
    uint32_t most[4], leaf15[4] = {0}, leaf16[4] = {0};
    cpuid(0, 0, most);
    if (most[0] >= 0x15) {
        cpuid(0x15, 0, leaf15);
    }
    if (most[0] >= 0x16) {
        cpuid(0x16, 0, leaf16);
    }
    return frequency_of_leaves(leaf15, leaf16);
}

// CPUID 40000010H, which VMware began: EAX is the TSC's frequency in kHz.
static uint64_t stated_by_hypervisor(void) {
    char name[13];
    uint32_t r[4] = {0};
    uint32_t last = hypervisor(name);
    if (last >= 0x40000010 && last < 0x40010000) {
        cpuid(0x40000010, 0, r);
    }
    return r[0] * 1000ul;
}

#define MSR_KVM_SYSTEM_TIME_NEW 0x4B564D01
#define KVM_FEATURE_CLOCKSOURCE2 (1u << 3)

// KVM writes the structure when it is told the address, and at times of its own until it is told
// to stop.
static uint64_t stated_by_kvm(void) {
    static volatile struct {
        uint32_t version, padding;
        uint64_t tsc, time;
        uint32_t multiplier;
        int8_t shift;
        uint8_t flags, reserved[2];
    } clock __attribute__((aligned(64)));
    char name[13];
    uint32_t r[4];
    uint32_t last = hypervisor(name);
    if (!kstreq(name, "KVMKVMKVM") || last < 0x40000001) {
        return 0;
    }
    cpuid(0x40000001, 0, r);
    if (!(r[0] & KVM_FEATURE_CLOCKSOURCE2)) {
        return 0;
    }
    wrmsr(MSR_KVM_SYSTEM_TIME_NEW, (uint64_t)&clock | 1);
    uint64_t hz = frequency_of_kvmclock(clock.multiplier, clock.shift);
    wrmsr(MSR_KVM_SYSTEM_TIME_NEW, 0);
    return hz;
}

static uint8_t cmos_second(void) {
    outb(0x70, 0x00);
    return inb(0x71);
}

// The TSC when the CMOS clock's second changes; 0 when it does not in some 4 seconds, counted at
// the highest frequency that a counter may have.
static uint64_t next_second(void) {
    uint8_t now = cmos_second();
    for (uint64_t start = rdtsc(); rdtsc() - start < 20000000000ul;) {
        if (cmos_second() != now) {
            return rdtsc();
        }
    }
    return 0;
}

static uint64_t of_cmos_clock(void) {
    uint64_t first = next_second(), second = first ? next_second() : 0;
    return second ? second - first : 0;
}

// Whether the source `name` may be taken: not before the one that the command line names.
static bool allowed(const char *name, bool *found) {
    const char *wanted = cmdline_next("clock=", NULL);
    *found |= !wanted || cmdline_is(wanted, name);
    return *found;
}

static bool take_statement(struct frequencies *to, bool *reached) {
    static const struct {
        const char *name;
        uint64_t (*hz)(void);
    } stated[] = {
        {"cpuid", stated_by_processor},
        {"hypervisor", stated_by_hypervisor},
        {"kvmclock", stated_by_kvm},
    };
    for (size_t i = 0; i < sizeof(stated) / sizeof(stated[0]); i++) {
        if (allowed(stated[i].name, reached) && (to->tsc_hz = stated[i].hz())) {
            to->clock = stated[i].name;
            measure_apic(to);
            return true;
        }
    }
    return false;
}

static bool take_counter(struct frequencies *to, bool *reached) {
    static const struct {
        struct counter counter;
        uint64_t (*start)(void);
    } counters[] = {
        {{"hpet", 0, UINT32_MAX, read_hpet}, start_hpet},
        {{"acpi", 0, 0xFFFFFF, read_pm_timer}, start_pm_timer},
        {{"8254", 0, 0xFFFF, read_pit}, start_pit},
        {{"apic", 0, UINT32_MAX, read_apic}, start_apic},
    };
    for (size_t i = 0; i < sizeof(counters) / sizeof(counters[0]); i++) {
        struct counter c;
        kmemcpy(&c, &counters[i].counter, sizeof(c));
        if (!allowed(c.name, reached) || !(c.hz = counters[i].start())) {
            continue;
        }
        apic_timer_start(UINT32_MAX); // its counter stands still else
        if (moves(&c)) {
            for (int tries = 0; tries < TRIES && !measure(&c, to); tries++) {
            }
            if (c.read == read_pit) {
                stop_pit();
            }
            return true;
        }
    }
    apic_timer_start(0);
    return false;
}

void calibrate(struct frequencies *found) {
    bool reached = false;
    if (take_statement(found, &reached) || take_counter(found, &reached)) {
        return;
    }
    found->clock = "cmos";
    found->tsc_hz = of_cmos_clock();
    if (!found->tsc_hz) {
        found->clock = "nothing";
        found->tsc_hz = 1000000000;
    }
    measure_apic(found);
}
