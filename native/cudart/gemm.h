// gemm.h: between cublas.cpp, which checks what was asked for, and gemm.cu, which computes it.
#ifndef CLLM_CUDART_GEMM_H
#define CLLM_CUDART_GEMM_H

#include <cuda_runtime_api.h>

// C (m x n) = alpha * A (m x k) * B (k x n) + beta * C, `count` times. Strides are in elements.
struct gemm_call {
    int m, n, k, count;
    // Data, or with `pointers` arrays of `count` addresses, all on the device.
    const void *a, *b;
    void *c;
    bool pointers;
    long long batch_a, batch_b, batch_c; // from one matrix to the next; without `pointers`
    // From an element to the one in the next row, and in the next column.
    long long row_a, column_a, row_b, column_b;
    long long column_c;
    float alpha, beta;
};

enum gemm_types {
    GEMM_F32_F32, // of A and B, of C
    GEMM_F16_F16,
    GEMM_F16_F32,
    GEMM_BF16_BF16,
    GEMM_BF16_F32,
};

void gemm_launch(const gemm_call &call, gemm_types types, cudaStream_t stream);

// X (m x n) * A (n x n, upper triangle) = alpha * B (m x n), `count` times; X takes the place of B.
// a, b: arrays of `count` addresses, on the device.
void trsm_launch(int m, int n, float alpha, const float *const *a, int lda, float *const *b,
    int ldb, int count, cudaStream_t stream);

#endif
