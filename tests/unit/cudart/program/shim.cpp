// shim.cpp: checks of native/cudart by itself, on memory, streams, products, graphs and errors.
#include "program.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include <vector>

#include <cublas_v2.h>

#include "cudart/cudart.h"
#include "ucuda/ucuda.h"

static bool all_passed = true;

static void check(bool passed, const char *name) {
    printf("%s %s\n", passed ? "ok" : "failed", name);
    fflush(stdout);
    all_passed = all_passed && passed;
}

template <typename T> static T *upload(const std::vector<T> &from) {
    void *to = nullptr;
    cudaMalloc(&to, from.size() * sizeof(T));
    cudaMemcpy(to, from.data(), from.size() * sizeof(T), cudaMemcpyHostToDevice);
    return (T *)to;
}

template <typename T> static std::vector<T> download(const T *from, size_t count) {
    std::vector<T> to(count);
    cudaMemcpy(to.data(), from, count * sizeof(T), cudaMemcpyDeviceToHost);
    return to;
}

static void check_properties() {
    cudaDeviceProp prop;
    int count = 0, cooperative = -1;
    char bus[32] = "";
    size_t unused = 0, total = 0;
    check(cudaGetDeviceCount(&count) == cudaSuccess && count == 1, "one device");
    check(cudaGetDeviceProperties(&prop, 0) == cudaSuccess && prop.name[0] && prop.warpSize == 32
            && prop.multiProcessorCount > 0 && prop.sharedMemPerBlock >= 49152,
        "properties");
    check(cudaDeviceGetAttribute(&cooperative, cudaDevAttrCooperativeLaunch, 0) == cudaSuccess
            && cooperative >= 0,
        "attribute");
    check(cudaDeviceGetPCIBusId(bus, sizeof(bus), 0) == cudaSuccess && strlen(bus) == 12, "bus id");
    check(cudaMemGetInfo(&unused, &total) == cudaSuccess && unused > 0 && unused <= total,
        "memory info");
    check(cudaSetDevice(1) == cudaErrorInvalidDevice && cudaGetLastError() == cudaErrorInvalidDevice
            && cudaGetLastError() == cudaSuccess,
        "an error is forgotten once it was asked for");
    check(strcmp(cudaGetErrorName(cudaErrorIllegalAddress), "cudaErrorIllegalAddress") == 0
            && strcmp(cudaGetErrorString(cudaErrorIllegalAddress),
                   "an illegal memory access was encountered")
                == 0
            && strcmp(cudaGetErrorString((cudaError_t)12345), "unrecognized error code") == 0,
        "error texts");
}

static void check_memory() {
    void *too_much = nullptr;
    check(cudaMalloc(&too_much, (size_t)1 << 50) == cudaErrorMemoryAllocation && !too_much
            && cudaGetLastError() == cudaErrorMemoryAllocation && cudaGetLastError() == cudaSuccess,
        "too much memory is an error that passes");

    std::vector<unsigned char> bytes(100000);
    for (size_t i = 0; i < bytes.size(); i++) {
        bytes[i] = (unsigned char)(i * 7);
    }
    unsigned char *there = upload(bytes);
    check(download(there, bytes.size()) == bytes, "copy there and back");
    cudaMemsetAsync(there + 100, 0x5a, 1000, nullptr);
    memset(bytes.data() + 100, 0x5a, 1000);
    check(download(there, bytes.size()) == bytes, "memset");

    // 10 rows of 30 bytes, 50 bytes apart here and 64 there.
    std::vector<unsigned char> rows(500), got(500, 0);
    for (size_t i = 0; i < rows.size(); i++) {
        rows[i] = (unsigned char)i;
    }
    cudaMemcpy2DAsync(there, 64, rows.data(), 50, 30, 10, cudaMemcpyHostToDevice, nullptr);
    cudaMemcpy2DAsync(got.data(), 50, there, 64, 30, 10, cudaMemcpyDeviceToHost, nullptr);
    cudaStreamSynchronize(nullptr);
    bool same = true;
    for (int i = 0; i < 500; i++) {
        same = same && got[i] == (i % 50 < 30 ? rows[i] : 0);
    }
    check(same, "copy of rows");
    check(cudaMemcpy2DAsync(there, 20, rows.data(), 50, 30, 10, cudaMemcpyHostToDevice, nullptr)
            == cudaErrorInvalidValue,
        "rows longer than their distance are refused");
    cudaGetLastError();
    check(cudaFree(there) == cudaSuccess && cudaFree(nullptr) == cudaSuccess, "free");
}

