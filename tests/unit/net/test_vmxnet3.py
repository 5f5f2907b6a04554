"""The vmxnet3 driver against a model of the device: shared memory, rings, filters, interrupts."""

import struct

import drivers
import machine
import pci
import pytest
import uctypes
from drivers import dma, vmxnet3
from test_e1000 import drain

DATA, CONTROL = 0xFE000000, 0xFE001000
MAC = b"\x00\x0c\x29\x12\x34\x57"
ACTIVATE, QUIESCE, RESET, RX_MODE, FILTERS = [0xCAFE0000 + n for n in range(5)]
GET_LINK, GET_CONF_INTR = 0xF00D0002, 0xF00D0008


def peek(address, form):
    return struct.unpack(form, bytes(uctypes.bytearray_at(address, struct.calcsize(form))))


def poke(address, form, *values):
    struct.pack_into(form, uctypes.bytearray_at(address, struct.calcsize(form)), 0, *values)


class Ring:
    """The device's side of a ring: descriptors whose bit has the value of the round are its."""

    def __init__(self, address, count):
        self.address, self.count = address, count
        self.next, self.generation = 0, 1

    def at(self):
        return self.address + 16 * self.next

    def step(self):
        self.next += 1
        if self.next == self.count:
            self.next, self.generation = 0, 1 - self.generation


class Model:
    """As much of a vmxnet3 as a driver can see. Every register has 32 bits."""

    def __init__(self, intr=0, revisions=1, starts=True):
        self.intr, self.revisions, self.starts = intr, revisions, starts
        self.up, self.hold, self.sent, self.commands = True, False, [], []
        self.active, self.masked, self.pending, self.answer = False, True, False, 0
        self.low = self.shared = 0
        self.mode = self.groups = None

    def data_write(self, offset, value):
        if offset == 0:
            self.masked = bool(value)
        elif offset == 0x600:
            assert self.active
            if not self.hold:
                self.transmit()
        else:
            assert offset == 0x800

    def control_read(self, offset):
        if offset == 0x38:
            pending, self.pending = self.pending, False
            self.masked = self.masked or (pending and not self.intr >> 2)
            return pending
        return {
            0x00: self.revisions,
            0x08: 1,
            0x20: self.answer,
            0x28: int.from_bytes(MAC[:4], "little"),
            0x30: int.from_bytes(MAC[4:], "little"),
        }[offset]

    def control_write(self, offset, value):
        if offset == 0x10:
            self.low = value
        elif offset == 0x18:
            self.shared = value << 32 | self.low
        elif offset == 0x20:
            self.commands.append(value)
            self.command(value)
        elif offset == 0x40:
            (events,) = peek(self.shared + 696, "<I")
            poke(self.shared + 696, "<I", events & ~value)
        else:
            assert offset in (0, 8) and value == 1

    def command(self, value):
        self.answer = 0
        if value == ACTIVATE:
            self.activate()
        elif value in (QUIESCE, RESET):
            self.active = False
        elif value == GET_LINK:
            self.answer = int(self.up) | 10000 << 16
        elif value == GET_CONF_INTR:
            self.answer = self.intr
        elif value == FILTERS:
            length, _, table = peek(self.shared + 124, "<HHQ")
            self.groups = bytes(uctypes.bytearray_at(table, length)) if length else b""
        else:
            assert value == RX_MODE
            (self.mode,) = peek(self.shared + 120, "<I")

    def activate(self):
        assert self.low or self.shared
        if not self.starts:
            self.answer = 1
            return
        assert peek(self.shared, "<I") == (0xBABEFEE1,)
        misc = peek(self.shared + 8, "<IIIIQQQIIIHBB")
        assert misc[2:5] == (1, 1, 0) and misc[7:] == (720, 512, 1500, 1, 1, 1)
        assert misc[1] & 3 == 2  # a 64-bit guest
        auto, interrupts, index = peek(self.shared + 80, "<BBB")
        assert auto == (not self.intr >> 2) and (interrupts, index) == (1, 0)
        (self.mode,) = peek(self.shared + 120, "<I")
        assert peek(self.shared + 136, "<I") == (0xFFFFFFFF,)
        queues = misc[6]
        tx, _, txc, _, _, count, none, completed = peek(queues + 16, "<QQQQQIII")
        assert none == 0 and count % 32 == 0
        self.tx, self.txc = Ring(tx, count), Ring(txc, completed)
        rx, _, rxc, _, _, count, second, completed = peek(queues + 256 + 16, "<QQQQQIII")
        assert completed == count + second
        self.rx, self.rxc = Ring(rx, count), Ring(rxc, completed)
        self.flag = queues + 256
        assert not (tx | txc | rx | rxc) & 511
        self.active = True

    def transmit(self):
        while True:
            address, first, second = peek(self.tx.at(), "<QII")
            if first >> 14 & 1 != self.tx.generation:
                return
            assert second == 3 << 12
            self.sent.append(bytes(uctypes.bytearray_at(address, first & 0x3FFF)))
            poke(self.txc.at(), "<IIII", self.tx.next, 0, 0, self.txc.generation << 31)
            self.tx.step()
            self.txc.step()
            self.pending = True

    def receive(self, frame, flags=3 << 14, error=0):
        address, word = peek(self.rx.at(), "<QI")
        if word >> 31 != self.rx.generation:
            return False
        assert word & 0x3FFF == 2048
        uctypes.bytearray_at(address, len(frame))[:] = frame
        poke(
            self.rxc.at(),
            "<IIII",
            self.rx.next | flags,
            0,
            len(frame) | error << 14,
            self.rxc.generation << 31,
        )
        self.rx.step()
        self.rxc.step()
        self.pending = True
        return True


