"""native/nvprobe/find.c: cards on a simulated bus, and what their registers say."""

import struct

import pytest
import rom_images as rom
from support.pci_bus import Function

ROM = 0x300000
REGISTERS = 16 << 20


def card(device=0x2204, class24=0x030000, decodes=True, bar1=256 << 20, at=0xF0):
    """A function with an NVIDIA card's regions: 0 is 32 bits wide, 1 and 3 are 64."""
    function = Function(
        vendor=0x10DE,
        device=device,
        class24=class24,
        regions={
            0: (at << 24, -REGISTERS & 0xFFFFFFFF),
            1: (0x0000000C, -bar1 & 0xFFFFFFFF),
            2: (0x00000010, -bar1 >> 32 & 0xFFFFFFFF),
            3: (0x0000000C, -(32 << 20) & 0xFFFFFFFF),
            4: (0x00000020, 0xFFFFFFFF),
            5: (0xE001, 0xFFFFFF80),
        },
    )
    function.space[4] = 2 if decodes else 0
    return function


def with_registers(machine, boot0, boot42=0, at=0xF0, rom_bytes=b""):
    memory = bytearray(REGISTERS)
    struct.pack_into("<I", memory, 0, boot0)
    struct.pack_into("<I", memory, 0xA00, boot42)
    memory[ROM : ROM + len(rom_bytes)] = rom_bytes
    machine.registers[at << 24] = memory
    return memory


def test_no_card(machine):
    machine.bus[0x08] = Function()
    machine.bus[0x10] = Function(vendor=0x1234, class24=0x030000)  # another maker's
    machine.bus[0x18] = Function(vendor=0x10DE, class24=0x040300)  # a card's sound
    assert machine.find() == (0, [])


def test_a_card_and_its_regions(machine, native):
    function = machine.bus[0x100] = card()
    bridge = machine.bus[0x10] = Function(class24=0x060400, header=1)
    bridge.space[0x19] = 1
    with_registers(machine, 0x172000A1, 0x172A1000)
    before = bytes(function.space)
    count, (found,) = machine.find()
    assert count == 1 and (found.bdf, found.device) == (0x100, 0x2204)
    assert found.registers == 0xF0000000 and found.bar0 == REGISTERS
    assert found.bar1 == 256 << 20 and found.bar3 == 32 << 20
    assert bytes(function.space) == before and not function.decoding_while_sized


@pytest.mark.parametrize("gib", [4, 16, 128])
def test_regions_beyond_4_gib(machine, gib):
    machine.bus[0x08] = card(bar1=gib << 30)
    assert machine.find()[1][0].bar1 == gib << 30


def test_3d_controllers_count_and_room_does_not_limit_the_count(machine):
    for i in range(5):
        machine.bus[i << 3] = card(class24=0x030200)
    count, found = machine.find(room=2)
    assert count == 5 and [f.bdf for f in found] == [0, 8]


BOOTS = [
    (0x117000A2, "GM107", "Maxwell"),
    (0x124000A1, "GM204", "Maxwell"),
    (0x132000A1, "GP102", "Pascal"),
    (0x140000A1, "GV100", "Volta"),
    (0x164000A1, "TU104", "Turing"),
    (0x167000A1, "TU117", "Turing"),
    (0x170000A1, "GA100", "Ampere"),
    (0x172000A1, "GA102", "Ampere"),
    (0x180000A1, "GH100", "Hopper"),
    (0x192000A1, "AD102", "Ada"),
]


@pytest.mark.parametrize("boot0, name, generation", BOOTS)
def test_chips(native, boot0, name, generation):
    chip = native.ffi.new("struct nvprobe_chip *")
    boot42 = (boot0 & 0x1FF00000) | (boot0 & 0xFF) << 12
    for second in (boot42, 0, 0xFFFFFFFF, 0xBADF1100):
        assert native.lib.nvprobe_chip(boot0, second, chip)
        assert native.ffi.string(chip.name).decode() == name
        text = native.lib.nvprobe_generation_name(chip.generation)
        assert native.ffi.string(text).decode() == generation
        assert (chip.id, chip.revision) == (boot0 >> 20, boot0 & 0xFF)
    assert not native.lib.nvprobe_chip(boot0, boot42 ^ 1 << 20, chip)


@pytest.mark.parametrize("boot0", [0, 0xFFFFFFFF, 0xBADF1002, 0xBAD00100])
def test_nothing_answers(native, boot0):
    assert not native.lib.nvprobe_chip(boot0, 0, native.ffi.new("struct nvprobe_chip *"))


