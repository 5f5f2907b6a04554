// Physical memory: a bitmap of 4 KiB frames, in which a set bit is a frame in use. A linear search
// starts where the last one succeeded, so it is short in practice, and skips whole words of 64
// frames.
//
// Large pages come from the top and frames from the bottom, so neither breaks up the other's. The
// frames that the loader and the packed image have written to are at the bottom. A hypervisor's
// host has given memory for those already, and small allocations, which are mostly used, get them.
#include "mm/phys.h"

#include "boot/bootinfo.h"
#include "cpu/spinlock.h"
#include "crash.h"

extern char __image_start[], __bss_end[];

static uint64_t *bitmap;
static uint64_t n_frames, n_free, n_ram;
static struct spinlock lock;
static uint64_t hint;       // frame at which the next single allocation starts to look
static uint64_t large_hint; // frame below which the next large one does

static bool in_use(uint64_t f) {
    return bitmap[f / 64] >> (f % 64) & 1;
}

static void mark(uint64_t first, uint64_t n, bool used) {
    for (uint64_t f = first; f < first + n && f < n_frames; f++) {
        if (in_use(f) != used) {
            bitmap[f / 64] ^= 1ul << (f % 64);
            n_free += used ? -1ul : 1ul;
        }
    }
}

static bool meet(uint64_t a, uint64_t a_size, uint64_t b, uint64_t b_size) {
    return a < b + b_size && b < a + a_size;
}

// Whether [at, at + size) is RAM below 4 GiB that holds neither the image nor a module.
static bool is_unused(uint64_t at, uint64_t size) {
    bool is_ram = false;
    for (size_t i = 0; i < bootinfo.n_ram; i++) {
        uint64_t start = bootinfo.ram[i].start, end = start + bootinfo.ram[i].size;
        is_ram |= at >= start && at + size <= end && at + size <= 4 * GiB;
    }
    uint64_t image = (uint64_t)__image_start;
    bool taken = meet(at, size, image, (uint64_t)__bss_end - image);
    for (size_t i = 0; i < bootinfo.n_modules; i++) {
        const struct boot_module *m = &bootinfo.modules[i];
        taken |= !m->mapped && meet(at, size, m->start, m->size);
    }
    return is_ram && !taken;
}

// Where the frame map goes: behind the image, or behind a module. Loaders put modules anywhere.
static uint64_t place_bitmap(uint64_t size) {
    uint64_t at = ALIGN_UP((uint64_t)__bss_end, PAGE_SIZE);
    for (size_t i = 0; !is_unused(at, size) && i < bootinfo.n_modules; i++) {
        at = ALIGN_UP(bootinfo.modules[i].start + bootinfo.modules[i].size, PAGE_SIZE);
    }
    if (is_unused(at, size)) {
        return at;
    }
    panic("mm: no room for the %lu KiB frame map: give the machine more memory", size / KiB);
}

void phys_init(void) {
    uint64_t top = 0;
    for (size_t i = 0; i < bootinfo.n_ram; i++) {
        uint64_t end = bootinfo.ram[i].start + bootinfo.ram[i].size;
        top = end > top ? end : top;
        n_ram += bootinfo.ram[i].size;
    }
    n_frames = top / PAGE_SIZE;
    uint64_t map_bytes = ALIGN_UP(n_frames, 64) / 8;
    uint64_t at = place_bitmap(map_bytes);
    bitmap = (uint64_t *)at;
    for (uint64_t i = 0; i < map_bytes / 8; i++) {
        bitmap[i] = ~0ul;
    }
    for (size_t i = 0; i < bootinfo.n_ram; i++) {
        uint64_t start = ALIGN_UP(bootinfo.ram[i].start, PAGE_SIZE);
        uint64_t end = ALIGN_DOWN(bootinfo.ram[i].start + bootinfo.ram[i].size, PAGE_SIZE);
        if (end > start) {
            mark(start / PAGE_SIZE, (end - start) / PAGE_SIZE, false);
        }
    }
    // The first MiB holds the BIOS data area, firmware tables and the screen.
    mark(0, MiB / PAGE_SIZE, true);
    uint64_t image = (uint64_t)__image_start / PAGE_SIZE;
    mark(image, ALIGN_UP((uint64_t)__bss_end, PAGE_SIZE) / PAGE_SIZE - image, true);
    for (size_t i = 0; i < bootinfo.n_modules; i++) {
        uint64_t first = bootinfo.modules[i].start / PAGE_SIZE;
        uint64_t end = ALIGN_UP(bootinfo.modules[i].start + bootinfo.modules[i].size, PAGE_SIZE);
        mark(first, end / PAGE_SIZE - first, true);
    }
    mark(CRASH_AREA / PAGE_SIZE, CRASH_AREA_SIZE / PAGE_SIZE, true);
    mark(at / PAGE_SIZE, ALIGN_UP(map_bytes, PAGE_SIZE) / PAGE_SIZE, true);
    large_hint = n_frames;
}

