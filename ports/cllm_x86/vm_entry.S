// mp_execute_bytecode(code_state, exception) as all callers know it; vm.o's own is
// vm_execute_bytecode(). It keeps code_state at a known place in a frame of its own, so that a
// backtrace can name the Python line (pyframe.c). It costs a call per Python call and nothing per
// bytecode.

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
