// curand_mtgp32_kernel.h: empty. clang includes cuRAND's header of this name into every CUDA
// source, and ggml-cuda draws no random numbers.
