"""virtio_mmio against a model of a slot: the command line, registers, interrupts, both drivers."""

import struct

import _x86
import drivers
import machine
import pci
import pytest
import uctypes
from drivers import dma, virtio_mmio
from test_e1000 import drain
from test_virtio_net import ALL, CSUM, F_MAC, MAC, STATUS, TSO4, VERSION_1, Queue

SLOT = (0xFEB00200, 512, 25)
WORD = "virtio_mmio.device=512@0xfeb00200:25"
# Registers that a modern device has (virtio 1.1, 4.2.2).
READABLE = (0, 4, 8, 0x10, 0x34, 0x44, 0x60, 0x70)


class Slot:
    """A network device in a slot; every register has 32 bits, its configuration any size."""

    def __init__(self, offered=ALL, kind=1, version=2):
        self.offered, self.kind, self.version = offered, kind, version
        self.sent, self.notified, self.refuses, self.up = [], [], 0, True
        self.reset()

    def reset(self):
        self.status = self.features = self.select = self.feature_select = self.isr = 0
        self.queues = [Queue(), Queue()]

    def read(self, offset, size):
        if offset >= 0x100:
            return MAC[offset - 0x100] if offset < 0x106 else int(self.up)
        assert size == 4 and offset in READABLE
        queue = self.queues[self.select] if self.select < 2 else Queue()
        return {
            0: 0x74726976,
            4: self.version,
            8: self.kind,
            0x10: self.offered >> 32 * self.feature_select & 0xFFFFFFFF,
            0x34: queue.size,
            0x44: queue.enabled,
            0x60: self.isr,
            0x70: self.status,
        }[offset]

    def write(self, offset, value, size):
        assert size == 4
        queue = self.queues[self.select]
        if offset in (0x14, 0x24):
            self.feature_select = value
        elif offset == 0x20:
            assert self.status == 3  # 3.1.1: acknowledged, with a driver, nothing more
            self.features |= value << 32 * self.feature_select
        elif offset == 0x30:
            self.select = value
        elif offset == 0x38:
            queue.size = value
        elif offset == 0x44:
            queue.enabled = value
        elif offset == 0x50:
            assert self.status & 4
            self.notified.append(value)
            if value == 1:
                self.transmit()
        elif offset == 0x64:
            self.isr &= ~value
        elif offset == 0x70:
            if value == 0:
                return self.reset()
            assert value & self.status == self.status
            self.status = value & ~self.refuses
        else:
            part, high = divmod(offset - 0x80, 16)
            shift = 32 if high else 0
            queue.at[part] = queue.at[part] & ~(0xFFFFFFFF << shift) | value << shift

    def transmit(self):
        queue = self.queues[1]
        while (taken := queue.take()) is not None:
            index, address, length, _ = taken
            self.sent.append(bytes(uctypes.bytearray_at(address, length)))
            queue.put(index, 0)

    def receive(self, frame):
        index, address, _, _ = self.queues[0].take()
        uctypes.bytearray_at(address, 12 + len(frame))[:] = bytes(12) + frame
        self.queues[0].put(index, 12 + len(frame))
        self.isr |= 1


class Sized:
    def __init__(self, model, size):
        self.model, self.size = model, size

    def read(self, offset):
        return self.model.read(offset, self.size)

    def write(self, offset, value):
        self.model.write(offset, value, self.size)


def plug(monkeypatch, device, line=WORD):
    getattr(dma, "_memory", {}).clear()
    monkeypatch.setattr(pci, "functions", {})
    monkeypatch.setattr(_x86, "line", "crash=exit " + line)
    for size, memory in ((1, machine.mem8), (2, machine.mem16), (4, machine.mem32)):
        memory.attach(SLOT[0], 512, Sized(device, size))
    return device


@pytest.mark.parametrize(
    "word, slot",
    [
        (WORD, SLOT),
        ("virtio_mmio.device=4K@0xd0000000:5", (0xD0000000, 4096, 5)),  # Firecracker's
        ("virtio_mmio.device=0x200@4276092928:12:3", (0xFEE00000, 512, 12)),
    ],
)
def test_words(monkeypatch, word, slot):
    monkeypatch.setattr(_x86, "line", "a=b " + word + " c")
    assert virtio_mmio.slots() == [slot]


