# CMake toolchain: zig's clang, lld and libc++ for CLLM_TARGET, through the wrapper scripts
# zig-cc, zig-c++, zig-ar and zig-ranlib in the folder CLLM_TOOLS (a cache or environment variable).
# Included by zig-musl.cmake (the image) and zig-gnu.cmake (the shared library for unit tests).
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR x86_64)

if(NOT CLLM_TOOLS)
    set(CLLM_TOOLS "$ENV{CLLM_TOOLS}")
endif()
if(NOT EXISTS "${CLLM_TOOLS}/zig-cc")
    message(FATAL_ERROR "CLLM_TOOLS must name the folder of zig-cc, zig-c++, zig-ar, zig-ranlib")
endif()

foreach(lang C CXX)
    # Last -target wins, so the wrappers may carry a default of their own. Without -fno-sanitize
    # zig builds the runtime library of the sanitizer, 20 s on two cores, for CMake's probes alone.
    set(CMAKE_${lang}_FLAGS_INIT "-target ${CLLM_TARGET} -fno-sanitize=undefined")
endforeach()
set(CMAKE_C_COMPILER "${CLLM_TOOLS}/zig-cc")
set(CMAKE_CXX_COMPILER "${CLLM_TOOLS}/zig-c++")
set(CMAKE_AR "${CLLM_TOOLS}/zig-ar")
set(CMAKE_RANLIB "${CLLM_TOOLS}/zig-ranlib")

# Nothing of the build machine may leak into the image.
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE NEVER)

# CMake probes the compiler in scratch projects that see only the listed variables.
list(APPEND CMAKE_TRY_COMPILE_PLATFORM_VARIABLES CLLM_TOOLS)
