# What clang is called with for a CUDA source: `common_flags`, `device_flags`, `host_flags`.
#
# Both passes see zig's musl and libc++, as the rest of the image does: the device's pass fails on
# glibc's headers. Sources for the flags: clang's CompileCudaWithLLVM and User's Manual, version 19.

# zig says what it gives clang for musl and libc++.
execute_process(COMMAND "${CLLM_TOOLS}/zig-c++" -v -O2 -x c++ -E /dev/null
    WORKING_DIRECTORY / # else its paths are relative
    ERROR_VARIABLE words OUTPUT_QUIET COMMAND_ERROR_IS_FATAL ANY)
string(REGEX MATCHALL "-D _LIBC[^ \n]+" defines "${words}")
list(TRANSFORM defines REPLACE "-D " "-D")
string(REGEX MATCHALL "-isystem [^ \n]+" folders "${words}")
list(TRANSFORM folders REPLACE "-isystem " "")
list(REMOVE_DUPLICATES folders)
set(zig_folders ${folders})
list(FILTER zig_folders EXCLUDE REGEX "/lib/(include|libunwind/include)$")
set(cxx_folders ${zig_folders})
list(FILTER cxx_folders INCLUDE REGEX "/libcxx")
set(c_folders ${zig_folders})
list(FILTER c_folders EXCLUDE REGEX "/libcxx")
list(LENGTH cxx_folders count)
if(NOT count EQUAL 2 OR NOT defines)
    message(FATAL_ERROR "zig c++ -v names no folders of libc++: ${words}")
endif()
list(GET cxx_folders 0 zig_lib)
cmake_path(GET zig_lib PARENT_PATH zig_lib)
cmake_path(GET zig_lib PARENT_PATH zig_lib)

cmake_path(GET CLANG PARENT_PATH clang_root)
cmake_path(GET clang_root PARENT_PATH clang_root)
set(clang_include "${clang_root}/lib/clang/19/include")
cmake_path(SET native NORMALIZE "${CMAKE_CURRENT_SOURCE_DIR}/..")

# Headers that musl or CUDA lack come first, then clang's wrappers: without these libc++'s placement
# new is no device function.
set(includes "${CMAKE_CURRENT_SOURCE_DIR}/include" "${clang_include}/cuda_wrappers" ${cxx_folders}
    "${clang_include}" ${c_folders})
list(TRANSFORM includes PREPEND "-isystem;")

# Which key and value types of a cache have a kernel: upstream's function sets definitions.
if(CLLM_CUDA_PROFILE STREQUAL ci)
    set(GGML_CUDA_FA_QUANTS "f16-f16;q8_0-q8_0")
else()
    set(GGML_CUDA_FA_QUANTS "q4_0-q4_0;q8_0-q8_0;f16-f16;bf16-bf16")
endif()
include("${ggml}/cmake/common.cmake")
ggml_cuda_fattn_vec_instances("${cuda}" fattn_vec)
get_directory_property(fattn_defines COMPILE_DEFINITIONS)
set_directory_properties(PROPERTIES COMPILE_DEFINITIONS "")
list(TRANSFORM fattn_defines PREPEND "-D")

set(common_flags -x cuda --target=x86_64-linux-musl "--cuda-path=${CUDA_ROOT}" -std=c++17
    -Wno-unknown-cuda-version # clang 19 knows CUDA up to 12.5
    -nostdinc -nostdinc++ ${includes} ${defines} -D_ALLOW_UNSUPPORTED_LIBCPP
    "-ffile-prefix-map=${LLAMA_SRC}/=llama.cpp/" "-ffile-prefix-map=${native}=native/"
    "-ffile-prefix-map=${CMAKE_CURRENT_BINARY_DIR}/=cuda/"
    -w # upstream's warnings are not ours
    # As upstream's CMake files define them; without VMM, which takes the driver's interface too.
    -DNDEBUG -D_XOPEN_SOURCE=600 -D_GNU_SOURCE -DGGML_CUDA_USE_GRAPHS -DGGML_CUDA_NO_VMM
    ${fattn_defines}
    "-I${ggml}/include" "-I${ggml}/src" "-I${cuda}")

list(JOIN common_flags "\n" text)
set(common_file "${CMAKE_CURRENT_BINARY_DIR}/common-flags")
file(CONFIGURE OUTPUT "${common_file}" CONTENT "${text}\n" @ONLY)

# In place of nvcc's -use_fast_math. Not -ffast-math: it assumes that there is no infinity, with
# which upstream masks.
set(device_flags --cuda-device-only -S -O3
    -fgpu-flush-denormals-to-zero -fgpu-approx-transcendentals
    -Xclang -mllvm -Xclang -nvptx-prec-divf32=1 -Xclang -mllvm -Xclang -nvptx-prec-sqrtf32=0)

# The list must name exactly the pack's architectures: upstream chooses kernels by it.
list(TRANSFORM CLLM_CUDA_ARCHITECTURES APPEND 0 OUTPUT_VARIABLE arch_list)
list(JOIN arch_list "," arch_list)
set(arch_list_flag "-D__CUDA_ARCH_LIST__=${arch_list}")
set(host_flags --cuda-host-only -c -fno-pic -fno-pie -fexceptions -fcxx-exceptions
    -ffunction-sections -fdata-sections "${arch_list_flag}")