uint64_t phys_alloc(void) {
    uint64_t flags = spin_lock_irq(&lock), found = 0;
    uint64_t words = ALIGN_UP(n_frames, 64) / 64;
    for (uint64_t i = 0; i < words && n_free; i++) {
        uint64_t w = (hint / 64 + i) % words;
        if (~bitmap[w]) {
            uint64_t f = w * 64 + (uint64_t)__builtin_ctzl(~bitmap[w]);
            mark(f, 1, true);
            hint = f;
            found = f * PAGE_SIZE;
            break;
        }
    }
    spin_unlock_irq(&lock, flags);
    return found;
}

uint64_t phys_alloc_large(void) {
    const uint64_t n = LARGE_PAGE_SIZE / PAGE_SIZE;
    uint64_t flags = spin_lock_irq(&lock), found = 0;
    for (uint64_t f = ALIGN_DOWN(large_hint, n); f >= n && n <= n_free;) {
        f -= n;
        uint64_t k = 0;
        while (k < n && !bitmap[(f + k) / 64]) {
            k += 64;
        }
        if (k == n) {
            mark(f, n, true);
            found = f * PAGE_SIZE;
            large_hint = f;
            break;
        }
    }
    spin_unlock_irq(&lock, flags);
    return found;
}

uint64_t phys_alloc_contiguous(size_t n, uint64_t align, uint64_t from, uint64_t limit) {
    uint64_t flags = spin_lock_irq(&lock), found = 0;
    uint64_t step = align > PAGE_SIZE ? align / PAGE_SIZE : 1;
    uint64_t end = limit / PAGE_SIZE < n_frames ? limit / PAGE_SIZE : n_frames;
    for (uint64_t f = from / PAGE_SIZE; f + n <= end && n <= n_free;) {
        uint64_t k = 0;
        while (k < n && !in_use(f + k)) {
            // Whole free words count at once.
            k += (f + k) % 64 == 0 && k + 64 <= n && !bitmap[(f + k) / 64] ? 64 : 1;
        }
        if (k == n) {
            mark(f, n, true);
            found = f * PAGE_SIZE;
            break;
        }
        f = (f + k + step) / step * step; // first aligned frame past the one in use
    }
    spin_unlock_irq(&lock, flags);
    return found;
}

void phys_free(uint64_t frame, size_t n) {
    uint64_t flags = spin_lock_irq(&lock);
    mark(frame / PAGE_SIZE, n, false);
    if (frame / PAGE_SIZE < hint) {
        hint = frame / PAGE_SIZE;
    }
    // The next large search starts above the last large page that may be free now.
    uint64_t end = ALIGN_UP(frame / PAGE_SIZE + n, LARGE_PAGE_SIZE / PAGE_SIZE);
    if (end > large_hint) {
        large_hint = end < n_frames ? end : n_frames;
    }
    spin_unlock_irq(&lock, flags);
}

uint64_t memory_total(void) {
    return n_ram;
}

uint64_t memory_free(void) {
    return n_free * PAGE_SIZE;
}
