"""drivers.messages: MSI-X entries, and the machines and devices that have none."""

import struct

import _x86
import pci
import pytest
import uctypes
from drivers import messages

BDF = 0x20
LINE = 11


class Kernel:
    """irq_message(), with room for so many."""

    def __init__(self, room):
        self.room = room
        self.controls = []

    def __call__(self, control):
        if len(self.controls) == self.room:
            raise OSError(28)
        self.controls.append(control)
        return 47 + len(self.controls), 0xFEE00000, 111 + len(self.controls)


@pytest.fixture
def device(monkeypatch):
    """(configuration space, table of two entries) of a function with MSI-X at 0x70, region 1."""
    memory = memoryview(bytearray(0x2000))
    space = bytearray(256)
    struct.pack_into("<H", space, 0x06, 1 << 4)
    space[0x34] = 0x40
    space[0x40:0x42] = bytes([0x09, 0x70])
    struct.pack_into("<BBHI", space, 0x70, 0x11, 0, 1 | 1 << 14, 0x800 | 1)
    space[0x3C] = LINE
    regions = {1: (uctypes.addressof(memory), 0x1000, False)}
    monkeypatch.setattr(pci, "functions", {BDF: (0x1AF4, 0x1041, 0x020000, regions, space)})
    monkeypatch.setattr(messages, "_taken", {})
    return space, memory


def control(space):
    return struct.unpack_from("<H", space, 0x72)[0]


def test_the_first_entry_is_used(device, monkeypatch):
    space, memory = device
    kernel = Kernel(1)
    monkeypatch.setattr(_x86, "irq_message", kernel)
    assert messages.take(BDF) == (48, True)
    assert struct.unpack_from("<IIII", memory, 0x800) == (0xFEE00000, 0, 112, 0)
    assert kernel.controls == [uctypes.addressof(memory) + 0x80C]
    assert control(space) == 1 << 15 | 1  # on, and not masked as a whole
    assert space[4] & 2  # the table can be reached
    # Started again, it has the same, although the kernel has no more.
    memory[0x800:0x80C] = bytes(12)
    assert messages.take(BDF) == (48, True)
    assert struct.unpack_from("<III", memory, 0x800) == (0xFEE00000, 0, 112)


def test_no_message_is_left(device, monkeypatch):
    space, _ = device
    monkeypatch.setattr(_x86, "irq_message", Kernel(0))
    struct.pack_into("<H", space, 0x72, 1 << 15)  # firmware left it on
    assert messages.take(BDF) == (LINE, False)
    assert not control(space) & 1 << 15


def test_what_is_no_table(device, monkeypatch):
    space, _ = device
    kernel = Kernel(9)
    monkeypatch.setattr(_x86, "irq_message", kernel)
    for table in (0x800 | 6, 0x800 | 2, 0x1000 | 1, 0xFF8 | 1):
        struct.pack_into("<I", space, 0x74, table)
        assert messages.take(BDF) == (LINE, False)
    regions = pci.functions[BDF][3]
    regions[1] = (regions[1][0], 0x1000, True)  # ports
    struct.pack_into("<I", space, 0x74, 0x800 | 1)
    assert messages.take(BDF) == (LINE, False)
    assert not kernel.controls


def test_a_list_that_is_a_circle_and_none(device):
    space, _ = device
    space[0x71] = 0x40
    space[0x70] = 0x05
    assert messages.take(BDF) == (LINE, False)
    struct.pack_into("<H", space, 0x06, 0)
    assert messages.take(BDF) == (LINE, False)
