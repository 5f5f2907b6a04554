# Toolchain of the host library for unit tests. glibc 2.28 is what manylinux Pythons run on.
set(CLLM_TARGET x86_64-linux-gnu.2.28)
include("${CMAKE_CURRENT_LIST_DIR}/zig.cmake")
