"""native/nvprobe/push.c: push buffers, read by a mock channel (channel.py)."""

import struct

import pytest
from channel import Channel, Fault
from qmd import OF_GENERATION

CHIPS = {
    "MAXWELL": (0x117, 0x124),
    "PASCAL": (0x130, 0x132),
    "VOLTA": (0x140,),
    "TURING": (0x162,),
    "AMPERE": (0x170, 0x172),
    "ADA": (0x192,),
    "HOPPER": (0x180,),
}
MEMORY, QMD, CONSTANTS, SEMAPHORE, PUSH = (
    0x10_0000,
    0x20_0000,
    0x20_1000,
    0x20_2000,
    0xAB_0000_0000,
)
REGION, PROGRAM = 0x40_0000_0000, 0x40_0000_3000


class Writer:
    """A push buffer of native/nvprobe for a chip, and the channel that gets it."""

    def __init__(self, native, generation, run=None, chip=None, room=1 << 16):
        self.native, self.lib = native, native.lib
        self.number = getattr(native.lib, "NVPROBE_" + generation)
        self.words = native.ffi.new("uint32_t[]", room)
        self.push = native.ffi.new("struct nvprobe_push *")
        self.push.words, self.push.room = self.words, room
        self.chip = native.ffi.new("struct nvprobe_chip *")
        self.chip.id, self.chip.generation = chip or CHIPS[generation][-1], self.number
        self.channel = Channel(generation, run or (lambda launch: None))
        for address, size in ((MEMORY, 1 << 17), (QMD, 1 << 14)):
            self.channel.map(address, bytearray(size))
        self.channel.map(PUSH, self.native.ffi.buffer(self.words))
        self.sent = 0

    def begin(self):
        self.lib.nvprobe_push_begin(self.push, self.chip, REGION)

    def submit(self):
        """Hand what was written since the last time to the channel; return what go() returns."""
        assert not self.push.full
        entry = self.lib.nvprobe_ring_entry(PUSH + 4 * self.sent, self.push.count - self.sent)
        assert entry
        self.sent = self.push.count
        self.channel.submit(entry)
        return self.channel.go()

    def inline(self, to, data):
        self.lib.nvprobe_push_inline(self.push, to, self.native.ffi.from_buffer(data), len(data))

    def launch(self, parameters, grid=(1, 1, 1), block=(32, 1, 1), release=None, shared=0):
        """Put metadata and parameters into the card's memory through the push buffer; launch."""
        layout = self.lib.nvprobe_qmd_layout(self.number)
        constants = bytes(layout.parameters) + parameters
        constants += bytes(-len(constants) % 64)
        c = self.native.ffi.new("struct nvprobe_launch *")
        c.program, c.program_region = PROGRAM, 0 if layout.wide_program else REGION
        c.grid, c.block, c.registers, c.shared = grid, block, 32, shared
        c.bank[0].address, c.bank[0].bytes = CONSTANTS, len(constants)
        if release:
            c.release, c.payload = release
        words = self.native.ffi.new("uint32_t[]", 96)
        assert self.lib.nvprobe_qmd_build(self.number, c, words)
        self.inline(CONSTANTS, constants)
        self.inline(QMD, bytes(self.native.ffi.buffer(words, 4 * layout.words)))
        self.lib.nvprobe_push_launch(self.push, QMD)
        return layout.parameters


@pytest.mark.parametrize("generation", OF_GENERATION)
def test_the_class_is_bound(native, generation):
    for chip in CHIPS[generation]:
        writer = Writer(native, generation, chip=chip)
        writer.begin()
        assert writer.submit()
        assert list(writer.channel.bound) == [native.lib.NVPROBE_SUBCHANNEL_COMPUTE]


def test_classes_of_chips(native):
    found = set()
    for generation, chips in CHIPS.items():
        for chip in chips:
            found.add(native.lib.nvprobe_compute_class(Writer(native, generation, chip=chip).chip))
    assert found == {
        0xB0C0, 0xB1C0, 0xC0C0, 0xC1C0, 0xC3C0, 0xC5C0, 0xC6C0, 0xC7C0, 0xC9C0, 0xCBC0
    }  # fmt: skip


def test_words_of_methods(native):
    writer = Writer(native, "AMPERE")
    values = native.ffi.new("uint32_t[]", [7, 8, 9])
    native.lib.nvprobe_push_methods(writer.push, 3, 0x1234, values, 3)
    native.lib.nvprobe_push_method(writer.push, 1, 0x02BC, 3)
    assert list(writer.words[0 : writer.push.count]) == [
        1 << 29 | 3 << 16 | 3 << 13 | 0x1234 >> 2,
        7,
        8,
        9,
        1 << 29 | 1 << 16 | 1 << 13 | 0x02BC >> 2,
        3,
    ]


@pytest.mark.parametrize("size", [4, 64, 4 * 0x1FFF, 4 * 0x2000, 100_000])
def test_inline_data_arrive(native, size):
    data = bytes(i * 7 & 0xFF for i in range(size))
    writer = Writer(native, "TURING")
    writer.begin()
    writer.inline(MEMORY + 256, data)
    assert writer.submit()
    assert writer.channel.read(MEMORY + 256, size) == data
    assert writer.channel.read(MEMORY + 256 + size, 64) == bytes(64)


