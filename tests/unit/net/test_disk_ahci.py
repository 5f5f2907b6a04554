"""The AHCI driver against a model of a controller: ports, slots, errors and their recovery."""

import struct

import disk_models as disks
import drivers
import machine
import pci
import pytest
import uctypes

BASE = 0xFE000000


class Port:
    """A port, with a disk over a store or with nothing."""

    def __init__(self, store=None, signature=0x101):
        self.store, self.signature = store, signature
        self.registers = dict.fromkeys(range(0, 0x40, 4), 0)
        self.issued = self.interrupts = 0
        self.commands = []
        self.halted = False
        self.reset()

    def reset(self):
        self.registers[0x18] = 0
        self.registers[0x20] = 0x80 if self.store else 0x7F
        self.registers[0x28] = 0x123 if self.store else 0
        self.issued = self.interrupts = 0
        self.halted = False


class Model:
    """hold: commands wait. stops: an error stops a port with its slots, as hardware does; QEMU 7.2
    takes the failed one out of the register and goes on.
    """

    def __init__(self, *ports, slots=32, stops=True):
        self.ports, self.slots, self.stops = ports, slots, stops
        self.hold, self.control, self.bios = False, 0, True
        self.capabilities = 1 << 31 | (slots - 1) << 8 | len(ports) - 1

    def read(self, offset):
        if offset >= 0x100:
            return self.read_port(self.ports[(offset - 0x100) // 0x80], offset & 0x7F)
        interrupts = 0
        for number, port in enumerate(self.ports):
            interrupts |= bool(port.interrupts & port.registers[0x14]) << number
        return {
            0x00: self.capabilities,
            0x04: self.control,
            0x08: interrupts,
            0x0C: (1 << len(self.ports)) - 1,
            0x24: 1,
            0x28: self.bios | 2 * (not self.bios),
        }[offset]

    def read_port(self, port, offset):
        if offset == 0x10:
            return port.interrupts
        if offset == 0x24:
            return port.signature
        if offset == 0x38:
            return port.issued
        return port.registers[offset]

    def write(self, offset, value):
        if offset >= 0x100:
            self.write_port(self.ports[(offset - 0x100) // 0x80], offset & 0x7F, value)
        elif offset == 0x28:
            self.bios = False
        elif offset == 0x04:
            assert not self.bios and value & 1 << 31
            if value & 1:
                for port in self.ports:
                    port.reset()
            self.control = value & ~1

    def write_port(self, port, offset, value):
        if offset == 0x10:
            port.interrupts &= ~value
        elif offset == 0x18:
            assert not value & 1 or (value & 16 and not port.registers[0x20] & 0x88)
            if value & 16 and not port.registers[0x18] & 16 and port.store:
                port.registers[0x20] = 0x50
            if not value & 1:
                port.issued, port.halted = 0, False
            running = (value & 1) << 15 | (value & 16) << 10
            port.registers[0x18] = value & 0xFFFF3FFF | running
        elif offset == 0x38:
            assert port.registers[0x18] & 1
            port.issued |= value
            if not self.hold:
                self.work(port)
        else:
            port.registers[offset] = value

    def work(self, port):
        for slot in range(32):
            if port.issued >> slot & 1 and not port.halted:
                error = self.command(port, slot)
                port.registers[0x20] = 0x51 | error << 8 if error else 0x50
                port.interrupts |= 1 << 30 | 1 if error else 1
                if error and self.stops:
                    port.halted = True
                else:
                    port.issued &= ~(1 << slot)

    def command(self, port, slot):
        registers, store = port.registers, port.store
        headers = registers[0] | registers[4] << 32
        header = uctypes.bytearray_at(headers + 32 * slot, 32)
        flags, _, table = struct.unpack("<IIQ", bytes(header[:16]))
        assert slot < self.slots and flags & 31 == 5 and table % 128 == 0
        fis = bytes(uctypes.bytearray_at(table, 20))
        kind, control, command, _, low, high, count = struct.unpack("<BBBBIIH", fis[:14])
        assert (kind, control) == (0x27, 0x80)
        port.commands.append(command)
        lba = low & 0xFFFFFF | (high & 0xFFFFFF) << 24
        address, size = 0, 0
        if flags >> 16:
            region = bytes(uctypes.bytearray_at(table + 128, 16))
            address, _, size = struct.unpack("<QII", region)
            size += 1
        if command == 0xEC:
            uctypes.bytearray_at(address, 512)[:] = identity(store)
        elif command == 0xEA:
            assert not size
            store.flushes += 1
        else:
            assert low >> 24 == 0x40 and size == count * store.sector
            assert command == (0x35 if flags & 1 << 6 else 0x25)
            if store.is_bad(lba, size):
                return 0x40
            (store.write if command == 0x35 else store.read)(lba, address, size)
        return 0


def identity(store):
    words = [0] * 256
    for number in range(10):
        pair = b"cllm-disk-9         "[2 * number : 2 * number + 2]
        words[10 + number] = pair[0] << 8 | pair[1]
    words[83] = 1 << 10 | 1 << 13
    for number in range(4):
        words[100 + number] = store.sectors >> 16 * number & 0xFFFF
    if store.sector != 512:
        words[106] = 0x5000
        words[117] = store.sector // 2
    return struct.pack("<256H", *words)


def plug(monkeypatch, model):
    space = bytearray(256)
    space[0x3C] = 9
    function = (0x8086, 0x2922, 0x010601, {5: (BASE, 0x1100, False)}, space)
    monkeypatch.setattr(pci, "functions", {0xFA: function})
    machine.mem32.attach(BASE, 0x1100, model)
    disks.forget()
    return model


def open_all():
    found = drivers.find_disks()
    assert found == [("disk_ahci", 0xFA)]
    return drivers.open_disks(found[0][0], found[0][1], 0)


@pytest.fixture
def store():
    return disks.Store(20000)


@pytest.fixture
def model(monkeypatch, store):
    return plug(monkeypatch, Model(Port(), Port(store), Port(disks.Store(8), 0xEB140101)))


@pytest.fixture
def disk(model):
    (disk,) = open_all()
    return disk


def test_start(model, disk):
    assert disk.name == "ahci0" and disk.serial == "cllm-disk-9" and disk.irq == 9
    assert (disk.sector, disk.sectors, disk.depth) == (512, 20000, 8)
    assert not model.bios and model.control & 2 and model.ports[1].registers[0x14] == 0


def test_polled(disk, store, model):
    disks.check_polled(disk, store)
    assert set(model.ports[1].commands) == {0xEC, 0x25, 0x35, 0xEA}


def test_two_disks_of_other_sectors_and_few_slots(monkeypatch):
    stores = [disks.Store(64, 4096), disks.Store(3000)]
    plug(monkeypatch, Model(*[Port(store) for store in stores], slots=2))
    found = open_all()
    assert [disk.name for disk in found] == ["ahci0", "ahci0p1"]
    assert [(disk.sector, disk.depth) for disk in found] == [(4096, 2), (512, 2)]
    for disk, store in zip(found, stores):
        disks.reads(disk, store, 4, 32 * 4096)


def test_several_at_a_time(model, disk, store):
    model.hold = True
    starts = []
    start = disk._start
    disk.largest = 65536

    def noted(slot, *rest):
        starts.append(slot)
        start(slot, *rest)
        if len(disk._free) == 1 or len(starts) == 16:
            model.work(model.ports[1])

    disk._start = noted
    disks.reads(disk, store, 0, 16 * 65536)
    assert len(starts) == 16 and model.ports[1].registers[0x14] == 0


@pytest.mark.parametrize("stops", [True, False])
def test_errors(model, disk, store, stops):
    model.stops = stops
    disks.check_errors(disk, store)
    store.bad.add(4)
    with pytest.raises(OSError, match="uncorrectable"):
        disk.read(4, bytearray(512))


@pytest.mark.parametrize("stops", [True, False])
@pytest.mark.parametrize("bad", [0, 3, 6])
def test_one_of_several_fails_and_no_other(model, disk, store, stops, bad):
    model.stops, model.hold = stops, True
    disk.largest = 65536
    store.bad.add(bad * 128)
    slots = [disk._free.pop() for _ in range(7)]
    view, address = disks.memory(7 * 65536)
    for number, slot in enumerate(slots):
        disk._begin(slot, 0, number * 128, address + number * 65536, 65536)
    model.hold = False
    model.work(model.ports[1])
    for number, slot in enumerate(slots):
        disk._poll(slot)
        error = disk._end(slot)
        assert bool(error) == (number == bad)
        if not error:
            assert view[number * 65536 : number * 65536 + 4] == (number * 128).to_bytes(
                4, "little"
            )
    assert not disk._issued and not disk._suspects


def test_reading_is_woken(model, disk, store):
    model.hold = True
    disk.largest = 65536
    wait = disk._wait

    async def waiting(reader):
        interrupts = disk._interrupts

        def armed(wanted):
            interrupts(wanted)
            if wanted:
                assert model.ports[1].registers[0x14] & 1
                disk._interrupts = interrupts
                model.work(model.ports[1])

        disk._interrupts = armed
        await wait(reader)

    disk._wait = waiting
    disks.reads(disk, store, 16, 8 * 65536)
    assert model.read(8) == 0


def test_a_disk_that_does_not_answer(model, disk, monkeypatch):
    model.hold = True
    disks.check_silence(disk, monkeypatch, lambda: not model.ports[1].registers[0x18] & 0x11)


def test_no_64_bits(monkeypatch, store):
    model = plug(monkeypatch, Model(Port(store)))
    model.capabilities &= ~(1 << 31)
    with pytest.raises(OSError, match="64 bits"):
        open_all()
