"""ucuda_open(): QEMU's ivshmem function on a simulated PCI bus, with a worker behind it."""

import importlib.util
import re
import struct

import cffi
import pytest
from cllm import TOP
from support.gpud_library import declarations

EDEINIT, ENODEVICE = 4, 100
UCUDA, PCI = TOP / "native" / "ucuda", TOP / "native" / "pci"
PORTS = """
struct pci_ports {
    uint32_t (*in)(uint16_t port, unsigned size);
    void (*out)(uint16_t port, unsigned size, uint32_t value);
};
extern struct pci_ports pci_ports;
"""


@pytest.fixture(scope="module")
def native(tmp_path_factory, library):
    """ucuda as the image has it: with ivshm.c and native/pci."""
    ffi = cffi.FFI()
    # loop.h is not part of it.
    ffi.cdef(re.sub(r"struct gpud_window \{.*?(?=\n#define)", "", declarations(), flags=re.DOTALL))
    ffi.cdef(PORTS)
    ffi.set_source(
        "_native_ucuda",
        '#include "ucuda.h"\n#include "../pci/pci.h"',
        sources=[str(path) for path in (*UCUDA.glob("*.c"), PCI / "pci.c")],
        include_dirs=[str(UCUDA)],
        extra_compile_args=["-O1", "-Wall", "-Wextra", "-D_GNU_SOURCE"],
    )
    path = ffi.compile(tmpdir=str(tmp_path_factory.mktemp("ucuda")))
    spec = importlib.util.spec_from_file_location("_native_ucuda", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Bus:
    """One function on bus 0, with BAR0 and a 64-bit BAR2."""

    BAR0, BAR2 = 0xFEBF0000, 0x0000000800000000

    def __init__(self, native, vendor=0x1AF4, device=0x1110, size=4 << 20):
        self.native, self.size = native, size
        self.space = bytearray(256)
        struct.pack_into("<HH", self.space, 0, vendor, device)
        struct.pack_into("<I", self.space, 8, 0x05000000)
        struct.pack_into("<IIII", self.space, 0x10, self.BAR0, 0, (self.BAR2 & 0xFFFFFFFF) | 0xC,
                         self.BAR2 >> 32)  # fmt: skip
        self.masks = {0x10: 0xFFFFFF00, 0x18: ~(size - 1) & 0xFFFFFFF0, 0x1C: 0xFFFFFFFF}
        self.address = 0
        # cffi frees callbacks with these.
        self.callbacks = [
            native.ffi.callback("uint32_t(uint16_t, unsigned)")(self.read),
            native.ffi.callback("void(uint16_t, unsigned, uint32_t)")(self.write),
        ]
        native.lib.pci_ports = {"in": self.callbacks[0], "out": self.callbacks[1]}

    def read(self, port, size):
        if self.address >> 8 & 0xFFFF != 0x18:  # 00:03.0
            return (1 << 8 * size) - 1
        at = (self.address & 0xFC) + port - 0xCFC
        return int.from_bytes(self.space[at : at + size], "little")

    def write(self, port, size, value):
        if port == 0xCF8:
            self.address = value
        elif self.address >> 8 & 0xFFFF == 0x18:
            at = (self.address & 0xFC) + port - 0xCFC
            if at in self.masks:
                value = value & self.masks[at] | (0xC if at == 0x18 else 0)
            elif 0x10 <= at < 0x28:
                value = 0
            self.space[at : at + size] = value.to_bytes(size, "little")


@pytest.fixture
def hooks(native):
    """Set the hooks for a memory; yields a function (memory, registers, ring)."""
    kept = []

    def install(memory, registers, ring):
        ffi = native.ffi

        @ffi.callback("void *(uint64_t, size_t)")
        def map_memory(address, size):
            assert (address, size) == (Bus.BAR2, 4 << 20)
            return ffi.cast("void *", memory)

        @ffi.callback("void *(uint64_t, size_t)")
        def map_registers(address, size):
            assert (address, size) == (Bus.BAR0, 256)
            return ffi.from_buffer(registers)

        @ffi.callback("void(void *, unsigned)")
        def pause(_, turn):
            if registers[12:16] != b"\xff\xff\xff\xff":
                assert registers[12:16] == bytes(4)  # gpud is peer 0, and there is one vector
                registers[12:16] = b"\xff\xff\xff\xff"
                ring()

        kept.extend([map_memory, map_registers, pause])
        native.lib.ucuda_hooks = {
            "map_memory": map_memory, "map_registers": map_registers, "pause": pause,
        }  # fmt: skip

    yield install
    native.lib.ucuda_close()
    native.lib.ucuda_hooks = {}


def new_registers(position=1):
    registers = bytearray(256)
    struct.pack_into("<iI", registers, 8, position, 0xFFFFFFFF)
    return registers


def test_it_opens_and_computes(library, native, hooks):
    with library.loop() as transport:
        bus = Bus(native)
        registers = new_registers()
        memory = int(library.ffi.cast("uintptr_t", transport.memory))
        hooks(memory, registers, lambda: transport.ring(transport.user))
        assert native.lib.ucuda_open() == 0
        assert native.lib.ucuda_is_open()
        assert native.lib.ucuda_open() == 0  # again is the same one
        assert bus.space[4] & 7 == 7  # decodes, may master
        address = native.ffi.new("uint64_t *")
        assert native.lib.ucuda_alloc(0, 1000, address) == 0 and address[0]
        assert native.ffi.string(native.lib.ucuda_info().name) == b"ptx"
        native.lib.ucuda_close()
        assert not native.lib.ucuda_is_open()
        assert native.lib.ucuda_alloc(0, 1000, address) == EDEINIT


@pytest.mark.parametrize(
    "vendor, device, size, position",
    [(0x8086, 0x1110, 4 << 20, 1), (0x1AF4, 0x1000, 4 << 20, 1), (0x1AF4, 0x1110, 4096, 1),
     (0x1AF4, 0x1110, 4 << 20, -1)],
)  # fmt: skip
def test_what_is_no_gpud_is_no_device(native, hooks, vendor, device, size, position):
    Bus(native, vendor, device, size)
    hooks(0, new_registers(position), lambda: None)
    assert native.lib.ucuda_open() == ENODEVICE
    assert not native.lib.ucuda_is_open()


def test_without_the_ports_hooks_there_is_no_device(native):
    Bus(native)
    assert native.lib.ucuda_open() == ENODEVICE
