// PVH entry: the ELF note that names it, and the few instructions before boot/multiboot_entry.S.
// A hypervisor enters as a Multiboot loader does, in 32-bit protected mode without paging, but
// with struct hvm_start_info in %ebx and nothing in %eax.
// Source: Xen's public/elfnote.h, XEN_ELFNOTE_PHYS32_ENTRY; docs/misc/pvh.pandoc.
#include "boot/pvh.h"

    .section .note.pvh, "a", @note
    .balign 4
    .long 2f - 1f               // of the name
    .long 4                     // of the value
    .long 18                    // XEN_ELFNOTE_PHYS32_ENTRY
1:  .asciz "Xen"
2:  .balign 4
    .long pvh_entry

    .text
    .code32
    .globl pvh_entry
pvh_entry:
    movl $PVH_MAGIC, %eax
    jmp boot_entry

    .section .note.GNU-stack, "", @progbits
