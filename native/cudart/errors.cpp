// errors.cpp: the last error of CUDA's runtime interface, and the errors' names and texts.
#include "internal.h"

#include "cudart.h"

namespace cudart {

static thread_local int last = UCUDA_OK;
static thread_local cudart_mode mode = CUDART_REPORTS;

bool skips() {
    return mode == CUDART_SKIPS;
}

cudaError_t result(int code) {
    if (code != UCUDA_OK) {
        last = code;
    }
    return mode != CUDART_REPORTS || captures_now() ? cudaSuccess : (cudaError_t)code;
}

cudaError_t freed(int code) {
    return ucuda_status() != UCUDA_OK || !ucuda_is_open() ? cudaSuccess : result(code);
}

void forget_error() {
    last = UCUDA_OK;
}

// The names are CUDA's (CUDA Runtime API 12.9, enum cudaError), and so are the texts.
struct text {
    int code;
    const char *name, *meaning;
};
static const text TEXTS[] = {
    {0, "cudaSuccess", "no error"},
    {1, "cudaErrorInvalidValue", "invalid argument"},
    {2, "cudaErrorMemoryAllocation", "out of memory"},
    {3, "cudaErrorInitializationError", "initialization error"},
    {4, "cudaErrorCudartUnloading", "driver shutting down"},
    {46, "cudaErrorDevicesUnavailable", "CUDA-capable device(s) is/are busy or unavailable"},
    {98, "cudaErrorInvalidDeviceFunction", "invalid device function"},
    {100, "cudaErrorNoDevice", "no CUDA-capable device is detected"},
    {101, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {200, "cudaErrorInvalidKernelImage", "device kernel image is invalid"},
    {209, "cudaErrorNoKernelImageForDevice",
        "no kernel image is available for execution on the device"},
    {214, "cudaErrorECCUncorrectable", "uncorrectable ECC error encountered"},
    {218, "cudaErrorInvalidPtx", "a PTX JIT compilation failed"},
    {400, "cudaErrorInvalidResourceHandle", "invalid resource handle"},
    {500, "cudaErrorSymbolNotFound", "named symbol not found"},
    {600, "cudaErrorNotReady", "device not ready"},
    {700, "cudaErrorIllegalAddress", "an illegal memory access was encountered"},
    {701, "cudaErrorLaunchOutOfResources", "too many resources requested for launch"},
    {702, "cudaErrorLaunchTimeout", "the launch timed out and was terminated"},
    {710, "cudaErrorAssert", "device-side assert triggered"},
    {715, "cudaErrorIllegalInstruction", "an illegal instruction was encountered"},
    {716, "cudaErrorMisalignedAddress", "misaligned address"},
    {719, "cudaErrorLaunchFailure", "unspecified launch failure"},
    {720, "cudaErrorCooperativeLaunchTooLarge", "too many blocks in cooperative launch"},
    {801, "cudaErrorNotSupported", "operation not supported"},
    {900, "cudaErrorStreamCaptureUnsupported", "operation not permitted when stream is capturing"},
    {901, "cudaErrorStreamCaptureInvalidated",
        "operation failed due to a previous error during capture"},
    {910, "cudaErrorGraphExecUpdateFailure",
        "the graph update was not performed because it included changes which violated "
        "constraints specific to instantiated graph update"},
    {999, "cudaErrorUnknown", "unknown error"},
};

static const text *find(int code) {
    for (const text &entry : TEXTS) {
        if (entry.code == code) {
            return &entry;
        }
    }
    return nullptr;
}

} // namespace cudart

using namespace cudart;

extern "C" {

cudart_mode cudart_set_mode(cudart_mode wanted) {
    const cudart_mode before = mode;
    mode = wanted;
    return before;
}

// Clears the error, unless it is of the kind that only a reset clears.
cudaError_t cudaGetLastError(void) {
    int code = last;
    last = ucuda_is_open() ? ucuda_status() : UCUDA_OK;
    if (mode != CUDART_REPORTS || captures_now()) {
        return cudaSuccess;
    }
    return (cudaError_t)(code != UCUDA_OK ? code : last);
}

cudaError_t cudaPeekAtLastError(void) {
    return mode != CUDART_REPORTS || captures_now() ? cudaSuccess : (cudaError_t)last;
}

const char *cudaGetErrorName(cudaError_t code) {
    const text *found = find(code);
    return found ? found->name : "unrecognized error code";
}

const char *cudaGetErrorString(cudaError_t code) {
    const text *found = find(code);
    return found ? found->meaning : "unrecognized error code";
}

} // extern "C"
