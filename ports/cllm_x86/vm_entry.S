// mp_execute_bytecode(code_state, exception), as everybody but MicroPython's own vm.o knows it:
// keeps code_state at a known place of a frame of its own, so that a backtrace can name the Python
// line. It costs a call per Python call and nothing per bytecode (see crash.c, pyframe.c).

    .text
    .code64
    .globl mp_execute_bytecode
    .type mp_execute_bytecode, @function
    .balign 16
mp_execute_bytecode:
    .cfi_startproc
    pushq %rbp
    .cfi_def_cfa_offset 16
    .cfi_offset %rbp, -16
    movq %rsp, %rbp
    .cfi_def_cfa_register %rbp
    pushq %rdi                  // -8(%rbp)
    pushq %rdi                  // keeps 16-byte alignment
    call vm_execute_bytecode
    .globl vm_entry_return
vm_entry_return:
    leave
    .cfi_def_cfa %rsp, 8
    ret
    .cfi_endproc
    .size mp_execute_bytecode, . - mp_execute_bytecode

    .section .note.GNU-stack, "", @progbits
