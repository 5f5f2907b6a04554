// cublas.cpp: cuBLAS's functions that ggml-cuda calls, over the kernels of gemm.cu.
#include <cublas_v2.h>

#include <stdint.h>
#include <string.h>

#include "gemm.h"

struct cublasContext {
    cudaStream_t stream;
};

namespace {

// IEEE 754 binary16 to float, without infinities and NaN, which no factor is.
float half_to_float(uint16_t half) {
    int exponent = half >> 10 & 31, fraction = half & 1023;
    float value = exponent ? (1024 + fraction) / 1024.0f : fraction / 512.0f;
    for (; exponent > 15; exponent--) {
        value *= 2;
    }
    for (; exponent < 15; exponent++) {
        value /= 2;
    }
    return half & 0x8000 ? -value : value;
}

// alpha and beta have the type of the computation (cuBLAS Library 12.9, cublasGemmEx()).
bool factor(const void *from, cublasComputeType_t compute, float *out) {
    if (compute == CUBLAS_COMPUTE_16F) {
        uint16_t half;
        memcpy(&half, from, sizeof(half));
        *out = half_to_float(half);
        return true;
    }
    memcpy(out, from, sizeof(*out));
    return compute == CUBLAS_COMPUTE_32F || compute == CUBLAS_COMPUTE_32F_FAST_16F
        || compute == CUBLAS_COMPUTE_32F_FAST_16BF || compute == CUBLAS_COMPUTE_32F_FAST_TF32;
}

bool types(cudaDataType a, cudaDataType b, cudaDataType c, gemm_types *out) {
    if (a != b || (c != a && c != CUDA_R_32F)) {
        return false;
    }
    switch (a) {
        case CUDA_R_32F:
            *out = GEMM_F32_F32;
            return true;
        case CUDA_R_16F:
            *out = c == CUDA_R_32F ? GEMM_F16_F32 : GEMM_F16_F16;
            return true;
        case CUDA_R_16BF:
            *out = c == CUDA_R_32F ? GEMM_BF16_F32 : GEMM_BF16_BF16;
            return true;
        default:
            return false;
    }
}

struct operand {
    cublasOperation_t op;
    const void *data;
    cudaDataType type;
    int ld;
    long long batch;
};

// Columns lie one after another, each `ld` elements from the last; transposed it is rows that do.
void lay_out(const operand &x, long long *row, long long *column) {
    bool plain = x.op == CUBLAS_OP_N;
    *row = plain ? 1 : x.ld;
    *column = plain ? x.ld : 1;
}

cublasStatus_t multiply(cublasHandle_t handle, int m, int n, int k, const void *alpha,
    const operand &a, const operand &b, const void *beta, const operand &c, bool pointers,
    int count, cublasComputeType_t compute) {
    if (!handle) {
        return CUBLAS_STATUS_NOT_INITIALIZED;
    }
    if (m < 0 || n < 0 || k < 0 || count < 0) {
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    gemm_types kind;
    gemm_call call = {};
    if (!types(a.type, b.type, c.type, &kind) || !factor(alpha, compute, &call.alpha)
        || !factor(beta, compute, &call.beta)) {
        return CUBLAS_STATUS_NOT_SUPPORTED;
    }
    if (m == 0 || n == 0 || count == 0) {
        return CUBLAS_STATUS_SUCCESS;
    }
    call.m = m;
    call.n = n;
    call.k = k;
    call.count = count;
    call.a = a.data;
    call.b = b.data;
    call.c = const_cast<void *>(c.data);
    call.pointers = pointers;
    call.batch_a = a.batch;
    call.batch_b = b.batch;
    call.batch_c = c.batch;
    lay_out(a, &call.row_a, &call.column_a);
    lay_out(b, &call.row_b, &call.column_b);
    call.column_c = c.ld;
    gemm_launch(call, kind, handle->stream);
    return cudaGetLastError() == cudaSuccess ? CUBLAS_STATUS_SUCCESS
                                             : CUBLAS_STATUS_EXECUTION_FAILED;
}

} // namespace

extern "C" {

cublasStatus_t cublasCreate_v2(cublasHandle_t *handle) {
    *handle = new cublasContext{};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasDestroy_v2(cublasHandle_t handle) {
    delete handle;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetStream_v2(cublasHandle_t handle, cudaStream_t stream) {
    handle->stream = stream;
    return CUBLAS_STATUS_SUCCESS;
}

// Every product is computed with F32's multiplication and addition: no mode is less exact.
cublasStatus_t cublasSetMathMode(cublasHandle_t, cublasMath_t) {
    return CUBLAS_STATUS_SUCCESS;
}

const char *cublasGetStatusString(cublasStatus_t status) {
    switch (status) {
        case CUBLAS_STATUS_SUCCESS:
            return "CUBLAS_STATUS_SUCCESS";
        case CUBLAS_STATUS_NOT_INITIALIZED:
            return "CUBLAS_STATUS_NOT_INITIALIZED";
        case CUBLAS_STATUS_INVALID_VALUE:
            return "CUBLAS_STATUS_INVALID_VALUE";
        case CUBLAS_STATUS_EXECUTION_FAILED:
            return "CUBLAS_STATUS_EXECUTION_FAILED";
        case CUBLAS_STATUS_NOT_SUPPORTED:
            return "CUBLAS_STATUS_NOT_SUPPORTED";
        default:
            return "unknown cuBLAS status";
    }
}

cublasStatus_t cublasSgemm_v2(cublasHandle_t handle, cublasOperation_t op_a, cublasOperation_t op_b,
    int m, int n, int k, const float *alpha, const float *a, int lda, const float *b, int ldb,
    const float *beta, float *c, int ldc) {
    return multiply(handle, m, n, k, alpha, {op_a, a, CUDA_R_32F, lda, 0},
        {op_b, b, CUDA_R_32F, ldb, 0}, beta, {CUBLAS_OP_N, c, CUDA_R_32F, ldc, 0}, false, 1,
        CUBLAS_COMPUTE_32F);
}

cublasStatus_t cublasGemmEx(cublasHandle_t handle, cublasOperation_t op_a, cublasOperation_t op_b,
    int m, int n, int k, const void *alpha, const void *a, cudaDataType type_a, int lda,
    const void *b, cudaDataType type_b, int ldb, const void *beta, void *c, cudaDataType type_c,
    int ldc, cublasComputeType_t compute, cublasGemmAlgo_t) {
    return multiply(handle, m, n, k, alpha, {op_a, a, type_a, lda, 0}, {op_b, b, type_b, ldb, 0},
        beta, {CUBLAS_OP_N, c, type_c, ldc, 0}, false, 1, compute);
}

cublasStatus_t cublasGemmStridedBatchedEx(cublasHandle_t handle, cublasOperation_t op_a,
    cublasOperation_t op_b, int m, int n, int k, const void *alpha, const void *a,
    cudaDataType type_a, int lda, long long stride_a, const void *b, cudaDataType type_b, int ldb,
    long long stride_b, const void *beta, void *c, cudaDataType type_c, int ldc, long long stride_c,
    int count, cublasComputeType_t compute, cublasGemmAlgo_t) {
    return multiply(handle, m, n, k, alpha, {op_a, a, type_a, lda, stride_a},
        {op_b, b, type_b, ldb, stride_b}, beta, {CUBLAS_OP_N, c, type_c, ldc, stride_c}, false,
        count, compute);
}

cublasStatus_t cublasGemmBatchedEx(cublasHandle_t handle, cublasOperation_t op_a,
    cublasOperation_t op_b, int m, int n, int k, const void *alpha, const void *const *a,
    cudaDataType type_a, int lda, const void *const *b, cudaDataType type_b, int ldb,
    const void *beta, void *const *c, cudaDataType type_c, int ldc, int count,
    cublasComputeType_t compute, cublasGemmAlgo_t) {
    return multiply(handle, m, n, k, alpha, {op_a, a, type_a, lda, 0}, {op_b, b, type_b, ldb, 0},
        beta, {CUBLAS_OP_N, c, type_c, ldc, 0}, true, count, compute);
}

cublasStatus_t cublasSgemmStridedBatched(cublasHandle_t handle, cublasOperation_t op_a,
    cublasOperation_t op_b, int m, int n, int k, const float *alpha, const float *a, int lda,
    long long stride_a, const float *b, int ldb, long long stride_b, const float *beta, float *c,
    int ldc, long long stride_c, int count) {
    return cublasGemmStridedBatchedEx(handle, op_a, op_b, m, n, k, alpha, a, CUDA_R_32F, lda,
        stride_a, b, CUDA_R_32F, ldb, stride_b, beta, c, CUDA_R_32F, ldc, stride_c, count,
        CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
}

cublasStatus_t cublasSgemmBatched(cublasHandle_t handle, cublasOperation_t op_a,
    cublasOperation_t op_b, int m, int n, int k, const float *alpha, const float *const *a, int lda,
    const float *const *b, int ldb, const float *beta, float *const *c, int ldc, int count) {
    return cublasGemmBatchedEx(handle, op_a, op_b, m, n, k, alpha, (const void *const *)a,
        CUDA_R_32F, lda, (const void *const *)b, CUDA_R_32F, ldb, beta, (void *const *)c,
        CUDA_R_32F, ldc, count, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
}

// The one form that ggml-cuda asks for.
cublasStatus_t cublasStrsmBatched(cublasHandle_t handle, cublasSideMode_t side,
    cublasFillMode_t fill, cublasOperation_t op, cublasDiagType_t diagonal, int m, int n,
    const float *alpha, const float *const *a, int lda, float *const *b, int ldb, int count) {
    if (side != CUBLAS_SIDE_RIGHT || fill != CUBLAS_FILL_MODE_UPPER || op != CUBLAS_OP_N
        || diagonal != CUBLAS_DIAG_NON_UNIT) {
        return CUBLAS_STATUS_NOT_SUPPORTED;
    }
    if (m > 0 && n > 0 && count > 0) {
        trsm_launch(m, n, *alpha, a, lda, b, ldb, count, handle->stream);
    }
    return cudaGetLastError() == cudaSuccess ? CUBLAS_STATUS_SUCCESS
                                             : CUBLAS_STATUS_EXECUTION_FAILED;
}

} // extern "C"
