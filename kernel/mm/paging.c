// Page tables: an identity map of RAM and device registers, the image with its permissions, and the
// mappings that vm.c asks for, with 4 KiB, 2 MiB or 1 GiB pages as alignment allows.
// Source: SDM vol. 3A, 5.5 "4-Level Paging".
#include "mm/paging.h"

#include "boot/bootinfo.h"
#include "bytes.h"
#include "cpu/io.h"
#include "cpu/spinlock.h"
#include "errors.h"
#include "mm/phys.h"

#define P_PRESENT (1ul << 0)
#define P_WRITE (1ul << 1)
#define P_WRITE_THROUGH (1ul << 3)
#define P_CACHE_DISABLE (1ul << 4)
#define P_LARGE (1ul << 7)
#define P_NX (1ul << 63)
#define P_ADDR 0x000FFFFFFFFFF000ul

extern char __image_start[], __text_start[], __text_end[], __rodata_end[], __bss_end[];

static struct spinlock lock;
static uint64_t *pml4;
static bool have_1g;

static uint64_t entry_flags(unsigned prot) {
    return (prot & (PROT_R | PROT_W | PROT_X) ? P_PRESENT : 0) | (prot & PROT_W ? P_WRITE : 0)
        | (prot & PROT_X ? 0 : P_NX)
        | (prot & PROT_UNCACHED ? P_CACHE_DISABLE | P_WRITE_THROUGH : 0)
        | (prot & PROT_COMBINING ? P_WRITE_THROUGH : 0); // PAT entry 1, see cpu/tables.c
}

static uint64_t *new_table(void) {
    uint64_t frame = phys_alloc();
    if (frame) {
        kmemzero((void *)frame, PAGE_SIZE);
    }
    return (uint64_t *)frame;
}

static void flush(uint64_t va) {
    __asm__ volatile("invlpg (%0)" ::"r"(va) : "memory");
}

// The entry that maps `va` at `level` (1 = 4 KiB, 2 = 2 MiB, 3 = 1 GiB). Makes the tables above it
// and splits larger pages on the way. NULL when memory for a table is missing.
static uint64_t *walk(uint64_t va, int level) {
    uint64_t *table = pml4;
    for (int l = 4; l > level; l--) {
        uint64_t *e = &table[va >> (12 + 9 * (l - 1)) & 511];
        if (!*e) {
            uint64_t *t = new_table();
            if (!t) {
                return NULL;
            }
            *e = (uint64_t)t | P_PRESENT | P_WRITE;
        } else if (*e & P_LARGE) {
            uint64_t *t = new_table();
            if (!t) {
                return NULL;
            }
            uint64_t step = 1ul << (12 + 9 * (l - 2));
            uint64_t base = *e & P_ADDR & ~((step << 9) - 1);
            uint64_t flags = (*e & ~P_ADDR & ~P_LARGE) | (l > 2 ? P_LARGE : 0);
            for (uint64_t i = 0; i < 512; i++) {
                t[i] = (base + i * step) | flags;
            }
            *e = (uint64_t)t | P_PRESENT | P_WRITE;
            flush(va);
        }
        table = (uint64_t *)(*e & P_ADDR);
    }
    return &table[va >> (12 + 9 * (level - 1)) & 511];
}

// The leaf entry of `va` as it is, and its level; NULL when an upper table is missing.
static uint64_t *find(uint64_t va, int *level) {
    uint64_t *table = pml4;
    for (int l = 4;; l--) {
        uint64_t *e = &table[va >> (12 + 9 * (l - 1)) & 511];
        if (l == 1 || (*e & P_LARGE)) {
            *level = l;
            return e;
        }
        if (!*e) {
            *level = l;
            return NULL;
        }
        table = (uint64_t *)(*e & P_ADDR);
    }
}

// A large page can lie only where there is no table of smaller pages.
static bool can_be_large(uint64_t va, int level) {
    int found;
    find(va, &found);
    return found >= level;
}

static int map(uint64_t va, uint64_t pa, uint64_t size, unsigned prot) {
    uint64_t flags = entry_flags(prot);
    while (size) {
        int level = 1;
        for (int l = have_1g ? 3 : 2; l > 1; l--) {
            uint64_t s = 1ul << (12 + 9 * (l - 1));
            if (!((va | pa) & (s - 1)) && size >= s && can_be_large(va, l)) {
                level = l;
                break;
            }
        }
        uint64_t *e = walk(va, level);
        if (!e) {
            return -L_ENOMEM;
        }
        *e = pa | flags | (level > 1 ? P_LARGE : 0);
        flush(va);
        uint64_t step = 1ul << (12 + 9 * (level - 1));
        va += step;
        pa += step;
        size -= step < size ? step : size;
    }
    return 0;
}

int paging_map(uint64_t va, uint64_t pa, uint64_t size, unsigned prot) {
    uint64_t irq = spin_lock_irq(&lock);
    int err = map(va, pa, size, prot);
    spin_unlock_irq(&lock, irq);
    return err;
}

// Splits a large page so that `va` starts a page. False without memory for a table.
static bool split_at(uint64_t va) {
    int level;
    uint64_t *e = find(va, &level);
    return !e || level == 1 || !(va & ((1ul << (12 + 9 * (level - 1))) - 1)) || walk(va, 1);
}

