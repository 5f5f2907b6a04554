// Virtual memory for mmap: areas between VM_BASE and VM_END. Each has its frames from the start, so
// running out of memory is an error of mmap and never a fault later. An unmapped page lies between
// areas, so running over an end faults.
//
// One lock for all. Clearing frames is slow, so waiters yield; interrupts stay enabled.
#include "mm/vm.h"

#include "bytes.h"
#include "cpu/flush.h"
#include "cpu/sched.h"
#include "errors.h"
#include "mm/phys.h"

#define LARGE LARGE_PAGE_SIZE

struct area {
    uint64_t start, size;
    unsigned prot;
    struct area *next;
};

static struct area *areas;     // by address
static struct area *free_list; // unused nodes
static uint64_t mapped;
static bool busy; // the lock of this file

static void lock(void) {
    while (__atomic_test_and_set(&busy, __ATOMIC_ACQUIRE)) {
        sched_give_way();
    }
}

static void unlock(void) {
    __atomic_clear(&busy, __ATOMIC_RELEASE);
}

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

// Unmaps [va, end) and frees its frames. -ENOMEM, with nothing changed, when a large page has to be
// split and there is no memory for a table.
static int release(uint64_t va, uint64_t end) {
    if (va < end) {
        int err = paging_protect(va, end - va, 0);
        if (err) {
            return err;
        }
        flush_others(); // before the frames can get another owner
    }
    while (va < end) {
        uint64_t page_size, pa = paging_forget(va, &page_size);
        phys_free(pa, page_size / PAGE_SIZE);
        mapped -= page_size;
        va += page_size;
    }
    return 0;
}

// Clears frames without writing to pages that are zero already. A hypervisor's host gives a page
// memory at the first write, and much of what is mapped is never used: ggml's scheduler takes 42
// MiB for the worst graph. Under a hypervisor, frames that nobody used since power-on are zero.
static void clear(uint64_t frame, uint64_t size) {
    for (uint64_t *page = (uint64_t *)frame; (uint64_t)page < frame + size;
        page += PAGE_SIZE / sizeof(*page)) {
        const volatile uint64_t *w = page, *end = page + PAGE_SIZE / sizeof(*page);
        while (w < end && !(w[0] | w[1] | w[2] | w[3] | w[4] | w[5] | w[6] | w[7])) {
            w += 8;
        }
        if (w < end) {
            kmemzero(page, PAGE_SIZE);
        }
    }
}

// Maps frames at [va, va + size), 2 MiB at a time where possible. Undoes all on failure.
static int back(uint64_t va, uint64_t size, unsigned prot) {
    uint64_t at = va, end = va + size;
    while (at < end) {
        uint64_t step = PAGE_SIZE, pa = 0;
        if (!(at & (LARGE - 1)) && end - at >= LARGE) {
            pa = phys_alloc_large();
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
            return -L_ENOMEM;
        }
        clear(pa, step); // through the identity map: `prot` may forbid writing
        mapped += step;
        at += step;
    }
    return 0;
}

static int add_area(uint64_t size, unsigned prot, uint64_t *out) {
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
        return -L_ENOMEM;
    }
    struct area *a = new_node();
    if (!a || back(va, size, prot)) {
        if (a) {
            free_node(a);
        }
        return -L_ENOMEM;
    }
    *a = (struct area){va, size, prot, *link};
    *link = a;
    *out = va;
    return 0;
}

int vm_map(uint64_t size, unsigned prot, uint64_t *out) {
    if (!size || size > VM_END - VM_BASE) {
        return size ? -L_ENOMEM : -L_EINVAL;
    }
    lock();
    int err = add_area(size, prot, out);
    unlock();
    return err;
}

static int remove_areas(uint64_t va, uint64_t end) {
    for (struct area **link = &areas; *link;) {
        struct area *a = *link;
        uint64_t a_end = a->start + a->size;
        if (a_end <= va || a->start >= end) {
            link = &a->next;
            continue;
        }
        uint64_t from = va > a->start ? va : a->start, to = end < a_end ? end : a_end;
        struct area *tail = NULL;
        if (from > a->start && to < a_end && !(tail = new_node())) {
            return -L_ENOMEM;
        }
        int err = release(from, to);
        if (err) {
            if (tail) {
                free_node(tail);
            }
            return err;
        }
        if (tail) { // a hole in the middle: one area becomes two
            *tail = (struct area){to, a_end - to, a->prot, a->next};
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
    }
    return 0;
}

int vm_unmap(uint64_t va, uint64_t size) {
    if ((va & PAGE_MASK) || !size) {
        return -L_EINVAL;
    }
    lock();
    int err = remove_areas(va, va + ALIGN_UP(size, PAGE_SIZE));
    unlock();
    return err;
}

int vm_protect(uint64_t va, uint64_t size, unsigned prot) {
    if (va & PAGE_MASK) {
        return -L_EINVAL;
    }
    lock();
    int err = paging_protect(va, ALIGN_UP(size, PAGE_SIZE), prot);
    if (!err) {
        flush_others();
    }
    unlock();
    return err;
}

uint64_t memory_mapped(void) {
    return mapped;
}
