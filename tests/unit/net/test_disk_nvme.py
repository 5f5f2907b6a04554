"""The NVMe driver against a model of a controller: queues, lists of pages, errors, namespaces."""

import struct

import disk_models as disks
import drivers
import machine
import pci
import pytest
import uctypes

BASE = 0xFE000000
PAGE = 4096


class Model:
    """A controller over stores, one a namespace. hold: I/O waits; backwards: it ends in reverse."""

    def __init__(self, *stores, mdts=5, stride=0):
        self.stores, self.mdts, self.stride = stores, mdts, stride
        self.hold = self.backwards = self.stuck = False
        self.queues_most = 4
        self.configuration = self.aqa = 0
        self.where = {0x28: 0, 0x2C: 0, 0x30: 0, 0x34: 0}
        self.masked, self.lists = None, 0
        self.queues, self.pending = {}, []

    def read(self, offset):
        return {
            0x00: 63 | 1 << 24,
            0x04: self.stride,
            0x1C: 0 if self.stuck else self.configuration & 1,
            0x14: self.configuration,
        }[offset]

    def write(self, offset, value):
        if offset == 0x14:
            self.configuration = value
            if value & 1:
                assert value == 6 << 16 | 4 << 20 | 1
                size = (self.aqa & 0xFFF) + 1
                sq, cq = [self.where[at] | self.where[at + 4] << 32 for at in (0x28, 0x30)]
                self.queues = {0: [sq, cq, size, 0, 0, 1]}
            else:
                self.queues = {}
        elif offset == 0x24:
            self.aqa = value
        elif offset in self.where:
            self.where[offset] = value
        elif offset in (0x0C, 0x10):
            self.masked = offset == 0x0C
        else:
            number, part = divmod((offset - 0x1000) // (4 << self.stride), 2)
            if part == 0:
                self.work(number, value)

    def work(self, number, tail):
        queue = self.queues[number]
        while queue[3] != tail:
            entry = bytes(uctypes.bytearray_at(queue[0] + 64 * queue[3], 64))
            queue[3] = (queue[3] + 1) % queue[2]
            if number == 0:
                self.complete(0, entry, self.admin(entry))
            else:
                self.pending.append((number, entry))
        if not self.hold:
            self.finish()

    def finish(self):
        done, self.pending = self.pending, []
        for number, entry in reversed(done) if self.backwards else done:
            self.complete(number, entry, self.io(entry))

    def complete(self, number, entry, status):
        queue = self.queues[number]
        _, at, size, head, tail, phase = queue
        word = struct.unpack("<I", entry[:4])[0] >> 16 | phase << 16 | status << 17
        data = struct.pack("<IIII", 0, 0, head | number << 16, word)
        uctypes.bytearray_at(at + 16 * tail, 16)[:] = data
        queue[4] = (tail + 1) % size
        queue[5] = phase ^ (queue[4] == 0)

    def admin(self, entry):
        opcode, number = entry[0], struct.unpack_from("<I", entry, 4)[0]
        prp1, _, cdw10, cdw11 = struct.unpack_from("<QQII", entry, 24)
        if opcode == 6:
            uctypes.bytearray_at(prp1, PAGE)[:] = self.identify(cdw10, number)
        elif opcode in (1, 5):
            queue, size = cdw10 & 0xFFFF, (cdw10 >> 16) + 1
            if queue > self.queues_most:
                return 0x101
            if opcode == 5:
                assert cdw11 == 3
                self.queues[queue] = [0, prp1, size, 0, 0, 1]
            else:
                assert cdw11 == queue << 16 | 1 and self.queues[queue][2] == size
                self.queues[queue][0] = prp1
        else:
            assert opcode == 9 and cdw10 == 7
        return 0

    def identify(self, what, number):
        data = bytearray(PAGE)
        if what == 1:
            data[4:24] = b"cllm7               "
            data[77] = self.mdts
        elif what == 2:
            numbers = range(1, len(self.stores) + 1)
            data[: 4 * len(self.stores)] = struct.pack("<%dI" % len(self.stores), *numbers)
        else:
            store = self.stores[number - 1]
            data[:8] = struct.pack("<Q", store.sectors)
            data[26] = 1
            shift = {512: 9, 4096: 12, 8192: 13}[store.sector]
            data[132:136] = struct.pack("<I", shift << 16)
        return data

    def io(self, entry):
        opcode, number = entry[0], struct.unpack_from("<I", entry, 4)[0]
        prp1, prp2, lba, count = struct.unpack_from("<QQQI", entry, 24)
        store = self.stores[number - 1]
        if opcode == 0:
            store.flushes += 1
            return 0
        size = (count + 1) * store.sector
        assert size <= PAGE << self.mdts
        if store.is_bad(lba, size):
            return 0x281
        pieces = self.pages(prp1, prp2, size)
        for address, length in pieces:
            (store.read if opcode == 2 else store.write)(lba, address, length)
            lba += length // store.sector
        return 0

    def pages(self, prp1, prp2, size):
        """[(address, bytes)] of what an entry describes (4.3)."""
        pieces = [(prp1, min(size, PAGE - prp1 % PAGE))]
        left = size - pieces[0][1]
        if left > PAGE:
            self.lists += 1
            count = -(-left // PAGE)
            following = struct.unpack("<%dQ" % count, bytes(uctypes.bytearray_at(prp2, 8 * count)))
        else:
            following = (prp2,)
        for address in following if left else ():
            assert address % PAGE == 0 and left > 0
            pieces.append((address, min(left, PAGE)))
            left -= pieces[-1][1]
        assert left == 0
        return pieces


def plug(monkeypatch, model):
    space = bytearray(256)
    space[0x3C] = 11
    function = (0x1B36, 0x0010, 0x010802, {0: (BASE, 0x4000, False)}, space)
    monkeypatch.setattr(pci, "functions", {0x28: function})
    machine.mem32.attach(BASE, 0x4000, model)
    disks.forget()
    return model


def open_all():
    found = drivers.find_disks()
    assert found == [("disk_nvme", 0x28)]
    return drivers.open_disks(found[0][0], found[0][1], 0)


@pytest.fixture
def store():
    return disks.Store(4096)


@pytest.fixture
def model(monkeypatch, store):
    return plug(monkeypatch, Model(store))


@pytest.fixture
def disk(model):
    (disk,) = open_all()
    return disk


def test_start(model, disk):
    assert disk.name == "nvme0" and disk.serial == "cllm7" and disk.irq == 11
    assert (disk.sector, disk.sectors, disk.largest) == (512, 4096, 131072)
    assert model.masked is True and pci.read(0x28, 4, 2) & 4


def test_polled(disk, store):
    disks.check_polled(disk, store)


def test_around_the_rings(disk, store):
    view = bytearray(512)
    for number in range(1000):
        disk.read(number, view)
        assert view[:2] == (number).to_bytes(2, "little")


@pytest.mark.parametrize("backwards", [False, True])
def test_several_at_a_time_in_any_order(model, disk, store, backwards):
    model.hold, model.backwards = True, backwards
    starts = []
    start = disk._start

    def noted(slot, *rest):
        starts.append(slot)
        start(slot, *rest)
        if len(disk._free) == 1 or len(starts) == 15:
            model.finish()

    disk._start = noted
    disks.reads(disk, store, 0, 15 * 131072)
    assert len(starts) == 15 and model.lists == 15 and model.masked


def test_memory_that_does_not_begin_a_page(disk, store, model):
    view, address = disks.memory(1 << 18)
    for offset, size in ((512, 512), (512, 4096), (3584, 1024), (512, 8192), (1024, 131072)):
        disks.run(disk.read_physical(3, address + offset, size))
        assert bytes(view[offset : offset + size]) == bytes(store.data[1536 : 1536 + size])


def test_errors(disk, store):
    disks.check_errors(disk, store)
    store.bad.add(4)
    with pytest.raises(OSError, match="media error 81h"):
        disk.read(4, bytearray(512))


def test_reading_is_woken(model, disk, store):
    model.hold = True
    wait = disk._wait

    async def waiting(reader):
        interrupts = disk._interrupts

        def armed(wanted):
            interrupts(wanted)
            if wanted:
                assert model.masked is False
                disk._interrupts = interrupts
                model.finish()

        disk._interrupts = armed
        await wait(reader)

    disk._wait = waiting
    disks.reads(disk, store, 16, 8 * 65536)
    assert model.masked


def test_a_controller_that_does_not_answer(model, disk, monkeypatch):
    model.hold = True
    disks.check_silence(disk, monkeypatch, lambda: model.configuration == 0)


def test_a_controller_that_does_not_start(monkeypatch, store):
    model = plug(monkeypatch, Model(store))
    model.stuck = True
    with pytest.raises(OSError, match="not ready"):
        open_all()


def test_namespaces(monkeypatch):
    stores = [disks.Store(64), disks.Store(32, 4096), disks.Store(16), disks.Store(8)]
    plug(monkeypatch, Model(*stores, stride=2, mdts=0))
    found = open_all()
    assert [disk.name for disk in found] == ["nvme0", "nvme0n2", "nvme0n3", "nvme0n4"]
    assert [disk.sector for disk in found] == [512, 4096, 512, 512]
    assert found[0].largest == 1 << 20
    for disk, store in zip(found, stores):
        view = bytearray(disk.sector)
        disk.read(5, view)
        assert view[0] == 5 and disk.sectors == store.sectors


def test_more_namespaces_than_queues(monkeypatch):
    model = plug(monkeypatch, Model(disks.Store(64), disks.Store(64)))
    model.queues_most = 1
    assert len(open_all()) == 1


def test_sectors_of_a_size_that_nothing_here_uses(monkeypatch):
    plug(monkeypatch, Model(disks.Store(8, 8192)))
    with pytest.raises(OSError, match="8192"):
        open_all()


def test_stop_and_start_again(model, disk, store):
    disk.stop()
    assert model.configuration == 0
    (disk,) = open_all()
    disks.reads(disk, store, 0, 131072)