@pytest.mark.parametrize("generation", OF_GENERATION)
def test_a_launch_arrives_with_its_parameters(native, generation):
    launches = []
    writer = Writer(native, generation, launches.append)
    writer.begin()
    parameters = struct.pack("<QQIf", 1 << 40, 77, 5, 1.5)
    offset = writer.launch(parameters, (3, 2, 1), (64, 4, 2), (SEMAPHORE, 0x1234), shared=1000)
    writer.lib.nvprobe_push_release(writer.push, writer.number, SEMAPHORE + 4, 0x5678)
    assert writer.submit()
    (launch,) = launches
    assert launch["grid"] == (3, 2, 1) and launch["block"] == (64, 4, 2)
    assert launch["program"] == PROGRAM and launch["shared"] == 1024
    assert launch["constants"][offset : offset + len(parameters)] == parameters
    assert offset == {"MAXWELL": 0x140, "PASCAL": 0x140, "HOPPER": 0x210}.get(generation, 0x160)
    assert writer.channel.word(SEMAPHORE) == 0x1234
    assert writer.channel.word(SEMAPHORE + 4) == 0x5678


@pytest.mark.parametrize("generation", OF_GENERATION)
def test_work_behind_a_semaphore_waits(native, generation):
    launches = []
    writer = Writer(native, generation, launches.append)
    writer.begin()
    writer.lib.nvprobe_push_acquire(writer.push, writer.number, SEMAPHORE, 5)
    writer.launch(b"", release=(SEMAPHORE + 8, 1))
    assert writer.submit() is False and launches == []
    for value, passes in ((4, False), (0x80000004 + 2, False), (6, True)):
        writer.channel.write(SEMAPHORE, struct.pack("<I", value))
        assert writer.channel.go() is passes
    assert len(launches) == 1 and writer.channel.word(SEMAPHORE + 8) == 1


def test_several_push_buffers_in_order(native):
    order = []
    writer = Writer(native, "ADA", lambda launch: order.append(launch["grid"][0]))
    writer.begin()
    writer.submit()
    for i in range(1, 20):
        writer.launch(struct.pack("<I", i), (i, 1, 1))
        writer.submit()
    assert order == list(range(1, 20)) and writer.channel.launches == 19


def test_a_full_push_buffer_stays_as_it_is(native):
    for room in range(3):
        writer = Writer(native, "AMPERE", room=max(room, 1))
        writer.push.room = room
        writer.words[0] = 0xDEAD
        native.lib.nvprobe_push_method(writer.push, 1, 0x100, 7)
        assert writer.push.full is (room < 2)
        assert writer.push.count == (2 if room == 2 else 0)
        assert room == 2 or writer.words[0] == 0xDEAD
        native.lib.nvprobe_push_launch(writer.push, QMD)
        assert writer.push.full


@pytest.mark.parametrize("address", [QMD + 4, QMD + 128, 1 << 40])
def test_metadata_at_an_odd_place(native, address):
    writer = Writer(native, "AMPERE")
    native.lib.nvprobe_push_launch(writer.push, address)
    assert writer.push.full and writer.push.count == 0


def test_what_cannot_be_encoded(native):
    def refused(function, *arguments):
        writer = Writer(native, "AMPERE")
        function(writer.push, *arguments)
        return writer.push.full

    lib, ampere = native.lib, native.lib.NVPROBE_AMPERE
    assert refused(lib.nvprobe_push_release, ampere, SEMAPHORE + 1, 0)
    assert refused(lib.nvprobe_push_acquire, ampere, 1 << 40, 0)
    assert refused(lib.nvprobe_push_inline, MEMORY, b"12345", 5)
    values = native.ffi.new("uint32_t[]", 0x2000)
    assert refused(lib.nvprobe_push_methods, 1, 0x100, values, 0x2000)
    assert refused(lib.nvprobe_push_begin, native.ffi.new("struct nvprobe_chip *"), 0)


def test_ring_entries(native):
    entry = native.lib.nvprobe_ring_entry
    assert entry(0xAB_1234_5678, 3) == 0x1234_5678 | (0xAB | 3 << 10) << 32
    for address, words in ((2, 1), (1 << 40, 1), (0, 0), (0, 1 << 21)):
        assert entry(address, words) == 0
    assert entry(0, (1 << 21) - 1) >> 42 == (1 << 21) - 1


def test_the_mock_faults_on_garbage(native):
    """A decoder that took everything would prove nothing."""
    for word in (0, 7 << 29, 2 << 29, 1 << 29 | 1 << 12, 1 << 29 | 5 << 16):
        writer = Writer(native, "AMPERE")
        writer.words[0], writer.push.count = word, 1
        with pytest.raises(Fault):
            writer.submit()
    writer = Writer(native, "AMPERE")
    native.lib.nvprobe_push_launch(writer.push, QMD)
    with pytest.raises(Fault, match="no class"):
        writer.submit()
    writer = Writer(native, "VOLTA")
    writer.begin()
    native.lib.nvprobe_push_release(writer.push, native.lib.NVPROBE_PASCAL, SEMAPHORE, 1)
    with pytest.raises(Fault):
        writer.submit()
