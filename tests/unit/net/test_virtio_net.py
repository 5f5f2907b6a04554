"""The virtio-net driver against a model of the device: capabilities, rings, offload, interrupts."""

import struct

import drivers
import machine
import pci
import pytest
import uctypes
from drivers import dma, virtio_net
from scripted import Segment, send_bulk
from test_e1000 import drain

BASE = 0xFE000000
COMMON, ISR, DEVICE, NOTIFY = 0, 0x1000, 0x2000, 0x3000
MULTIPLIER = 4
MAC = b"\x52\x54\x00\x12\x34\x57"
CSUM, F_MAC, TSO4, STATUS, VERSION_1 = 1, 1 << 5, 1 << 11, 1 << 16, 1 << 32
ALL = CSUM | F_MAC | TSO4 | STATUS | VERSION_1 | 1 << 15 | 1 << 29
STATUS_REGISTER = 0x14


class Queue:
    """The device's side of a split ring (virtio 1.1, 2.6)."""

    def __init__(self):
        self.size, self.enabled, self.at = 256, 0, [0, 0, 0]
        self.taken = self.used = 0

    def word(self, part, offset, value=None):
        memory = uctypes.bytearray_at(self.at[part] + offset, 2)
        if value is not None:
            struct.pack_into("<H", memory, 0, value & 0xFFFF)
        return struct.unpack("<H", memory)[0]

    def take(self):
        """The next available descriptor: (index, address, length, flags), or None."""
        if self.taken == self.word(1, 2):
            return None
        index = self.word(1, 4 + 2 * (self.taken % self.size))
        self.taken = (self.taken + 1) & 0xFFFF
        descriptor = uctypes.bytearray_at(self.at[0] + 16 * index, 16)
        return (index,) + struct.unpack("<QIH", descriptor[:14])

    def put(self, index, length):
        entry = uctypes.bytearray_at(self.at[2] + 4 + 8 * (self.used % self.size), 8)
        struct.pack_into("<II", entry, 0, index, length)
        self.used = (self.used + 1) & 0xFFFF
        self.word(2, 2, self.used)


class Model:
    """As much of a modern virtio-net function as a driver can see; every access has its size."""

    WIDTHS = {0: 4, 4: 4, 8: 4, 0xC: 4, 0x14: 1, 0x16: 2, 0x18: 2, 0x1C: 2, 0x1E: 2}

    def __init__(self, offered=ALL):
        self.offered, self.up, self.changed, self.refuses = offered, True, False, 0
        self.notified, self.hold_tx, self.backwards, self.sent = [], False, False, []
        self.resets = 0
        self.reset()

    def reset(self):
        self.resets += 1
        self.status = self.features = self.select = self.feature_select = self.isr = 0
        self.queues = [Queue(), Queue()]

    def read(self, offset, size):
        if COMMON <= offset < ISR:
            assert self.WIDTHS.get(offset, 4) == size
            queue = self.queues[self.select] if self.select < 2 else Queue()
            return {
                0x04: self.offered >> 32 * self.feature_select & 0xFFFFFFFF,
                0x14: self.status,
                0x18: queue.size,
                0x1E: self.select + 1,
            }[offset]
        if offset == ISR:
            value, self.isr = self.isr, 0
            return value
        if DEVICE <= offset < DEVICE + 6:
            return MAC[offset - DEVICE]
        assert offset == DEVICE + 6 and self.features & STATUS
        return int(self.up)

    def write(self, offset, value, size):
        if offset >= NOTIFY:
            assert size == 2 and (offset - NOTIFY) == MULTIPLIER * (value + 1)
            assert self.status & 4
            self.notified.append(value)
            if value == 1 and not self.hold_tx:
                self.transmit()
            return
        assert self.WIDTHS.get(offset, 4) == size
        queue = self.queues[self.select]
        if offset in (0, 8):
            self.feature_select = value
        elif offset == 0xC:
            assert self.status == 3  # 3.1.1: acknowledged, with a driver, nothing more
            self.features |= value << 32 * self.feature_select
        elif offset == STATUS_REGISTER:
            if value == 0:
                return self.reset()
            assert value & self.status == self.status
            self.status = value & ~self.refuses
        elif offset == 0x16:
            self.select = value
        elif offset == 0x18:
            assert value <= queue.size
            queue.size = value
        elif offset == 0x1C:
            queue.enabled = value
        else:
            part, high = divmod(offset - 0x20, 8)
            shift = 32 if high else 0
            queue.at[part] = queue.at[part] & ~(0xFFFFFFFF << shift) | value << shift

    def transmit(self):
        done = []
        queue = self.queues[1]
        while (taken := queue.take()) is not None:
            index, address, length, flags = taken
            assert flags == 0 and length > 12
            self.sent.append(bytes(uctypes.bytearray_at(address, length)))
            done.append(index)
        for index in reversed(done) if self.backwards else done:
            queue.put(index, 0)

    def receive(self, frame, length=None):
        taken = self.queues[0].take()
        if taken is None:
            return False
        index, address, room, flags = taken
        assert flags == 2 and room >= 12 + len(frame)
        header = struct.pack("<BBHHHHH", 0, 0, 0, 0, 0, 0, 1)
        uctypes.bytearray_at(address, 12 + len(frame))[:] = header + frame
        self.queues[0].put(index, 12 + len(frame) if length is None else length)
        self.isr |= 1
        return True


