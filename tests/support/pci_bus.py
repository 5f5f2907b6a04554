"""A simulated PCI bus behind the two configuration ports of native/pci, compiled for the host."""

import struct
from types import ModuleType

# For the cdef of a module that holds native/pci; connect() fills in the two functions.
PORTS = """
struct pci_ports {
    uint32_t (*in)(uint16_t port, unsigned size);
    void (*out)(uint16_t port, unsigned size, uint32_t value);
};
extern struct pci_ports pci_ports;
extern "Python" uint32_t test_in(uint16_t port, unsigned size);
extern "Python" void test_out(uint16_t port, unsigned size, uint32_t value);
"""

Regions = dict[int, tuple[int, int]]


class Function:
    """One function's configuration space.

    `regions` maps register indices to (value, mask of the bits that can be written).
    """

    def __init__(
        self,
        vendor: int = 0x8086,
        device: int = 0x100E,
        class24: int = 0x020000,
        header: int = 0,
        regions: Regions | None = None,
    ) -> None:
        self.space = bytearray(256)
        struct.pack_into("<HHHH", self.space, 0, vendor, device, 0, 0)
        struct.pack_into("<I", self.space, 8, class24 << 8)
        self.space[0x0E] = header
        self.masks: dict[int, int] = {}
        for index, (value, mask) in (regions or {}).items():
            struct.pack_into("<I", self.space, 0x10 + 4 * index, value)
            self.masks[0x10 + 4 * index] = mask
        self.decoding_while_sized = False

    def write(self, offset: int, size: int, value: int) -> None:
        if offset & 0xFC in range(0x10, 0x28):
            assert size == 4
            if value == 0xFFFFFFFF and self.space[4] & 3:
                self.decoding_while_sized = True
            mask = self.masks.get(offset, 0)
            old = struct.unpack_from("<I", self.space, offset)[0]
            value = (value & mask) | (old & ~mask & 0xF)
        self.space[offset : offset + size] = (value & ((1 << 8 * size) - 1)).to_bytes(
            size, "little"
        )


def connect(native: ModuleType) -> dict[int, Function]:
    """Return a dict of bdf: Function, empty at first, that `native`'s ports lead to from now on."""
    functions: dict[int, Function] = {}
    address = [0]

    @native.ffi.def_extern()
    def test_in(port: int, size: int) -> int:
        assert address[0] & 0x80000000 and port >= 0xCFC and port + size <= 0xD00
        function = functions.get(address[0] >> 8 & 0xFFFF)
        if function is None:
            return (1 << 8 * size) - 1
        offset = (address[0] & 0xFC) + port - 0xCFC
        return int.from_bytes(function.space[offset : offset + size], "little")

    @native.ffi.def_extern()
    def test_out(port: int, size: int, value: int) -> None:
        if port == 0xCF8:
            assert size == 4 and not value & 0x7F000003
            address[0] = value
            return
        function = functions.get(address[0] >> 8 & 0xFFFF)
        if function is not None:
            function.write((address[0] & 0xFC) + port - 0xCFC, size, value)

    native.lib.pci_ports = {"in": native.lib.test_in, "out": native.lib.test_out}
    return functions
