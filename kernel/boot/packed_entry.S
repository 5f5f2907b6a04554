// Multiboot entry of the packed image (image.pack() in host/cllm/image.py): unpacks the image and
// goes to its entry, boot/multiboot_entry.S, with the registers as the loader left them.
//
// It is linked right above where the image goes, so that modules, which loaders put behind a
// kernel, are not in the way. PAYLOAD, ENTRY, TARGET, SIZE and END come from image.pack().

#define MULTIBOOT_MAGIC 0x1BADB002
// bit 0: modules on page boundaries; bit 1: memory map wanted; bit 16: addresses are given here, by
// which QEMU loads without a second copy of the file
#define MULTIBOOT_FLAGS ((1 << 0) | (1 << 1) | (1 << 16))

    .section .multiboot, "a"
    .balign 4
multiboot_header:
    .long MULTIBOOT_MAGIC
    .long MULTIBOOT_FLAGS
    .long -(MULTIBOOT_MAGIC + MULTIBOOT_FLAGS)
    .long multiboot_header
    .long multiboot_header      // the first byte that is loaded
    .long __load_end
    .long __bss_end
    .long packed_entry

// A Multiboot 2 loader puts modules and its information wherever there is room, so it must know of
// the room that the unpacked image takes, too: it loads the file there, and reserves all up to
// __bss_end. The low_ addresses come from packed.ld.
#define MB2_HEADER low_multiboot2_header
#define MB2_LOAD low_load
#define MB2_LOAD_END low_load_end
#define MB2_BSS_END __bss_end
#define MB2_ENTRY low_entry
#include "boot/multiboot2_header.inc"

    .text
    .globl multiboot_header, multiboot2_header, packed_entry_low
// Where a Multiboot 2 loader begins: at the low addresses. Moves all to where it is linked, the
// last byte first, because the two may overlap.
packed_entry_low:
    cli
    movl $low_load_end - 1, %esi
    movl $__load_end - 1, %edi
    movl $packed_size, %ecx
    std
    rep movsb
    cld
    movl %eax, %edx
    movl $__load_end, %edi
    movl $packed_bss_size, %ecx
    xorl %eax, %eax
    rep stosb
    movl %edx, %eax
    movl $packed_entry, %ecx
    jmp *%ecx

    .globl packed_entry
packed_entry:
    cli
    cld
    movl $stack_top, %esp
    pushl %ebx                  // the loader's information
    pushl %eax                  // loader's magic
    call unpack                 // with these as arguments
    popl %eax
    popl %ebx
    movl $ENTRY, %ecx
    jmp *%ecx

    .section .rodata
    .globl packed_begin, packed_end, unpacked_begin, unpacked_size, unpacked_end
packed_begin:
    .incbin PAYLOAD
packed_end:
    .balign 4
unpacked_begin:
    .long TARGET
unpacked_size:
    .long SIZE                  // bytes of the payload, unpacked
unpacked_end:
    .long END                   // with .bss

    .section .bss
    .balign 16
    .skip 4096
stack_top:

    .section .note.GNU-stack, "", @progbits