class Sized:
    """The model's registers by accesses of `size` bytes."""

    def __init__(self, model, size):
        self.model, self.size = model, size

    def read(self, offset):
        return self.model.read(offset, self.size)

    def write(self, offset, value):
        self.model.write(offset, value, self.size)


def capability(at, following, kind, offset, bar=4, length=0x1000):
    data = struct.pack("<BBBBBxxxII", 9, following, 16, kind, bar, offset, length)
    return at, data + struct.pack("<I", MULTIPLIER)


def space(*capabilities, first=0x40):
    made = bytearray(256)
    made[0x3C], made[0x06], made[0x34] = 10, 0x10, first
    for at, data in capabilities:
        made[at : at + len(data)] = data
    return made


USUAL = (
    (0x40, b"\x11\x50\0\0"),  # MSI-X comes first
    capability(0x50, 0x64, 1, COMMON),
    capability(0x64, 0x78, 3, ISR),
    capability(0x78, 0x8C, 4, DEVICE),
    capability(0x8C, 0xA0, 2, NOTIFY),
    capability(0xA0, 0, 5, 0),
)


def plug(monkeypatch, device, *capabilities):
    function = (0x1AF4, 0x1000, 0x020000, {4: (BASE, 0x4000, False)}, space(*capabilities))
    monkeypatch.setattr(pci, "functions", {0x18: function})
    for size, memory in ((1, machine.mem8), (2, machine.mem16), (4, machine.mem32)):
        memory.attach(BASE, 0x4000, Sized(device, size))
    return device


@pytest.fixture
def model(monkeypatch):
    getattr(dma, "_memory", {}).clear()
    return plug(monkeypatch, Model(), *USUAL)


@pytest.fixture
def card(model):
    return virtio_net.Card(0x18)


def send(card, frame):
    card.tx_alloc()[: len(frame)] = frame
    card.tx_commit(len(frame))


def test_start(model, card):
    assert drivers.find_cards() == [("virtio_net", 0x18)]
    assert model.status == 1 | 2 | 4 | 8 and pci.read(0x18, 4, 2) & 4
    assert model.features == CSUM | F_MAC | TSO4 | STATUS | VERSION_1
    assert card.mac == MAC and card.irq == 10 and card.mtu == 1500 and card.large == 32768
    assert [queue.enabled for queue in model.queues] == [1, 1] and model.notified == [0]
    assert card.link_up()
    model.up = False
    assert not card.link_up()


