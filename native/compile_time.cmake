# Saves compile time: functions that CMakeLists.txt calls. docs/lab/2026-11-27-build-time.md has the
# profile.
#
# Parsing headers and instantiating templates takes most of the time, once per translation unit; a
# lower optimisation level saves a few percent only. Therefore:
# * llama.cpp's cold code is compiled many files at a time;
# * our own code and ggml's kernels are compiled one by one with precompiled headers, so a changed
#   file of ours takes seconds, and the kernels' objects are the same as without.

option(CLLM_UNITY "Compile llama.cpp's sources many at a time; OFF to edit that tree" ON)

# CMake's default adds -emit-pch, which zig passes to clang by itself and which may be given once.
# The wrapper zig-c++ drops -c (see host/cllm/build.py).
set(CMAKE_CXX_COMPILE_OPTIONS_CREATE_PCH
    -Xclang -include -Xclang <PCH_HEADER> -x c++-header)
# zig caches precompiled headers by content. With time stamps in them, a tree that is unpacked again
# would make the cached ones invalid.
add_compile_options("$<$<COMPILE_LANGUAGE:CXX>:SHELL:-Xclang -fno-pch-timestamp>")

# Compile ARGN, sources of `target`, in `count` pieces. `name` tells them from other calls' pieces.
function(compile_together target name count)
    if(NOT CLLM_UNITY)
        return()
    endif()
    set_target_properties(${target} PROPERTIES UNITY_BUILD ON UNITY_BUILD_MODE GROUP)
    list(LENGTH ARGN length)
    set(index 0)
    foreach(source ${ARGN})
        math(EXPR piece "${index} * ${count} / ${length}")
        set_source_files_properties("${source}" TARGET_DIRECTORY ${target} PROPERTIES
            SKIP_UNITY_BUILD_INCLUSION OFF UNITY_GROUP "${name}_${piece}")
        math(EXPR index "${index} + 1")
    endforeach()
endfunction()

# Remove from `target` the sources whose path matches `pattern`.
function(leave_out target pattern)
    get_target_property(sources ${target} SOURCES)
    list(FILTER sources EXCLUDE REGEX "${pattern}")
    set_property(TARGET ${target} PROPERTY SOURCES ${sources})
endfunction()

# Precompile the headers of ggml's CPU code. Each build of it needs its own: clang refuses one that
# was made for other instructions.
function(precompile_ggml_headers target)
    foreach(header algorithm cmath cstring functional memory mutex string vector
            ggml-backend-impl.h ggml-cpu-impl.h)
        target_precompile_headers(${target} PRIVATE
            "$<$<COMPILE_LANGUAGE:CXX>:<${header}$<ANGLE-R>>")
    endforeach()
endfunction()
