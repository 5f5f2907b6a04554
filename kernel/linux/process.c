// The way into the application: an initial stack as Linux's execve leaves it. From the image's
// program headers, musl knows where thread-local storage is, and the unwinder where its tables
// are.
// Sources: System V ABI AMD64 3.4.1 "Initial Stack and Register State"; elf(5) auxv.
#include "linux/process.h"

#include "bytes.h"
#include "crash.h"
#include "mm/vm.h"

#define STACK_SIZE (8 * MiB)

#define AT_PHDR 3
#define AT_PHENT 4
#define AT_PHNUM 5
#define AT_PAGESZ 6
#define AT_ENTRY 9
#define AT_UID 11
#define AT_EUID 12
#define AT_GID 13
#define AT_EGID 14
#define AT_SECURE 23
#define AT_RANDOM 25

// The image's own ELF header, which the linker script puts at its start.
struct elf_header {
    uint8_t ident[16];
    uint16_t type, machine;
    uint32_t version;
    uint64_t entry, phoff, shoff;
    uint32_t flags;
    uint16_t ehsize, phentsize, phnum;
};

extern const struct elf_header __image_start;
extern void _start(void); // musl's crt1
extern void enter_stack(void *rsp, void (*entry)(void)) __attribute__((noreturn));

static uint8_t random_bytes[16];

uint64_t process_stack_size(void) {
    return STACK_SIZE;
}

void process_start(void) {
    cpu_random(random_bytes, sizeof(random_bytes));

    uint64_t stack;
    if (vm_map(STACK_SIZE, PROT_R | PROT_W, &stack)) {
        panic("linux: no memory for the %lu MiB stack", STACK_SIZE / MiB);
    }
    uint64_t *top = (uint64_t *)(stack + STACK_SIZE);
    // clang-format off
    const uint64_t words[] = {
        1, (uint64_t)"cllm", 0, // argc, argv
        // Environment: without this ggml's terminate handler forks a debugger for a backtrace.
        (uint64_t)"GGML_NO_BACKTRACE=1", 0,
        AT_PHDR, (uint64_t)&__image_start + __image_start.phoff,
        AT_PHENT, __image_start.phentsize, AT_PHNUM, __image_start.phnum,
        AT_PAGESZ, PAGE_SIZE, AT_ENTRY, (uint64_t)_start, AT_RANDOM, (uint64_t)random_bytes,
        AT_UID, 0, AT_EUID, 0, AT_GID, 0, AT_EGID, 0, AT_SECURE, 0, 0, 0,
    };
    // clang-format on
    size_t n = sizeof(words) / sizeof(words[0]);
    uint64_t *sp = top - ALIGN_UP(n, 2); // 16-byte aligned
    kmemcpy(sp, words, sizeof(words));
    enter_stack(sp, _start);
}