@pytest.mark.parametrize(
    "word", ["", "512", "512@", "512@0xfeb00200", "x@1:2", "4@0xfeb00200:5", "1@2:3:4:5", "K@1:2"]
)
def test_words_of_another_form(monkeypatch, word):
    monkeypatch.setattr(_x86, "line", "virtio_mmio.device=" + word + " " + WORD)
    assert virtio_mmio.slots() == [SLOT]


def test_devices_are_found(monkeypatch):
    plug(monkeypatch, Slot())
    assert drivers.find_cards() == [("virtio_net", SLOT)] == drivers.find_cards("feb00200")
    assert drivers.find_cards("virtio_net") == [("virtio_net", SLOT)]
    assert drivers.find_cards("e1000") == [] == drivers.find_disks()
    plug(monkeypatch, Slot(kind=2))
    assert drivers.find_cards() == [] and drivers.find_disks() == [("disk_virtio", SLOT)]
    plug(monkeypatch, Slot(kind=0))  # an empty slot
    assert drivers.find_cards() == [] == drivers.find_disks()


def test_a_card(monkeypatch):
    model = plug(monkeypatch, Slot())
    card = drivers.open_card("virtio_net", SLOT)
    assert model.status == 1 | 2 | 4 | 8
    assert model.features == CSUM | F_MAC | TSO4 | STATUS | VERSION_1
    assert card.mac == MAC and card.irq == 25 and card.link_up() and model.notified == [0]
    assert SLOT[0] + 0x70 in _x86.reset_later
    for number in range(600):
        card.tx_alloc()[:60] = bytes([number & 0xFF]) * 60
        card.tx_commit(60)
    assert model.sent == [bytes(12) + bytes([number & 0xFF]) * 60 for number in range(600)]
    for number in range(600):
        model.receive(bytes([number & 0xFF]) * 60)
        assert drain(card) == [bytes([number & 0xFF]) * 60]
    assert model.isr == 1 and card.interrupt() == 0 and model.isr == 0
    model.isr = 3
    assert card.interrupt() == 4 and model.isr == 0
    card.stop()
    assert model.status == 0
    assert drivers.open_card("virtio_net", SLOT).link_up()


@pytest.mark.parametrize(
    "options, words",
    [
        ({"version": 1}, "version 1 of virtio-mmio"),
        ({"offered": ALL & ~VERSION_1}, "features"),
        ({"offered": ALL & ~F_MAC}, "features"),
    ],
)
def test_devices_that_do_not_fit(monkeypatch, options, words):
    plug(monkeypatch, Slot(**options))
    with pytest.raises(OSError, match=words):
        drivers.open_card("virtio_net", SLOT)


def test_a_device_without_queues(monkeypatch):
    model = plug(monkeypatch, Slot())
    monkeypatch.setattr(Slot, "reset", lambda self: None)
    model.queues[1].size = 0
    model.status = 0
    with pytest.raises(OSError, match="queue 1"):
        drivers.open_card("virtio_net", SLOT)


class DiskSlot(Slot):
    """A disk of 8 sectors that reads as its sectors' numbers."""

    def read(self, offset, size):
        if offset >= 0x100:
            assert size == 4
            return {0x100: 8, 0x104: 0}[offset]
        return super().read(offset, size)

    def write(self, offset, value, size):
        if offset == 0x50:
            return self.work()
        return super().write(offset, value, size)

    def work(self):
        queue = self.queues[0]
        while (taken := queue.take()) is not None:
            kind, _, sector = struct.unpack("<IIQ", bytes(uctypes.bytearray_at(taken[1], 16)))
            parts = []
            for index in (taken[0] + 1, taken[0] + 2):
                data = bytes(uctypes.bytearray_at(queue.at[0] + 16 * index, 12))
                parts.append(struct.unpack("<QI", data))
            (address, length), (status, _) = parts
            if kind == 0:
                for at in range(0, length, 512):
                    uctypes.bytearray_at(address + at, 512)[:] = bytes([sector + at // 512]) * 512
            uctypes.bytearray_at(status, 1)[0] = 0
            queue.put(taken[0], 1)


def test_a_disk(monkeypatch):
    plug(monkeypatch, DiskSlot(VERSION_1, kind=2))
    (disk,) = drivers.open_disks("disk_virtio", SLOT, 0)
    assert disk.sectors == 8 and disk.irq == 25
    data = bytearray(1024)
    disk.read(3, data)
    assert data == b"\3" * 512 + b"\4" * 512
