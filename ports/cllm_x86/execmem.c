// Memory for machine code that MicroPython emits at run time: pages of their own, writable and
// executable, because nothing else in the image is both. The garbage collector scans them, as
// emitted code may hold the only pointer to an object.
#include <sys/mman.h>

#include "py/gc.h"
#include "py/mpstate.h"
#include "execmem.h"

struct region {
    void *ptr;
    size_t len;
    struct region *next;
};

static struct region *regions;

void cllm_alloc_exec(size_t min_size, void **ptr, size_t *size) {
    // The list's node lies at the start of its region.
    size_t len = ALIGN_UP(min_size + sizeof(struct region), PAGE_SIZE);
    struct region *r =
        mmap(NULL, len, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (r == MAP_FAILED) {
        m_malloc_fail(len);
    }
    *r = (struct region){r + 1, len, regions};
    regions = r;
    *ptr = r->ptr;
    *size = len - sizeof(struct region);
}

void cllm_free_exec(void *ptr, size_t size) {
    for (struct region **link = &regions; *link; link = &(*link)->next) {
        struct region *r = *link;
        if (r->ptr == ptr) {
            *link = r->next;
            munmap(r, r->len);
            return;
        }
    }
}

void execmem_collect(void) {
    for (struct region *r = regions; r; r = r->next) {
        gc_collect_root(r->ptr, (r->len - sizeof(struct region)) / sizeof(void *));
    }
}

void execmem_free_all(void) {
    while (regions) {
        cllm_free_exec(regions->ptr, 0);
    }
}