static int protect(uint64_t va, uint64_t end, unsigned prot) {
    if (!split_at(va) || !split_at(end)) {
        return -L_ENOMEM; // nothing has changed
    }
    while (va < end) {
        int level;
        uint64_t *e = find(va, &level);
        if (!e || !(*e & P_ADDR)) {
            return -L_ENOMEM; // as Linux does for an unmapped range
        }
        *e = (*e & P_ADDR) | entry_flags(prot) | (level > 1 ? P_LARGE : 0);
        flush(va);
        va += 1ul << (12 + 9 * (level - 1));
    }
    return 0;
}

int paging_protect(uint64_t va, uint64_t size, unsigned prot) {
    uint64_t irq = spin_lock_irq(&lock);
    int err = protect(va, va + size, prot);
    spin_unlock_irq(&lock, irq);
    return err;
}

uint64_t paging_forget(uint64_t va, uint64_t *page_size) {
    uint64_t irq = spin_lock_irq(&lock);
    uint64_t pa = paging_lookup(va, page_size);
    if (pa) {
        int level;
        *find(va, &level) = 0;
    }
    spin_unlock_irq(&lock, irq);
    return pa;
}

// Without a lock, which is safe because tables are never freed.
uint64_t paging_lookup(uint64_t va, uint64_t *page_size) {
    int level;
    uint64_t *e = pml4 ? find(va, &level) : NULL;
    if (!e || !(*e & P_ADDR)) {
        return 0;
    }
    *page_size = 1ul << (12 + 9 * (level - 1));
    return (*e & P_ADDR & ~(*page_size - 1)) | (va & (*page_size - 1));
}

bool memory_readable(uint64_t at, size_t n) {
    uint64_t page;
    // find() ignores the bits above 47: a higher address would pass for another one.
    if (at < PAGE_SIZE || at + n < at || at + n > 1ul << 47) {
        return false;
    }
    for (uint64_t a = at; a < at + n; a = ALIGN_DOWN(a, PAGE_SIZE) + PAGE_SIZE) {
        if (!paging_lookup(a, &page)) {
            return false;
        }
    }
    return true;
}

size_t memory_physical(const void *at, size_t n, uint64_t *address) {
    uint64_t va = (uint64_t)at, page, found = 0;
    if (!n || va + n < va || va + n > 1ul << 47 || !(*address = paging_lookup(va, &page))) {
        return 0;
    }
    for (;;) {
        found += page - (va & (page - 1));
        va = (uint64_t)at + found;
        if (found >= n || paging_lookup(va, &page) != *address + found) {
            return found < n ? found : n;
        }
    }
}

static void map_or_die(uint64_t start, uint64_t end, unsigned prot) {
    if (end > start && paging_map(start, start, end - start, prot)) {
        panic("mm: no memory for page tables");
    }
}

void paging_init(void) {
    uint32_t r[4];
    cpuid(0x80000001, 0, r);
    have_1g = r[3] >> 26 & 1;
    pml4 = new_table();
    if (!pml4) {
        panic("mm: no memory for page tables");
    }
    // The first MiB with firmware and screen, and RAM. Page 0 stays out: a null pointer faults.
    map_or_die(PAGE_SIZE, 0xA0000, PROT_R | PROT_W);
    map_or_die(0xA0000, MiB, PROT_R | PROT_W | PROT_UNCACHED);
    for (size_t i = 0; i < bootinfo.n_ram; i++) {
        uint64_t start = ALIGN_UP(bootinfo.ram[i].start, PAGE_SIZE);
        uint64_t end = ALIGN_DOWN(bootinfo.ram[i].start + bootinfo.ram[i].size, PAGE_SIZE);
        map_or_die(start > MiB ? start : MiB, end, PROT_R | PROT_W);
    }
    // A loader does not ask whether the firmware wants the image's place for itself.
    if (!bootinfo_is_ram((uint64_t)__image_start, (uint64_t)(__bss_end - __image_start))) {
        map_or_die((uint64_t)__image_start, (uint64_t)__bss_end, PROT_R | PROT_W);
    }
    const struct boot_framebuffer *f = &bootinfo.framebuffer;
    if (f->address) {
        map_or_die(ALIGN_DOWN(f->address, PAGE_SIZE),
            ALIGN_UP(f->address + (uint64_t)f->pitch * f->height, PAGE_SIZE),
            PROT_R | PROT_W | PROT_COMBINING);
    }
    // Local APIC and its neighbours; other device registers are mapped on demand.
    map_or_die(0xFEC00000, 0xFEF00000, PROT_R | PROT_W | PROT_UNCACHED);
    paging_protect((uint64_t)__image_start, (uint64_t)(__text_start - __image_start), PROT_R);
    paging_protect((uint64_t)__text_start, (uint64_t)(__text_end - __text_start), PROT_R | PROT_X);
    paging_protect((uint64_t)__text_end, (uint64_t)(__rodata_end - __text_end), PROT_R);
    for (size_t i = 0; i < bootinfo.n_modules; i++) {
        if (!bootinfo.modules[i].mapped) {
            paging_protect(ALIGN_DOWN(bootinfo.modules[i].start, PAGE_SIZE),
                ALIGN_UP(bootinfo.modules[i].size, PAGE_SIZE), PROT_R);
        }
    }
    __asm__ volatile("movq %0, %%cr3" ::"r"(pml4) : "memory");
}
