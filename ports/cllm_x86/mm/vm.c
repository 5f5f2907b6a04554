// Virtual memory for mmap: areas between VM_BASE and VM_END, each backed by frames as soon as it is
// made, so that running out of memory is an error of mmap and never a fault later. A free page lies
// between areas, so that running over an end faults.
#include "kernel.h"

#define ENOMEM 12
#define EINVAL 22
#define LARGE (2 * MiB)

struct area {
    uint64_t start, size;
    unsigned prot;
    struct area *next;
};

static struct area *areas;     // by address
static struct area *free_list; // unused nodes
static uint64_t mapped;

static struct area *new_node(void) {
    if (!free_list) {
        struct area *page = (struct area *)phys_alloc();
        if (!page) {
            return NULL;
        }
        for (size_t i = 0; i < PAGE_SIZE / sizeof(struct area); i++) {
            page[i].next = free_list;
            free_list = &page[i];
        }
    }
    struct area *a = free_list;
    free_list = a->next;
    return a;
}

static void free_node(struct area *a) {
    a->next = free_list;
    free_list = a;
}

static void release(uint64_t va, uint64_t end) {
    while (va < end) {
        uint64_t page_size, pa = paging_lookup(va, &page_size);
        uint64_t step = PAGE_SIZE;
        if (pa) {
            if (page_size == LARGE && !(va & (LARGE - 1)) && end - va >= LARGE) {
                step = LARGE;
            }
            paging_unmap(va, step);
            phys_free(pa, step / PAGE_SIZE);
            mapped -= step;
        }
        va += step;
    }
}

// Frames for [va, va + size), 2 MiB at a time where both sides allow. On failure nothing stays.
static int back(uint64_t va, uint64_t size, unsigned prot) {
    uint64_t at = va, end = va + size;
    while (at < end) {
        uint64_t step = PAGE_SIZE, pa = 0;
        if (!(at & (LARGE - 1)) && end - at >= LARGE) {
            pa = phys_alloc_contiguous(LARGE / PAGE_SIZE, LARGE, UINT64_MAX);
            step = pa ? LARGE : PAGE_SIZE;
        }
        if (!pa) {
            pa = phys_alloc();
        }
        if (!pa || paging_map(at, pa, step, prot)) {
            if (pa) {
                phys_free(pa, step / PAGE_SIZE);
            }
            release(va, at);
            return -ENOMEM;
        }
        kmemzero_page((void *)pa, step); // through the identity map: `prot` may forbid writing
        mapped += step;
        at += step;
    }
    return 0;
}

int vm_map(uint64_t size, unsigned prot, uint64_t *out) {
    if (!size || size > VM_END - VM_BASE) {
        return size ? -ENOMEM : -EINVAL;
    }
    size = ALIGN_UP(size, PAGE_SIZE);
    uint64_t align = size >= LARGE ? LARGE : PAGE_SIZE;
    uint64_t va = VM_BASE;
    struct area **link = &areas;
    for (; *link; link = &(*link)->next) {
        if (va + size + PAGE_SIZE <= (*link)->start) {
            break;
        }
        va = ALIGN_UP((*link)->start + (*link)->size + PAGE_SIZE, align);
    }
    if (va + size > VM_END) {
        return -ENOMEM;
    }
    struct area *a = new_node();
    if (!a || back(va, size, prot)) {
        if (a) {
            free_node(a);
        }
        return -ENOMEM;
    }
    *a = (struct area) {va, size, prot, *link};
    *link = a;
    *out = va;
    return 0;
}

int vm_unmap(uint64_t va, uint64_t size) {
    if ((va & PAGE_MASK) || !size) {
        return -EINVAL;
    }
    uint64_t end = va + ALIGN_UP(size, PAGE_SIZE);
    for (struct area **link = &areas; *link;) {
        struct area *a = *link;
        uint64_t a_end = a->start + a->size;
        if (a_end <= va || a->start >= end) {
            link = &a->next;
            continue;
        }
        uint64_t from = va > a->start ? va : a->start, to = end < a_end ? end : a_end;
        if (from > a->start && to < a_end) { // a hole in the middle: one area becomes two
            struct area *tail = new_node();
            if (!tail) {
                return -ENOMEM;
            }
            *tail = (struct area) {to, a_end - to, a->prot, a->next};
            a->next = tail;
            a->size = from - a->start;
        } else if (from > a->start) {
            a->size = from - a->start;
        } else if (to < a_end) {
            a->start = to;
            a->size = a_end - to;
        } else {
            *link = a->next;
            free_node(a);
        }
        release(from, to);
    }
    return 0;
}

int vm_protect(uint64_t va, uint64_t size, unsigned prot) {
    if (va & PAGE_MASK) {
        return -EINVAL;
    }
    return paging_protect(va, ALIGN_UP(size, PAGE_SIZE), prot);
}

uint64_t vm_mapped_bytes(void) {
    return mapped;
}

// --- DMA memory ------------------------------------------------------------------------------

struct dma_block {
    uint64_t frame;
    size_t n;
    struct dma_block *next;
};

static struct dma_block *dma_blocks;

void *dma_alloc(size_t size, size_t align) {
    size_t n = ALIGN_UP(size ? size : 1, PAGE_SIZE) / PAGE_SIZE;
    _Static_assert(sizeof(struct dma_block) <= sizeof(struct area), "nodes are shared");
    struct dma_block *b = (struct dma_block *)new_node();
    if (!b) {
        return NULL;
    }
    b->frame = phys_alloc_contiguous(n, align, 4 * GiB);
    if (!b->frame) {
        free_node((struct area *)b);
        return NULL;
    }
    b->n = n;
    b->next = dma_blocks;
    dma_blocks = b;
    kmemzero_page((void *)b->frame, n * PAGE_SIZE);
    return (void *)b->frame;
}

void dma_free_all(void) {
    while (dma_blocks) {
        struct dma_block *b = dma_blocks;
        dma_blocks = b->next;
        phys_free(b->frame, b->n);
        free_node((struct area *)b);
    }
}
