// DMA memory: blocks that stay until a soft reset frees them all.
#include "bytes.h"
#include "cpu/spinlock.h"
#include "mm/phys.h"

struct block {
    uint64_t frame;
    size_t n;
    struct block *next;
};

// Guarded by the lock.
static struct spinlock lock;
static struct block *blocks;
static struct block *spare; // unused nodes

static bool have_spare(void) {
    if (!spare) {
        struct block *page = (struct block *)phys_alloc();
        for (size_t i = 0; page && i < PAGE_SIZE / sizeof(struct block); i++) {
            page[i].next = spare;
            spare = &page[i];
        }
    }
    return spare;
}

// Moves the first node of `from` to `to`.
static void move(struct block **from, struct block **to) {
    struct block *b = *from;
    *from = b->next;
    b->next = *to;
    *to = b;
}

static uint64_t take(size_t n, size_t align) {
    uint64_t frame = have_spare() ? phys_alloc_contiguous(n, align, 0, 4 * GiB) : 0;
    if (frame) {
        spare->frame = frame;
        spare->n = n;
        move(&spare, &blocks);
    }
    return frame;
}

void *dma_alloc(size_t size, size_t align) {
    size_t n = ALIGN_UP(size ? size : 1, PAGE_SIZE) / PAGE_SIZE;
    uint64_t flags = spin_lock_irq(&lock);
    uint64_t frame = take(n, align);
    spin_unlock_irq(&lock, flags);
    if (frame) {
        kmemzero((void *)frame, n * PAGE_SIZE);
    }
    return (void *)frame;
}

void dma_free_all(void) {
    uint64_t flags = spin_lock_irq(&lock);
    while (blocks) {
        phys_free(blocks->frame, blocks->n);
        move(&blocks, &spare);
    }
    spin_unlock_irq(&lock, flags);
}
