"""The virtio-blk driver against a model of the device: requests, rings, errors, interrupts."""

import struct

import _x86
import disk_models as disks
import drivers
import machine
import pci
import pytest
import uctypes
from drivers import disk_virtio
from test_virtio_net import BASE, COMMON, DEVICE, ISR, NOTIFY, USUAL, Model, Queue, Sized, space

VERSION_1 = 1 << 32
SIZE_MAX, RO, BLK_SIZE, FLUSH = 1 << 1, 1 << 5, 1 << 6, 1 << 9


class BlockModel(Model):
    """A virtio-blk function over a store. hold: requests wait; backwards: they end in reverse."""

    def __init__(self, store, offered=VERSION_1 | BLK_SIZE | FLUSH | SIZE_MAX, size_max=65536):
        self.store, self.size_max = store, size_max
        self.hold, self.backwards, self.raises, self.kinds = False, False, False, []
        super().__init__(offered)

    def reset(self):
        super().reset()
        self.queues = [Queue()]

    def read(self, offset, size):
        if offset < DEVICE:
            if COMMON <= offset < ISR and self.select:
                return 0
            return super().read(offset, size)
        assert size == 4
        capacity = len(self.store.data) // 512
        return {0: capacity, 4: 0, 8: self.size_max, 20: self.store.sector}[offset - DEVICE]

    def write(self, offset, value, size):
        if offset < NOTIFY:
            return super().write(offset, value, size)
        assert size == 2 and value == 0 and self.status & 4
        if not self.hold:
            self.work()

    def work(self):
        queue, done = self.queues[0], []
        while (taken := queue.take()) is not None:
            done.append((taken[0], self.request(self.chain(taken[0]))))
        for index, length in reversed(done) if self.backwards else done:
            queue.put(index, length)
            self.isr |= 1
        if done and queue.word(1, 0) == 0 and self.raises:
            _x86.raise_irq(10)

    def chain(self, index):
        found = []
        while True:
            data = bytes(uctypes.bytearray_at(self.queues[0].at[0] + 16 * index, 16))
            address, length, flags, following = struct.unpack("<QIHH", data)
            found.append((address, length, flags & 2))
            if not flags & 1:
                return found
            index = following

    def request(self, chain):
        header, *data, status = chain
        assert header[1] == 16 and not header[2] and status[1] == 1 and status[2]
        kind, _, sector = struct.unpack("<IIQ", bytes(uctypes.bytearray_at(header[0], 16)))
        self.kinds.append(kind)
        store, result = self.store, 0
        lba = sector * 512 // store.sector
        if kind == 8:
            uctypes.bytearray_at(data[0][0], 20)[:] = b"serial-7" + bytes(12)
        elif kind == 4:
            assert not data
            store.flushes += 1
        else:
            address, length, writable = data[0]
            assert len(data) == 1 and bool(writable) == (kind == 0) and length <= self.size_max
            if store.is_bad(lba, length):
                result = 1
            elif kind == 0:
                store.read(lba, address, length)
            else:
                store.write(lba, address, length)
        uctypes.bytearray_at(status[0], 1)[0] = result
        return 1


def plug(monkeypatch, device):
    function = (0x1AF4, 0x1001, 0x010000, {4: (BASE, 0x4000, False)}, space(*USUAL))
    monkeypatch.setattr(pci, "functions", {0x20: function})
    for size, memory in ((1, machine.mem8), (2, machine.mem16), (4, machine.mem32)):
        memory.attach(BASE, 0x4000, Sized(device, size))
    return device


@pytest.fixture
def store():
    disks.forget()
    return disks.Store(2048)


@pytest.fixture
def model(monkeypatch, store):
    return plug(monkeypatch, BlockModel(store))


@pytest.fixture
def disk(model):
    found = drivers.find_disks()
    assert found == [("disk_virtio", 0x20)]
    (disk,) = drivers.open_disks(found[0][0], found[0][1], 3)
    return disk


def test_start(model, disk, store):
    assert disk.name == "virtio3" and disk.serial == "serial-7" and not disk.readonly
    assert (disk.sector, disk.sectors, disk.depth, disk.largest) == (512, 2048, 8, 65536)
    assert model.features == VERSION_1 | BLK_SIZE | FLUSH | SIZE_MAX
    assert model.status == 15 and drivers.unknown_disks() == []


def test_polled(disk, store):
    disks.check_polled(disk, store)


def test_sectors_of_4_kib_and_read_only(monkeypatch):
    disks.forget()
    store = disks.Store(128, 4096)
    model = plug(monkeypatch, BlockModel(store, VERSION_1 | BLK_SIZE | RO))
    (disk,) = disk_virtio.open_disks(0x20, "vd")
    assert (disk.sector, disk.sectors, disk.largest) == (4096, 128, 1 << 20)
    view = bytearray(8192)
    disk.read(3, view)
    assert view[:4] == b"\3\0\0\0" and view[4096:4100] == b"\4\0\0\0"
    with pytest.raises(OSError):
        disk.write(0, bytearray(4096))
    disk.flush()
    assert 1 not in model.kinds and 4 not in model.kinds


def test_without_flush_what_is_written_lasts(monkeypatch, store):
    model = plug(monkeypatch, BlockModel(store, VERSION_1))
    (disk,) = disk_virtio.open_disks(0x20, "vd")
    disk.write(1, b"x" * 512)
    disk.flush()
    assert model.kinds.count(4) == 0 and bytes(store.data[512:514]) == b"xx"


def test_around_the_16_bits(disk, store):
    view = bytearray(512)
    for number in range(66_000):
        disk.read(number & 1023, view)
        assert view[0] == number & 0xFF


def test_out_of_order_and_several_at_a_time(model, disk, store):
    model.hold, model.backwards = True, True
    starts = []
    start = disk._start

    def noted(slot, *rest):
        starts.append(slot)
        start(slot, *rest)
        # All but one slot are in use, or it is the last piece: now they end, last first.
        if len(disk._free) == 1 or len(starts) == 16:
            model.work()

    disk._start = noted
    seen = []
    disks.reads(disk, store, 0, 16 * 65536, seen.append)
    assert len(starts) == 16 and seen[-1] == 16 * 65536 and seen == sorted(seen)
    assert sorted(disk._free) == list(range(8))


def test_reading_waits_for_the_interrupt(model, disk, store):
    model.hold = model.raises = True
    wait = disk._wait
    waits = []

    async def waiting(reader):
        waits.append(1)
        interrupts = disk._interrupts

        def armed(wanted):
            interrupts(wanted)
            if wanted:
                assert model.queues[0].word(1, 0) == 0
                disk._interrupts = interrupts
                model.work()

        disk._interrupts = armed
        await wait(reader)

    disk._wait = waiting
    disks.reads(disk, store, 16, 8 * 65536)
    assert waits and model.isr == 0 and model.queues[0].word(1, 0) == 1
    assert 10 not in _x86._lines


def test_errors(disk, store):
    disks.check_errors(disk, store)


def test_a_device_that_does_not_answer(model, disk, monkeypatch):
    model.hold = True
    disks.check_silence(disk, monkeypatch, lambda: model.status == 0)


def test_a_call_in_the_middle_of_another(disk):
    reap = disk._reap

    def callback():
        disk._reap = reap
        with pytest.raises(OSError) as caught:
            disk.read(0, bytearray(512))
        assert caught.value.errno == 16
        reap()

    disk._reap = callback
    disk.read(1, bytearray(512))