class Data:
    def __init__(self, model):
        self.model = model

    def read(self, offset):
        if offset >= CONTROL - DATA:
            return self.model.control_read(offset - (CONTROL - DATA))
        raise AssertionError("region 0 is not read")

    def write(self, offset, value):
        if offset >= CONTROL - DATA:
            self.model.control_write(offset - (CONTROL - DATA), value)
        else:
            self.model.data_write(offset, value)


def plug(monkeypatch, model):
    getattr(dma, "_memory", {}).clear()
    space = bytearray(256)
    space[0x3C] = 10
    regions = {0: (DATA, 0x1000, False), 1: (CONTROL, 0x1000, False)}
    function = (0x15AD, 0x07B0, 0x020000, regions, space)
    monkeypatch.setattr(pci, "functions", {0x18: function})
    machine.mem32.attach(DATA, 0x2000, Data(model))
    return model


@pytest.fixture
def model(monkeypatch):
    return plug(monkeypatch, Model())


@pytest.fixture
def card(model):
    return vmxnet3.Card(0x18)


def send(card, frame):
    card.tx_alloc()[: len(frame)] = frame
    card.tx_commit(len(frame))


def test_start(model, card):
    assert drivers.find_cards() == [("vmxnet3", 0x18)]
    assert model.active and not model.masked and pci.read(0x18, 4, 2) & 4
    assert model.mode == 1 | 4 and card.mac == MAC and card.irq == 10 and card.large == 0
    assert card.link_up()
    model.up = False
    assert not card.link_up()


@pytest.mark.parametrize(
    "options, words", [({"revisions": 2}, "rev"), ({"starts": False}, "star")]
)
def test_a_device_that_does_not_start(monkeypatch, options, words):
    plug(monkeypatch, Model(**options))
    with pytest.raises(OSError, match=words):
        vmxnet3.Card(0x18)


def test_transmit_around_the_ring(model, card):
    for number in range(2000):
        send(card, number.to_bytes(4, "big") * 15)
    assert model.sent == [n.to_bytes(4, "big") * 15 for n in range(2000)] and card.sent == 2000


def test_transmit_ring_fills_and_empties(model, card):
    for round_ in range(3):
        model.hold = True
        model.sent.clear()
        count = 0
        while card.tx_alloc() is not None:
            send(card, bytes([round_, count]) * 30)
            count += 1
        assert count == 255
        model.hold = False
        model.transmit()
        assert model.sent == [bytes([round_, n]) * 30 for n in range(255)]


def test_receive_in_order_around_the_rings(model, card):
    count = 0
    for number in range(3000):
        assert model.receive(number.to_bytes(4, "big") * 15)
        if number % 37 == 0:
            for frame in drain(card):
                assert frame == count.to_bytes(4, "big") * 15
                count += 1
    assert count + len(drain(card)) == 3000 == card.received


def test_full_receive_ring_recovers(model, card):
    for _ in range(3):
        count = 0
        while model.receive(bytes([count]) * 60):
            count += 1
        assert count == 255 and drain(card) == [bytes([n]) * 60 for n in range(255)]


def test_receive_is_bounded_and_says_that_more_waits(model, card):
    for _ in range(70):
        model.receive(bytes(60))
    count = []
    assert card.receive(lambda *_: count.append(1), None, 0) is True and len(count) == 64
    assert card.receive(lambda *_: count.append(1), None, 0) is False and len(count) == 70


def test_errors_cost_their_frame_only(model, card):
    model.receive(b"bad" * 20, error=1)
    model.receive(b"part" * 20, flags=1 << 15)
    model.receive(b"good" * 20)
    assert drain(card) == [b"good" * 20] and card.errors == 2


def test_a_device_that_wants_to_hear_of_descriptors(model, card, monkeypatch):
    told = []
    monkeypatch.setattr(Model, "data_write", lambda self, at, value: told.append((at, value)))
    model.receive(bytes(60))
    drain(card)
    assert told == []
    poke(model.flag, "<B", 1)
    model.receive(bytes(60))
    drain(card)
    assert told and told[-1] == (0x800, 1)


@pytest.mark.parametrize("intr", [0, 1 << 2])
def test_interrupts(monkeypatch, intr):
    model = plug(monkeypatch, Model(intr))
    card = vmxnet3.Card(0x18)
    model.receive(bytes(60))
    assert card.interrupt() == 0 and not model.pending and not model.masked
    poke(model.shared + 696, "<I", 4 | 1)
    assert card.interrupt() == 4 and peek(model.shared + 696, "<I") == (0,)


def test_groups(model, card):
    one, other = b"\1\0\x5e\0\0\xfb", b"\1\0\x5e\0\0\1"
    card.set_multicast([one, other])
    assert model.mode == 1 | 2 | 4 and model.groups == one + other
    assert model.commands[-2:] == [FILTERS, RX_MODE]
    card.set_multicast(())
    assert model.mode == 1 | 4 and model.groups == b""
    card.set_multicast([b"\1\0\x5e\0\0" + bytes([n]) for n in range(65)])
    assert model.mode == 1 | 4 | 8


def test_stop_and_start_again_take_the_same_memory(model, card):
    before = dict(getattr(dma, "_memory", {}))
    model.receive(b"stale" * 12)
    card.stop()
    assert not model.active and model.masked and not pci.read(0x18, 4, 2) & 4
    card = vmxnet3.Card(0x18)
    assert drain(card) == [] and dict(getattr(dma, "_memory", {})) == before
    assert model.receive(b"fresh" * 12) and drain(card) == [b"fresh" * 12]