static float at(const std::vector<float> &x, bool transposed, int ld, int row, int column) {
    return transposed ? x[(size_t)row * ld + column] : x[(size_t)column * ld + row];
}

static void check_product(cublasHandle_t handle, bool ta, bool tb, int m, int n, int k) {
    const int lda = (ta ? k : m) + 3, ldb = (tb ? n : k) + 1, ldc = m + 2;
    std::vector<float> a((size_t)lda * (ta ? m : k)), b((size_t)ldb * (tb ? k : n));
    std::vector<float> c((size_t)ldc * n, 2.0f);
    for (size_t i = 0; i < a.size(); i++) {
        a[i] = (float)((int)(i * 37 % 17) - 8);
    }
    for (size_t i = 0; i < b.size(); i++) {
        b[i] = (float)((int)(i * 53 % 19) - 9);
    }
    float *da = upload(a), *db = upload(b), *dc = upload(c);
    const float alpha = 0.5f, beta = 3.0f;
    cublasStatus_t status = cublasSgemm(handle, ta ? CUBLAS_OP_T : CUBLAS_OP_N,
        tb ? CUBLAS_OP_T : CUBLAS_OP_N, m, n, k, &alpha, da, lda, db, ldb, &beta, dc, ldc);
    std::vector<float> got = download(dc, c.size());
    bool same = status == CUBLAS_STATUS_SUCCESS;
    for (int j = 0; j < n; j++) {
        for (int i = 0; i < ldc; i++) {
            float sum = 0;
            for (int p = 0; i < m && p < k; p++) {
                sum += at(a, ta, lda, i, p) * at(b, tb, ldb, p, j);
            }
            // Small whole numbers: F32 has no error.
            same = same && got[(size_t)j * ldc + i] == (i < m ? alpha * sum + beta * 2.0f : 2.0f);
        }
    }
    char name[80];
    snprintf(name, sizeof(name), "product %dx%dx%d %c%c", m, n, k, ta ? 'T' : 'N', tb ? 'T' : 'N');
    check(same, name);
    cudaFree(da);
    cudaFree(db);
    cudaFree(dc);
}

static void check_halves(cublasHandle_t handle) {
    // 1, 2, -0.5 and 1.5, 1 as binary16, by columns: A (2 x 2) * B (2 x 1).
    const std::vector<unsigned short> a = {0x3c00, 0x4000, 0xb800, 0x3e00}, b = {0x4000, 0x3c00};
    unsigned short *da = upload(a), *db = upload(b);
    unsigned short *dc = upload(std::vector<unsigned short>(2, 0x7e00)); // NaN
    const unsigned short one = 0x3c00, zero = 0;
    cublasStatus_t status = cublasGemmStridedBatchedEx(handle, CUBLAS_OP_N, CUBLAS_OP_N, 2, 1, 2,
        &one, da, CUDA_R_16F, 2, 0, db, CUDA_R_16F, 2, 0, &zero, dc, CUDA_R_16F, 2, 2, 1,
        CUBLAS_COMPUTE_16F, CUBLAS_GEMM_DEFAULT);
    const std::vector<unsigned short> wanted = {0x3e00, 0x4580}; // 1.5, 5.5
    check(status == CUBLAS_STATUS_SUCCESS && download(dc, 2) == wanted,
        "product of halves over a NaN");

    float *f = upload(std::vector<float>(2));
    const float alpha = 2, beta = 0;
    const std::vector<const void *> as = {da}, bs = {db};
    const std::vector<void *> cs = {f};
    const void **las = upload(as), **lbs = upload(bs);
    void **lcs = upload(cs);
    status = cublasGemmBatchedEx(handle, CUBLAS_OP_N, CUBLAS_OP_N, 2, 1, 2, &alpha, las, CUDA_R_16F,
        2, lbs, CUDA_R_16F, 2, &beta, lcs, CUDA_R_32F, 2, 1, CUBLAS_COMPUTE_32F,
        CUBLAS_GEMM_DEFAULT);
    check(status == CUBLAS_STATUS_SUCCESS && download(f, 2) == std::vector<float>({3.0f, 11.0f}),
        "product through lists of addresses");
    check(cublasGemmEx(handle, CUBLAS_OP_N, CUBLAS_OP_N, 1, 1, 1, &alpha, da, CUDA_R_16F, 1, f,
              CUDA_R_32F, 1, &beta, f, CUDA_R_32F, 1, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT)
            == CUBLAS_STATUS_NOT_SUPPORTED,
        "mixed types are refused");

    // X * [[2, 4], [0, 1]] = [6, 13]: X = [3, 1].
    float *triangle = upload(std::vector<float>({2, 0, 4, 1}));
    float *right = upload(std::vector<float>({6, 13}));
    const float **triangles = upload(std::vector<const float *>({triangle}));
    float **rights = upload(std::vector<float *>({right}));
    const float unit = 1;
    status = cublasStrsmBatched(handle, CUBLAS_SIDE_RIGHT, CUBLAS_FILL_MODE_UPPER, CUBLAS_OP_N,
        CUBLAS_DIAG_NON_UNIT, 1, 2, &unit, triangles, 2, rights, 1, 1);
    check(status == CUBLAS_STATUS_SUCCESS && download(right, 2) == std::vector<float>({3.0f, 1.0f}),
        "triangle");
}

