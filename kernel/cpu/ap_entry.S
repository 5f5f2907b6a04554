// An application processor's way from real mode to ap_main() in long mode. cpu/smp.c copies the
// trampoline to a page below 1 MiB, where a start-up interrupt begins (SDM vol. 3A, 11.4.4). The
// boot page tables, which map low memory executable, lead to the kernel's.

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
    call *ap_main
1:  hlt
    jmp 1b

// Set by cpu/smp.c before it starts a core.
    .section .bss
    .balign 8
    .globl ap_cr3, ap_stack, ap_cpu, ap_main
ap_cr3:
    .skip 8
ap_stack:
    .skip 8
ap_cpu:                         // struct cpu, the argument of ap_main
    .skip 8
ap_main:                        // void (*)(struct cpu *)
    .skip 8

    .section .note.GNU-stack, "", @progbits
