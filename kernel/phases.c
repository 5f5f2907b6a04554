// Boot phases: what booting spent its time on, for `cllm: booted` and _x86.boot_phases().
#include "cpu/io.h"
#include "include/machine.h"

struct boot_phase boot_phases[BOOT_MAX_PHASES];
size_t n_boot_phases;
uint64_t boot_began;

void boot_phases_restart(void) {
    n_boot_phases = 0;
    boot_began = rdtsc();
}

void boot_phase(const char *name) {
    if (n_boot_phases < BOOT_MAX_PHASES) { // a list that is full stays as it is
        boot_phases[n_boot_phases++] = (struct boot_phase){name, rdtsc()};
    }
}
