// Reading above 4 GiB before mm/paging.c has made the kernel's page tables: firmware may put its
// tables there.
// Source: SDM vol. 3A, 5.5 "4-Level Paging".
#include "boot/reach.h"

#include "include/machine.h"

#define PRESENT_WRITE 3u
#define LARGE (1u << 7)
#define LIMIT (512 * GiB) // of boot_pdpt
#define SPARE 4

extern uint64_t boot_pdpt[512]; // boot/initial.S; entries 0 to 3 are in use

static uint64_t spare[SPARE][512] __attribute__((aligned(4096)));
static unsigned used;

bool boot_reach(uint64_t start, uint64_t size) {
    if (!size || start + size < start || start + size > LIMIT) {
        return false;
    }
    for (uint64_t gib = start / GiB; gib <= (start + size - 1) / GiB; gib++) {
        if (boot_pdpt[gib]) {
            continue;
        }
        if (used == SPARE) {
            return false;
        }
        uint64_t *table = spare[used++];
        for (uint64_t i = 0; i < 512; i++) {
            table[i] = (gib * GiB + i * 2 * MiB) | LARGE | PRESENT_WRITE;
        }
        boot_pdpt[gib] = (uint64_t)table | PRESENT_WRITE; // was not present: nothing to flush
    }
    return true;
}
