// Mappings of device registers and device memory.
#include "boot/bootinfo.h"
#include "errors.h"
#include "mm/paging.h"
#include "mm/vm.h"

static int map(uint64_t address, uint64_t size, unsigned caching) {
    if (!size || address + size < address || address + size > VM_BASE) {
        return -L_EINVAL;
    }
    // A second mapping of RAM must not differ in caching (SDM vol. 3A, 13.12.4).
    for (size_t i = 0; i < bootinfo.n_ram; i++) {
        if (address < bootinfo.ram[i].start + bootinfo.ram[i].size
            && bootinfo.ram[i].start < address + size) {
            return -L_EEXIST;
        }
    }
    uint64_t start = ALIGN_DOWN(address, PAGE_SIZE);
    return paging_map(start, start, ALIGN_UP(address + size, PAGE_SIZE) - start,
        PROT_R | PROT_W | caching);
}

int mmio_map(uint64_t address, uint64_t size) {
    return map(address, size, PROT_UNCACHED);
}

// Write-back is the page table's side only: an MTRR that says "uncached" for the range wins (SDM
// vol. 3A, 13.5.2.2). Firmware says so for PCI's addresses, but QEMU's TCG has no caches, and KVM
// takes a guest's RAM-backed regions as write-back unless a real device is assigned to it.
int mmio_map_cached(uint64_t address, uint64_t size) {
    return map(address, size, 0);
}