static void check_graph(cublasHandle_t handle) {
    cudaStream_t stream;
    cudaEvent_t event;
    cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
    cudaEventCreateWithFlags(&event, cudaEventDisableTiming);
    float *x = upload(std::vector<float>({3})), *y = upload(std::vector<float>({0}));
    const float one = 1;
    cublasSetStream(handle, stream);
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed);
    cudaStreamIsCapturing(stream, &status);
    bool active = status == cudaStreamCaptureStatusActive;
    // y += x * x, and nothing is computed yet.
    cublasSgemm(handle, CUBLAS_OP_N, CUBLAS_OP_N, 1, 1, 1, &one, x, 1, x, 1, &one, y, 1);
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t exec = nullptr;
    cudaError_t ended = cudaStreamEndCapture(stream, &graph);
    cudaStreamIsCapturing(stream, &status);
    check(active && ended == cudaSuccess && status == cudaStreamCaptureStatusNone, "capture");
    check(download(y, 1)[0] == 0, "a captured kernel does not run");
    cudaError_t made = cudaGraphInstantiate(&exec, graph, 0);
    if (made == cudaSuccess) {
        for (int i = 0; i < 3; i++) {
            cudaGraphLaunch(exec, stream);
        }
        cudaEventRecord(event, stream);
        cudaEventSynchronize(event);
    }
    check(made == cudaSuccess && download(y, 1)[0] == 27, "three launches of a graph");
    check(cudaGraphExecDestroy(exec) == cudaSuccess && cudaGraphDestroy(graph) == cudaSuccess
            && cudaEventDestroy(event) == cudaSuccess && cudaStreamDestroy(stream) == cudaSuccess,
        "destroy");
    cublasSetStream(handle, nullptr);
}

// A kernel that leaves its buffers: the error stays, until a reset.
static void check_fault(cublasHandle_t handle) {
    float *x = upload(std::vector<float>(4));
    const float one = 1;
    cublasSgemm(handle, CUBLAS_OP_N, CUBLAS_OP_N, 64, 64, 64, &one, x, 64, x, 64, &one, x, 64);
    check(cudaDeviceSynchronize() == cudaErrorIllegalAddress, "a fault is an illegal address");
    check(cudaGetLastError() == cudaErrorIllegalAddress
            && cudaGetLastError() == cudaErrorIllegalAddress,
        "a fault is not forgotten");
    void *more = nullptr;
    check(cudaMalloc(&more, 16) == cudaErrorIllegalAddress, "nothing works after a fault");
    check(strstr(ucuda_fault(), "gemm") != nullptr, "the fault names the kernel");
    check(cudaFree(x) == cudaSuccess && cudaSetDevice(0) == cudaSuccess,
        "memory can be freed after a fault");
    int code = ucuda_reset();
    cudart_reset();
    check(code == UCUDA_OK && cudaGetLastError() == cudaSuccess, "reset");
    check_product(handle, false, false, 4, 4, 4);
}

int shim_main() {
    cublasHandle_t handle;
    cublasCreate(&handle);
    check_properties();
    check_memory();
    check_product(handle, true, false, 33, 17, 40);
    check_product(handle, false, true, 5, 70, 16);
    check_product(handle, false, false, 64, 1, 3);
    check_product(handle, true, true, 2, 3, 100);
    check_halves(handle);
    check_graph(handle);
    check_fault(handle);
    return all_passed ? 0 : 1;
}
