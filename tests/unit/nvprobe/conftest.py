"""native/nvprobe, compiled for the host with native/pci, behind simulated hardware."""

import re

import pytest
from cllm import TOP
from support.pci_bus import PORTS, connect

HEADER = TOP / "native" / "nvprobe" / "nvprobe.h"
HOOKS = """
extern "Python" const volatile uint32_t *test_map(uint64_t address, size_t bytes);
extern "Python" uint32_t test_extended(uint16_t bdf, unsigned offset);
"""


def declarations(text):
    """Turn a header into what cffi's cdef() takes: no preprocessor, constants in their place."""
    text = re.sub(r"#ifdef __cplusplus.*?#endif", "", text, flags=re.DOTALL)
    constants = dict(re.findall(r"^#define (\w+) (\w+)", text, re.MULTILINE))
    text = re.sub(r"^#.*$|//.*$", "", text, flags=re.MULTILINE)
    return re.sub(r"\w+", lambda word: constants.get(word[0], word[0]), text)


@pytest.fixture(scope="session")
def native(compile_native):
    return compile_native(
        "nvprobe", declarations(HEADER.read_text()) + PORTS + HOOKS, uses=("pci",)
    )


class Machine:
    """Functions on a bus, their extended configuration space, and mapped registers."""

    def __init__(self, native):
        self.native = native
        self.bus = connect(native)
        self.extended = {}  # (bdf, offset): value
        self.registers = {}  # address: bytearray
        self.mapped = []

        @native.ffi.def_extern()
        def test_map(address, size):
            self.mapped.append((address, size))
            memory = self.registers.get(address)
            if memory is None:
                return native.ffi.NULL
            assert len(memory) >= size
            return native.ffi.cast("uint32_t *", native.ffi.from_buffer(memory))

        @native.ffi.def_extern()
        def test_extended(bdf, offset):
            assert offset % 4 == 0 and 0x100 <= offset < 0x1000
            return self.extended.get((bdf, offset), 0)

        native.lib.nvprobe_hooks = {
            "map_registers": native.lib.test_map,
            "read_extended": native.lib.test_extended,
        }

    def find(self, room=8):
        """Return (how many there are, the findings that had room)."""
        found = self.native.ffi.new("struct nvprobe_finding[]", room)
        count = self.native.lib.nvprobe_find(found, room)
        return count, [found[i] for i in range(min(count, room))]


@pytest.fixture
def machine(native):
    return Machine(native)
