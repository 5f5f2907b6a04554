// gemm.cu: matrix products in place of cuBLAS's: one kernel for all layouts, tiled, on plain cores.
//
// It is meant to be right and small. ggml-cuda has kernels of its own for quantized weights and for
// few columns; what is left for cuBLAS are prompts with F32 and F16 weights.
#include "gemm.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

namespace {

constexpr int TILE = 32;             // rows and columns of C for each block
constexpr int DEPTH = 16;            // of k in shared memory at a time
constexpr int EACH = 4;              // rows and columns for each thread
constexpr int SIDE = TILE / EACH;    // threads along a side
constexpr int THREADS = SIDE * SIDE;

__device__ float to_float(float x) { return x; }
__device__ float to_float(__half x) { return __half2float(x); }
__device__ float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ void store(float *to, float x) { *to = x; }
__device__ void store(__half *to, float x) { *to = __float2half(x); }
__device__ void store(__nv_bfloat16 *to, float x) { *to = __float2bfloat16(x); }

template <typename In, typename Out>
__global__ void __launch_bounds__(THREADS) gemm(const gemm_call call) {
    __shared__ float a_tile[DEPTH][TILE];
    __shared__ float b_tile[DEPTH][TILE];
    const int z = blockIdx.z;
    const In *a = call.pointers ? ((const In *const *)call.a)[z]
                                : (const In *)call.a + z * call.batch_a;
    const In *b = call.pointers ? ((const In *const *)call.b)[z]
                                : (const In *)call.b + z * call.batch_b;
    Out *c = call.pointers ? ((Out *const *)call.c)[z] : (Out *)call.c + z * call.batch_c;
    const int row0 = blockIdx.x * TILE, column0 = blockIdx.y * TILE;
    const int thread = threadIdx.x;
    const int my_row = thread % SIDE * EACH, my_column = thread / SIDE * EACH;

    float sum[EACH][EACH] = {};
    for (int k0 = 0; k0 < call.k; k0 += DEPTH) {
        for (int i = thread; i < TILE * DEPTH; i += THREADS) {
            const int at = i % TILE, k = k0 + i / TILE;
            const bool in = k < call.k;
            a_tile[i / TILE][at] = in && row0 + at < call.m
                ? to_float(a[(row0 + at) * call.row_a + k * call.column_a]) : 0.0f;
            b_tile[i / TILE][at] = in && column0 + at < call.n
                ? to_float(b[k * call.row_b + (column0 + at) * call.column_b]) : 0.0f;
        }
        __syncthreads();
        for (int k = 0; k < DEPTH; k++) {
#pragma unroll
            for (int i = 0; i < EACH; i++) {
#pragma unroll
                for (int j = 0; j < EACH; j++) {
                    sum[i][j] += a_tile[k][my_row + i] * b_tile[k][my_column + j];
                }
            }
        }
        __syncthreads();
    }
#pragma unroll
    for (int j = 0; j < EACH; j++) {
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            const int row = row0 + my_row + i, column = column0 + my_column + j;
            if (row < call.m && column < call.n) {
                Out *to = c + row + column * call.column_c;
                // C is not read without beta: it may hold anything.
                const float old = call.beta != 0.0f ? call.beta * to_float(*to) : 0.0f;
                store(to, call.alpha * sum[i][j] + old);
            }
        }
    }
}

// A thread for each row of X: column by column, left to right.
__global__ void trsm(int m, int n, float alpha, const float *const *as, int lda, float *const *bs,
    int ldb) {
    const int row = blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= m) {
        return;
    }
    const float *a = as[blockIdx.y];
    float *x = bs[blockIdx.y] + row;
    for (int j = 0; j < n; j++) {
        float rest = alpha * x[(long long)j * ldb];
        for (int i = 0; i < j; i++) {
            rest -= x[(long long)i * ldb] * a[i + (long long)j * lda];
        }
        x[(long long)j * ldb] = rest / a[j + (long long)j * lda];
    }
}

} // namespace

void gemm_launch(const gemm_call &call, gemm_types types, cudaStream_t stream) {
    const dim3 grid((call.m + TILE - 1) / TILE, (call.n + TILE - 1) / TILE, call.count);
    switch (types) {
        case GEMM_F32_F32:
            gemm<float, float><<<grid, THREADS, 0, stream>>>(call);
            break;
        case GEMM_F16_F16:
            gemm<__half, __half><<<grid, THREADS, 0, stream>>>(call);
            break;
        case GEMM_F16_F32:
            gemm<__half, float><<<grid, THREADS, 0, stream>>>(call);
            break;
        case GEMM_BF16_BF16:
            gemm<__nv_bfloat16, __nv_bfloat16><<<grid, THREADS, 0, stream>>>(call);
            break;
        case GEMM_BF16_F32:
            gemm<__nv_bfloat16, float><<<grid, THREADS, 0, stream>>>(call);
            break;
    }
}

void trsm_launch(int m, int n, float alpha, const float *const *a, int lda, float *const *b,
    int ldb, int count, cudaStream_t stream) {
    const dim3 grid((m + THREADS - 1) / THREADS, count, 1);
    trsm<<<grid, THREADS, 0, stream>>>(m, n, alpha, a, lda, b, ldb);
}
