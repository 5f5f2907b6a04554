"""Whether this machine has a card that computes CUDA."""

import ctypes


def reason_for_none() -> str | None:
    """Return why there is no card that can be used, in words; None when there is one."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "this machine has no libcuda.so.1"
    count = ctypes.c_int(0)
    code = cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count))
    if code:
        return f"NVIDIA's driver does not start (CUresult {code})"
    return None if count.value else "NVIDIA's driver finds no card"