def test_without_offload_and_status(monkeypatch):
    model = plug(monkeypatch, Model(F_MAC | VERSION_1 | TSO4), *USUAL)
    card = virtio_net.Card(0x18)
    # 5.1.3.1: segmentation needs checksums.
    assert model.features == F_MAC | VERSION_1 and card.large == 0 and card.link_up()
    send(card, b"frame" * 12)
    assert model.sent == [bytes(12) + b"frame" * 12]


@pytest.mark.parametrize(
    "capabilities",
    [
        USUAL[:4],  # no notifications
        ((0x40, b"\x09\x40" + bytes(14)),),  # a list in a circle
        tuple(capability(at, at + 20, kind, 0, length=0x9000) for at, kind in ((0x40, 1),)),
        (USUAL[0], capability(0x50, 0, 1, COMMON, bar=6)),
    ],
)
def test_no_modern_configuration(monkeypatch, capabilities):
    plug(monkeypatch, Model(), *capabilities)
    with pytest.raises(OSError, match="modern"):
        virtio_net.Card(0x18)


@pytest.mark.parametrize("offered, refuses", [(ALL, 8), (ALL & ~VERSION_1, 0), (ALL & ~F_MAC, 0)])
def test_features_refused(monkeypatch, offered, refuses):
    model = plug(monkeypatch, Model(offered), *USUAL)
    model.refuses = refuses
    with pytest.raises(OSError, match="features"):
        virtio_net.Card(0x18)
    assert model.status & 128


def test_a_device_without_queues(monkeypatch, model):
    monkeypatch.setattr(Model, "reset", lambda self: None)
    model.queues[1].size = 0
    with pytest.raises(OSError, match="queue 1"):
        virtio_net.Card(0x18)


def test_transmit_around_the_ring_and_the_16_bits(model, card):
    for number in range(66_000):
        send(card, number.to_bytes(4, "big") * 15)
        if number % 100 == 99:
            sent, model.sent = model.sent, []
            assert sent == [
                bytes(12) + n.to_bytes(4, "big") * 15 for n in range(number - 99, number + 1)
            ]


def test_transmit_ring_fills_and_empties_in_any_order(model, card):
    model.hold_tx = True
    for round_ in range(3):
        model.backwards = round_ % 2 == 1
        count = 0
        while card.tx_alloc() is not None:
            send(card, bytes([round_, count]) * 30)
            count += 1
        assert count == 256
        model.sent.clear()
        model.transmit()
        assert model.sent == [bytes(12) + bytes([round_, n]) * 30 for n in range(256)]


def test_receive_in_order_around_the_ring_and_the_16_bits(model, card):
    got, count = [], 0
    for number in range(66_000):
        frame = number.to_bytes(4, "big") * 15
        assert model.receive(frame)
        if number % 37 == 0:
            for frame in drain(card):
                assert frame == count.to_bytes(4, "big") * 15
                count += 1
    got = drain(card)
    assert count + len(got) == 66_000 == card.received


def test_full_receive_ring_recovers(model, card):
    count = 0
    while model.receive(bytes(60)):
        count += 1
    assert count == 256 and len(drain(card)) == 256
    assert model.receive(b"again" * 12) and drain(card) == [b"again" * 12]


def test_receive_is_bounded_and_says_that_more_waits(model, card):
    for _ in range(70):
        model.receive(bytes(60))
    count = []
    assert card.receive(lambda *_: count.append(1), None, 0) is True and len(count) == 64
    assert card.receive(lambda *_: count.append(1), None, 0) is False and len(count) == 70


@pytest.mark.parametrize("length", [0, 12, 2049, 1 << 31])
def test_lengths_that_cannot_be(model, card, length):
    model.receive(b"bad" * 20, length)
    model.receive(b"good" * 20)
    assert drain(card) == [b"good" * 20] and card.errors == 1


