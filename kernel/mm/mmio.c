// Mappings of device registers.
#include "boot/bootinfo.h"
#include "errors.h"
#include "mm/paging.h"
#include "mm/vm.h"

int mmio_map(uint64_t address, uint64_t size) {
    if (!size || address + size < address || address + size > VM_BASE) {
        return -L_EINVAL;
    }
    // RAM's caching must not change behind the back of those who use it.
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
