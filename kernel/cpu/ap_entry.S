// An application processor's way from real mode to ap_start() in long mode. The trampoline is copied
// to a page below 1 MiB, where a start-up interrupt begins (SDM vol. 3A, 11.4.4); it goes through
// the page tables of boot/multiboot_entry.S, which map low memory executable, to the kernel's.

    .section .rodata
    .balign 16
    .globl ap_trampoline, ap_trampoline_end
    .code16
ap_trampoline:
    cli
    cld
    movw %cs, %ax               // CS = page << 8, IP = 0
    movw %ax, %ds
    lgdtl gdt_pointer - ap_trampoline
    movl $0x11, %eax            // CR0: PE, ET; caches on (CD and NW are set after INIT)
    movl %eax, %cr0
    ljmpl *(far_pointer - ap_trampoline)
    .balign 4
far_pointer:
    .long ap_entry32
    .word 0x08
    .balign 4
gdt_pointer:
    .word 4 * 8 - 1
    .long ap_gdt
ap_trampoline_end:
    .balign 8
ap_gdt:
    .quad 0
    .quad 0x00CF9A000000FFFF    // 0x08: 32-bit code
    .quad 0x00CF92000000FFFF    // 0x10: data
    .quad 0x00AF9A000000FFFF    // 0x18: 64-bit code

    .text
    .code32
ap_entry32:
    movl $0x10, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    movl %cr4, %eax
    orl $(1 << 5), %eax         // PAE
    movl %eax, %cr4
    movl $boot_pml4, %eax
    movl %eax, %cr3
    movl $0xC0000080, %ecx      // EFER: SCE, LME, NXE, as boot_entry does
    rdmsr
    orl $((1 << 0) | (1 << 8) | (1 << 11)), %eax
    wrmsr
    movl %cr0, %eax
    orl $((1 << 31) | (1 << 16)), %eax
    movl %eax, %cr0
    ljmp $0x18, $ap_entry64

    .code64
ap_entry64:
    movq ap_cr3, %rax
    movq %rax, %cr3
    movq ap_stack, %rsp
    movq ap_cpu, %rdi
    xorl %eax, %eax
    movl %eax, %fs
    movl %eax, %gs
    xorl %ebp, %ebp
    call ap_start
1:  hlt
    jmp 1b

    .section .note.GNU-stack, "", @progbits
