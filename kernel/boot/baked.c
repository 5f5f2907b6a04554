// A model inside the image's own file. host/cllm/bake.py puts it behind .bss, where the loader
// leaves it, and writes this record, which it finds by its mark.
#include "boot/baked.h"

#include "boot/bootinfo.h"

static volatile const struct {
    char mark[16];
    uint64_t start, size; // address, on a page boundary; bytes
} record __attribute__((used, aligned(16))) = {.mark = "cllm baked model"};

void baked_find(void) {
    if (record.size) {
        bootinfo_add_module("model.gguf", record.start, record.size);
    }
}
