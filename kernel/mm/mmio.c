// Mappings of device registers.
#include "boot/bootinfo.h"
#include "errors.h"
#include "mm/paging.h"
#include "mm/vm.h"

int mmio_map(uint64_t address, uint64_t size) {
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
        PROT_R | PROT_W | PROT_UNCACHED);
}
