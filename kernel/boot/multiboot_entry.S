// Multiboot entry: from 32-bit protected mode without paging to kernel_start() in long mode.
//
// The header carries load addresses (flag bit 16, the "a.out kludge"), because loaders that take
// Multiboot 1, QEMU's -kernel among them, refuse 64-bit ELF files without it. The linker script
// keeps the file one contiguous region so that those addresses are true.

#define MULTIBOOT_MAGIC 0x1BADB002
// bit 0: modules on page boundaries; bit 1: memory map wanted; bit 16: addresses are given here
#define MULTIBOOT_FLAGS ((1 << 0) | (1 << 1) | (1 << 16))

    .section .multiboot, "a"
    .balign 4
multiboot_header:
    .long MULTIBOOT_MAGIC
    .long MULTIBOOT_FLAGS
    .long -(MULTIBOOT_MAGIC + MULTIBOOT_FLAGS)
    .long multiboot_header
    .long __image_start
    .long __load_end
    .long __bss_end
    .long boot_entry

#define MB2_HEADER multiboot2_header
#define MB2_LOAD __image_start
#define MB2_LOAD_END __load_end
#define MB2_BSS_END __bss_end
#define MB2_ENTRY boot_entry
#include "boot/multiboot2_header.inc"

    .text
    .code32
    .globl boot_entry
boot_entry:
    cli
    cld
    movl %eax, %ebp             // loader's magic
    movl %ebx, %esi             // struct multiboot_info

    // 1. Clear .bss: the loader may, but the specification does not oblige it for every path. A
    // page
    //    is written to only if it is not zero: see clear() in mm/vm.c.
    movl $__bss_start, %edi
    xorl %eax, %eax
1:  movl %edi, %edx
    movl $1024, %ecx
    repe scasl
    je 2f
    movl %edx, %edi
    movl $1024, %ecx
    rep stosl
2:  cmpl $__bss_end, %edi
    jb 1b

    // 2. Long mode present? (SDM vol. 2A, CPUID 80000001H:EDX[29])
    movl $0x80000000, %eax
    cpuid
    cmpl $0x80000001, %eax
    jb no_long_mode
    movl $0x80000001, %eax
    cpuid
    testl $(1 << 29), %edx
    jz no_long_mode

    // 3. Identity map of the first 4 GiB with 2 MiB pages; mm/paging.c replaces it.
    movl $boot_pdpt, %eax
    orl $3, %eax
    movl %eax, boot_pml4
    movl $boot_pd, %eax
    orl $3, %eax
    xorl %ecx, %ecx
1:  movl %eax, boot_pdpt(,%ecx,8)
    addl $4096, %eax
    incl %ecx
    cmpl $4, %ecx
    jne 1b
    movl $0x83, %eax            // present, writable, page size
    xorl %ecx, %ecx
2:  movl %eax, boot_pd(,%ecx,8)
    addl $0x200000, %eax
    incl %ecx
    cmpl $2048, %ecx
    jne 2b

    // 4. PAE, CR3, then EFER: SCE (bit 0), LME (8), NXE (11); SDM vol. 3A, 10.8.5.
    movl %cr4, %eax
    orl $(1 << 5), %eax
    movl %eax, %cr4
    movl $boot_pml4, %eax
    movl %eax, %cr3
    movl $0xC0000080, %ecx
    rdmsr
    orl $((1 << 0) | (1 << 8) | (1 << 11)), %eax
    wrmsr

    // 5. Paging and write protection on, then a far jump into 64-bit code.
    movl %cr0, %eax
    orl $((1 << 31) | (1 << 16)), %eax
    movl %eax, %cr0
    lgdt boot_gdt_pointer
    ljmp $0x08, $boot_entry64

no_long_mode:
    // Nothing is set up yet: write to the screen, which every machine this old has.
    movl $0xB8000, %edi
    movl $no_long_mode_text, %esi
    movb $0x4F, %ah
3:  lodsb
    testb %al, %al
    jz 4f
    stosw
    jmp 3b
4:  hlt
    jmp 4b

    .code64
boot_entry64:
    movl $0x10, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    xorl %eax, %eax
    movl %eax, %fs
    movl %eax, %gs
    movq $boot_stack_top, %rsp
    movl %ebp, %edi
    // %esi already holds the information structure
    xorl %ebp, %ebp             // end of the frame chain
    call kernel_start
5:  hlt
    jmp 5b

    .section .rodata
no_long_mode_text:
    .asciz "cllm needs a 64-bit x86 processor"
    .balign 8
boot_gdt:
    .quad 0
    .quad 0x00AF9A000000FFFF    // 0x08: 64-bit code
    .quad 0x00CF92000000FFFF    // 0x10: data
boot_gdt_pointer:
    .word . - boot_gdt - 1
    .long boot_gdt

    .section .note.GNU-stack, "", @progbits
