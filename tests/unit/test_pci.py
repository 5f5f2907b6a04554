"""native/pci, compiled for the host, on a simulated bus behind the two configuration ports."""

import pytest
from support.pci_bus import PORTS, Function, connect


@pytest.fixture(scope="module")
def native(compile_native):
    return compile_native(
        "pci",
        PORTS
        + """
        struct pci_function { uint16_t bdf; uint16_t vendor; uint16_t device; uint32_t class24; };
        struct pci_bar { uint64_t address; uint64_t size; bool is_io; };
        uint32_t pci_read(uint16_t bdf, unsigned offset, unsigned size);
        void pci_write(uint16_t bdf, unsigned offset, unsigned size, uint32_t value);
        size_t pci_scan(struct pci_function *found, size_t room);
        bool pci_bar(uint16_t bdf, unsigned index, struct pci_bar *bar);
        void pci_enable(uint16_t bdf);
        void pci_quiesce(void);
        bool pci_use_memory(uintptr_t base, unsigned first, unsigned last);
        """,
    )


@pytest.fixture
def bus(native):
    """A dict of bdf: Function that the ports lead to."""
    return connect(native)


def scan(native, room=64):
    found = native.ffi.new("struct pci_function[]", room)
    count = native.lib.pci_scan(found, room)
    return count, [(f.bdf, f.vendor, f.device, f.class24) for f in found[0 : min(count, room)]]


def region(native, bdf, index):
    bar = native.ffi.new("struct pci_bar *")
    if not native.lib.pci_bar(bdf, index, bar):
        return None
    return bar.address, bar.size, bar.is_io


def test_reads_and_writes_of_each_size(native, bus):
    bus[0x18] = Function()
    assert native.lib.pci_read(0x18, 0, 4) == 0x100E8086
    assert native.lib.pci_read(0x18, 2, 2) == 0x100E
    assert native.lib.pci_read(0x18, 1, 1) == 0x80
    native.lib.pci_write(0x18, 0x3D, 1, 0xAB)
    native.lib.pci_write(0x18, 0x3E, 2, 0x1234)
    assert native.lib.pci_read(0x18, 0x3C, 4) == 0x1234AB00


@pytest.fixture
def memory(native, bus):
    """Configuration space in memory for buses 2 and 3, and its bytes; bdf 0x200 is a bridge."""
    space = native.ffi.new("uint8_t[]", 2 << 20)
    base = int(native.ffi.cast("uintptr_t", space)) - (2 << 20)
    bytes_of = native.ffi.buffer(space)
    bytes_of[:] = b"\xff" * len(bytes_of)
    bytes_of[0:4] = b"\x86\x80\xc0\x29"
    yield base, bytes_of
    bus.clear()
    native.lib.pci_use_memory(base, 3, 2)  # no bus


def test_configuration_space_in_memory(native, bus, memory):
    base, space = memory
    bus[0x18] = Function()
    assert native.lib.pci_use_memory(base, 2, 3)
    assert native.lib.pci_read(0x200, 0, 4) == 0x29C08086
    native.lib.pci_write(0x3FF, 0xFFE, 2, 0x1234)
    assert space[-2:] == b"\x34\x12" and native.lib.pci_read(0x3FF, 0xFFF, 1) == 0x12
    native.lib.pci_write(0x200, 0x100, 4, 0xAABBCCDD)
    native.lib.pci_write(0x200, 0x101, 1, 0)
    assert native.lib.pci_read(0x200, 0x100, 4) == 0xAABB00DD
    # Other buses stay with the ports, which reach 256 bytes.
    assert native.lib.pci_read(0x18, 0, 4) == 0x100E8086
    native.lib.pci_write(0x18, 0x100, 4, 0)
    assert native.lib.pci_read(0x18, 0x100, 4) == 0xFFFFFFFF
    assert native.lib.pci_read(0x18, 0xFFF, 1) == 0xFF
    assert native.lib.pci_read(0x18, 0x3FE, 2) == 0xFFFF


