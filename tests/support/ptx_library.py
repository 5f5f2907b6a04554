"""The PTX interpreter (native/ptx) through cffi: modules, device memory and launches with NumPy."""

import os
from pathlib import Path

import cffi
import numpy as np
from cllm import TOP

LIBRARY = Path(os.environ.get("CLLM_PTX_SO", TOP / "build/ptx/libptx_test.so"))

CDEF = """
typedef struct ptx_state ptx_state;
typedef struct module module;
typedef struct kernel kernel;
ptx_state *ptx_open(uint64_t quota);
void ptx_close(ptx_state *s);
const char *ptx_error(ptx_state *s);
uint64_t ptx_alloc(ptx_state *s, uint64_t bytes);
int ptx_free(ptx_state *s, uint64_t address);
int ptx_holds(ptx_state *s, uint64_t address, uint64_t bytes);
uint64_t ptx_used(ptx_state *s);
uint64_t ptx_lanes(ptx_state *s);
void ptx_stop(ptx_state *s, int stop);
void ptx_write(uint64_t address, const void *from, uint64_t bytes);
void ptx_read(uint64_t address, void *to, uint64_t bytes);
module *ptx_load(ptx_state *s, const char *text, uint64_t bytes);
void ptx_unload(module *m);
const kernel *ptx_kernel(ptx_state *s, module *m, const char *name);
const kernel *ptx_kernel_hash(ptx_state *s, module *m, uint64_t hash);
const char *ptx_kernels(ptx_state *s, module *m);
int ptx_global(module *m, uint64_t hash, uint64_t *address, uint64_t *bytes);
void ptx_describe(const kernel *k, uint32_t out[5]);
void ptx_parameter(const kernel *k, uint32_t index, uint32_t out[2]);
int ptx_run(ptx_state *s, const kernel *k, const uint32_t dims[6], uint32_t shared,
    const void *parameters, unsigned threads, int cooperative);
"""

HEAD = ".version 8.5\n.target sm_61\n.address_size 64\n"


class PtxError(Exception):
    """A text that cannot be decoded, or a fault. code: its CUresult; 0 for a text."""

    def __init__(self, code, text):
        super().__init__(text)
        self.code = code


def name_hash(name):
    """FNV-1a, as ucuda_name_hash()."""
    value = 0xCBF29CE484222325
    for byte in name.encode():
        value = (value ^ byte) * 0x100000001B3 % 2**64
    return value


class Device:
    """Device memory with a quota, and what runs in it."""

    def __init__(self, quota=1 << 30):
        self.ffi = cffi.FFI()
        self.ffi.cdef(CDEF)
        self.lib = self.ffi.dlopen(str(LIBRARY))
        self.state = self.lib.ptx_open(quota)

    def close(self):
        self.lib.ptx_close(self.state)

    def error(self):
        return self.ffi.string(self.lib.ptx_error(self.state)).decode(errors="replace")

    def alloc(self, bytes):
        return self.lib.ptx_alloc(self.state, bytes)

    def put(self, array):
        """Allocate room for an array and copy it there; return the address."""
        array = np.ascontiguousarray(array)
        address = self.alloc(max(array.nbytes, 1))
        assert address
        if array.nbytes:
            self.lib.ptx_write(address, self.ffi.from_buffer(array), array.nbytes)
        return address

    def get(self, address, dtype, count):
        out = np.empty(count, dtype)
        self.lib.ptx_read(address, self.ffi.from_buffer(out, require_writable=True), out.nbytes)
        return out

    def load(self, text):
        """Parse a module; `text` with or without its .version line."""
        if isinstance(text, str):
            text = (text if ".version" in text else HEAD + text).encode()
        made = self.lib.ptx_load(self.state, text, len(text))
        if made == self.ffi.NULL:
            raise PtxError(0, self.error())
        return Module(self, made)


class Module:
    def __init__(self, device, made):
        self.device, self.made = device, made

    def kernels(self):
        names = self.device.lib.ptx_kernels(self.device.state, self.made)
        return self.device.ffi.string(names).decode().split()

    def kernel(self, name):
        d = self.device
        found = d.lib.ptx_kernel(d.state, self.made, name.encode())
        if found == d.ffi.NULL:
            raise PtxError(0, d.error())
        return Kernel(d, found)

    def global_(self, name):
        """Return (address, bytes) of a global; None without one."""
        ffi = self.device.ffi
        out = ffi.new("uint64_t[2]")
        found = self.device.lib.ptx_global(self.made, name_hash(name), out, out + 1)
        return (out[0], out[1]) if found else None

    def unload(self):
        self.device.lib.ptx_unload(self.made)


class Kernel:
    def __init__(self, device, made):
        self.device, self.made = device, made
        out = device.ffi.new("uint32_t[5]")
        device.lib.ptx_describe(made, out)
        n, self.parameter_bytes, self.static_shared, self.max_threads, self.registers = out
        self.parameters = []
        for index in range(n):
            device.lib.ptx_parameter(made, index, out)
            self.parameters.append((out[0], out[1]))

    def pack(self, values):
        """Lay out values (ints, NumPy scalars or bytes) as the kernel's parameters."""
        out = bytearray(self.parameter_bytes)
        assert len(values) == len(self.parameters)
        for (offset, size), value in zip(self.parameters, values, strict=True):
            if isinstance(value, int):
                value = (value % (1 << 8 * size)).to_bytes(size, "little")
            elif not isinstance(value, bytes):
                value = value.tobytes()
            assert len(value) == size
            out[offset : offset + size] = value
        return bytes(out)

    def __call__(self, grid, block, *values, shared=0, threads=1, cooperative=False):
        """Launch and wait; raises PtxError for a fault."""
        dims = [*_three(grid), *_three(block)]
        d = self.device
        code = d.lib.ptx_run(
            d.state, self.made, dims, shared, self.pack(values), threads, cooperative
        )
        if code:
            raise PtxError(code, d.error())


def _three(size):
    size = (size,) if isinstance(size, int) else tuple(size)
    return size + (1,) * (3 - len(size))
