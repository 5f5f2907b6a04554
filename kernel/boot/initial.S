// The page tables and the stack that the machine starts on. boot/multiboot_entry.S fills the
// tables; application processors start on them too.
    .section .bss
    .balign 4096
    .globl boot_pml4, boot_pdpt, boot_pd
boot_pml4:
    .skip 4096
boot_pdpt:
    .skip 4096
boot_pd:
    .skip 4096 * 4
// Later the main thread's stack in system calls.
    .globl boot_stack_top
    .skip 65536
boot_stack_top:

    .section .note.GNU-stack, "", @progbits