def test_memory_that_shows_another_machine_is_not_used(native, bus, memory):
    base, _ = memory
    bus[0x200] = Function()
    assert not native.lib.pci_use_memory(base, 2, 3)
    assert native.lib.pci_read(0x200, 0, 4) == 0x100E8086


def test_scan_of_an_empty_machine(native, bus):
    assert scan(native) == (0, [])


def test_scan_walks_functions_and_bridges(native, bus):
    bus[0x0000] = Function(device=0x1237, class24=0x060000)
    bus[0x0008] = Function(device=0x7000, class24=0x060100, header=0x80)
    bus[0x0009] = Function(device=0x7010, class24=0x010180)
    bus[0x000B] = Function(device=0x7113, class24=0x068000)
    bus[0x0011] = Function(device=0xDEAD)  # function 1 without function 0: not there
    bridge = bus[0x0018] = Function(device=0x0001, class24=0x060400, header=1)
    bridge.space[0x19] = 5
    bus[0x0518] = Function(device=0x100E)
    loop = bus[0x0520] = Function(device=0x0002, class24=0x060400, header=1)
    loop.space[0x19] = 5  # a bridge to its own bus must not hold the walk for ever
    count, found = scan(native)
    assert count == 7
    assert [bdf for bdf, _, _, _ in found] == [0, 8, 9, 0xB, 0x18, 0x518, 0x520]
    assert found[5] == (0x518, 0x8086, 0x100E, 0x020000)


def test_scan_counts_what_has_no_room(native, bus):
    for device in range(10):
        bus[device << 3] = Function()
    count, found = scan(native, room=4)
    assert count == 10 and len(found) == 4


def test_scan_follows_several_host_bridges(native, bus):
    bus[0x0000] = Function(class24=0x060000, header=0x80)
    bus[0x0001] = Function(class24=0x060000)
    bus[0x0108] = Function(device=0x1111)
    assert [f[0] for f in scan(native)[1]] == [0, 1, 0x108]


def test_memory_and_port_regions(native, bus):
    card = bus[0x18] = Function(
        regions={0: (0xFEB80000, 0xFFFE0000), 1: (0xC001, 0xFFFFFFC0), 2: (0xD001, 0x0000FFE0)}
    )
    card.space[4] = 3
    before = bytes(card.space)
    assert region(native, 0x18, 0) == (0xFEB80000, 0x20000, False)
    assert region(native, 0x18, 1) == (0xC000, 0x40, True)
    assert region(native, 0x18, 2) == (0xD000, 0x20, True)
    assert region(native, 0x18, 3) == (0, 0, False)
    assert region(native, 0x18, 6) is None
    # Everything is as before, and decoding was off meanwhile.
    assert bytes(card.space) == before and not card.decoding_while_sized


def test_wide_regions(native, bus):
    bus[0x18] = Function(
        regions={
            0: (0xE000000C, 0xF0000000),
            1: (0x00000012, 0xFFFFFFFF),
            2: (0x00000004, 0x00000000),
            3: (0x00000004, 0xFFFFFFFC),
        }
    )
    assert region(native, 0x18, 0) == (0x12E0000000, 0x10000000, False)
    assert region(native, 0x18, 1) is None
    # Above 4 GiB, only the upper half shows the size.
    assert region(native, 0x18, 2)[1] == 1 << 34
    assert region(native, 0x18, 3) is None


def test_bridges_have_two_regions(native, bus):
    bus[0x18] = Function(class24=0x060400, header=1, regions={0: (0xF0000000, 0xFFFFF000)})
    assert region(native, 0x18, 0) == (0xF0000000, 0x1000, False)
    assert region(native, 0x18, 2) is None


def test_enable_and_quiesce(native, bus):
    bus[0x00] = Function(class24=0x060000)
    bus[0x18] = Function()
    for function in bus.values():
        function.space[4] = 0x40
    native.lib.pci_enable(0x18)
    assert bus[0x18].space[4] == 0x47
    bus[0x00].space[4] = 0x07
    native.lib.pci_quiesce()
    assert bus[0x18].space[4] == 0x43
    assert bus[0x00].space[4] == 0x07