def test_handler_that_fails_costs_its_frame_only(model, card):
    model.receive(b"one" * 20)
    model.receive(b"two" * 20)

    def fail(frame, now):
        raise MemoryError

    with pytest.raises(MemoryError):
        card.receive(fail, None, 0)
    assert drain(card) == [b"two" * 20]


def test_interrupts(model, card):
    model.receive(bytes(60))
    assert card.interrupt() == 0 and model.isr == 0
    model.isr = 3
    assert card.interrupt() == 4
    # Nobody wants to hear of what was sent.
    assert model.queues[1].word(1, 0) == 1 and model.queues[0].word(1, 0) == 0


def test_stop_and_start_again_take_the_same_memory(model, card):
    before = dict(dma._memory)
    model.receive(b"stale" * 12)
    card.stop()
    assert model.status == 0 and not pci.read(0x18, 4, 2) & 4
    card = virtio_net.Card(0x18)
    assert drain(card) == [] and dma._memory == before
    assert model.receive(b"fresh" * 12) and drain(card) == [b"fresh" * 12]


def cut_up(packet):
    """The frames that Linux makes of a packet with a header for segmentation (5.1.6.2)."""
    flags, kind, header, mss, start, offset, _ = struct.unpack_from("<BBHHHHH", packet)
    frame = packet[12:]
    if not kind:
        return [frame]
    assert (flags, kind, start, offset) == (1, 1, 34, 16)
    total = struct.unpack_from(">H", frame, 16)[0]
    assert total == len(frame) - 14 and checksum(frame[14:34]) == 0xFFFF
    # TCP's field has the sum of the pseudo header, with the length.
    pseudo = frame[26:34] + bytes([0, 6]) + (len(frame) - 34).to_bytes(2, "big")
    assert struct.unpack_from(">H", frame, 50)[0] == checksum(pseudo)
    head, text = frame[:header], frame[header:]
    made = []
    for at in range(0, len(text), mss):
        one = bytearray(head + text[at : at + mss])
        struct.pack_into(">H", one, 16, len(one) - 14)
        seq = struct.unpack_from(">I", one, 38)[0]
        struct.pack_into(">I", one, 38, (seq + at) & 0xFFFFFFFF)
        if at + mss < len(text):
            one[47] &= ~9
        one[24:26] = one[50:52] = b"\0\0"
        struct.pack_into(">H", one, 24, ~checksum(one[14:34]) & 0xFFFF)
        pseudo = bytes(one[26:34]) + bytes([0, 6]) + (len(one) - 34).to_bytes(2, "big")
        struct.pack_into(">H", one, 50, ~checksum(pseudo + one[34:]) & 0xFFFF)
        made.append(bytes(one))
    return made


def checksum(data):
    data = bytes(data) + b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def test_large_segments_are_cut_up_as_small_ones_would_be(model, card):
    streams = []
    for large in (card.large, 0):
        card.large = large
        model.sent.clear()
        data = send_bulk(card)
        packets = [p for p in model.sent if p[24:26] == b"\x08\0"]
        assert any(p[1] for p in packets) == bool(large)
        streams.append([frame for packet in packets for frame in cut_up(packet)])
    assert streams[0] == streams[1] and len(streams[0]) > 30
    text = b"".join(Segment(frame).payload for frame in streams[0])
    assert len(text) > 40000 and data.startswith(text)


def test_large_buffers_run_out_and_come_back(model, card):
    model.hold_tx = True
    count = 0
    while (buf := card.tx_alloc_large()) is not None:
        buf[:70] = bytes(70)
        card.tx_commit_large(66 + 20000, 66, 1448)
        count += 1
    assert count == 6 and card.tx_alloc() is not None
    model.backwards = True
    model.transmit()
    assert len(model.sent) == 6 and card.tx_alloc_large() is not None
    # A descriptor that had a large buffer has its own again.
    for _ in range(256):
        send(card, b"small" * 12)
    model.transmit()
    assert model.sent[6:] == [bytes(12) + b"small" * 12] * 256
