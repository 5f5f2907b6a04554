# Toolchain of the image: static musl and libc++, entered through the syscall instruction only.
set(CLLM_TARGET x86_64-linux-musl)
include("${CMAKE_CURRENT_LIST_DIR}/zig.cmake")