def test_chips_that_are_not_in_the_table(native):
    chip = native.ffi.new("struct nvprobe_chip *")
    # An implementation without a name, then an architecture that needs the top bit at bit 8.
    assert native.lib.nvprobe_chip(0x17F000A1, 0, chip)
    assert chip.name == native.ffi.NULL and chip.generation == native.lib.NVPROBE_AMPERE
    assert native.lib.nvprobe_chip(0x020001A1, 0x222000A1 & 0x3FF00000, chip) is False
    assert native.lib.nvprobe_chip(0x022001A1 | 2 << 24, 0x22200000, chip)
    assert chip.id == 0x222 and chip.generation == native.lib.NVPROBE_UNKNOWN


def test_the_registers_of_a_card_are_read(machine, native):
    machine.bus[0x08] = card()
    with_registers(machine, 0x172000A1, 0x172A1000)
    found = machine.find()[1][0]
    assert found.answered and native.ffi.string(found.chip.name) == b"GA102"
    assert machine.mapped == [(0xF0000000, ROM + (1 << 20))]


def test_registers_are_not_read_where_the_card_does_not_decode(machine):
    machine.bus[0x08] = card(decodes=False)
    with_registers(machine, 0x172000A1)
    assert not machine.find()[1][0].answered and machine.mapped == []


def test_a_card_that_cannot_be_mapped_or_without_hooks(machine, native):
    machine.bus[0x08] = card()
    assert not machine.find()[1][0].answered
    native.lib.nvprobe_hooks = {"map_registers": native.ffi.NULL, "read_extended": native.ffi.NULL}
    count, (found,) = machine.find()
    assert count == 1 and not found.answered and found.bar1_sizes == 0


def capabilities(machine, bdf, entries):
    """entries: (offset, capability id, next, words after the header)."""
    for offset, number, following, words in entries:
        machine.extended[bdf, offset] = number | 1 << 16 | following << 20
        for i, word in enumerate(words):
            machine.extended[bdf, offset + 4 + 4 * i] = word


def test_resizable_regions(machine):
    machine.bus[0x08] = card()
    sizes = 0x3FC0 << 4  # 64 MiB to 8 GiB
    capabilities(
        machine, 8, [(0x100, 1, 0x148, []), (0x148, 0x15, 0xBB0, [sizes, 1 << 5 | 8 << 8 | 1])]
    )
    assert machine.find()[1][0].bar1_sizes == 0x3FC0


def test_resizable_regions_of_several_and_large_sizes(machine, native):
    words = [0x10 << 4, 2 << 5 | 0, 0xF000_0000 | 0x40 << 4, 3 << 16 | 1]
    capabilities(machine, 8, [(0x100, 0x15, 0, words)])
    assert native.lib.nvprobe_resizable(8, 0) == 0x10
    assert native.lib.nvprobe_resizable(8, 1) == 0xF000040 | 3 << 28
    assert native.lib.nvprobe_resizable(8, 3) == 0


@pytest.mark.parametrize(
    "entries",
    [
        [],  # no extended capabilities
        [(0x100, 0xFFFF, 0xFFF, [])],
        [(0x100, 1, 0x100, [])],  # a loop
        [(0x100, 1, 0x200, []), (0x200, 2, 0x100, [])],
        [(0x100, 1, 0x40, [])],  # back into the first 256 bytes
        [(0x100, 1, 0xFFC, []), (0xFFC, 0x15, 0, [])],  # cut off by the space's end
        [(0x100, 0x15, 0, [0xFFF0, 7 << 5 | 1])],  # more regions than there are
        [(0x100, 0x15, 0, [0xFFF0, 0 << 5 | 1])],  # none
    ],
)
def test_lists_that_lead_nowhere(machine, native, entries):
    capabilities(machine, 8, entries)
    assert native.lib.nvprobe_resizable(8, 1) == 0


def test_reading_the_rom(machine, native):
    machine.bus[0x08] = card()
    data = rom.whole()
    with_registers(machine, 0x172000A1, rom_bytes=data + b"\xff" * 100)
    found = native.ffi.new("struct nvprobe_finding[]", 1)
    assert native.lib.nvprobe_find(found, 1) == 1
    memory = native.ffi.new("uint8_t[]", 1 << 20)
    assert native.lib.nvprobe_read_rom(found, memory, 1 << 20) == len(data)
    assert bytes(memory[0 : len(data)]) == data
    # A room that is too small shortens the chain to the images that fit.
    assert native.lib.nvprobe_read_rom(found, memory, 20 * 1024) == 40 * rom.BLOCK
    assert native.lib.nvprobe_read_rom(found, memory, 3) == 0
    with_registers(machine, 0x172000A1)
    assert native.lib.nvprobe_read_rom(found, memory, 1 << 20) == 0
