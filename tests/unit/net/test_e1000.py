"""The e1000 driver against a model of the controller: registers, rings, DMA, interrupts."""

import struct

import _netbuf
import drivers
import machine
import pci
import pytest
import uctypes
from drivers import dma, e1000
from net.tcp import wire as tcp
from scripted import Peer, Segment, send_bulk

BASE = 0xFEB80000
MAC = b"\x52\x54\x00\x12\x34\x56"

CTRL, STATUS, EERD, ICR, IMS, IMC, RCTL, TCTL = 0, 8, 0x14, 0xC0, 0xD0, 0xD8, 0x100, 0x400
RDBAL, RDBAH, RDLEN, RDH, RDT = 0x2800, 0x2804, 0x2808, 0x2810, 0x2818
TDBAL, TDBAH, TDLEN, TDH, TDT = 0x3800, 0x3804, 0x3808, 0x3810, 0x3818
RAL, RAH = 0x5400, 0x5404


class Model:
    """As much of an 82540EM as a driver can see."""

    def __init__(self):
        self.registers = {}
        self.mask = 0
        self.causes = 0
        self.resets = 0
        self.sent = []
        self.hold_tx = False
        self.eeprom = struct.unpack("<3H", MAC)
        self.load_mac = True
        self.clears_rctl = True
        self.rctl_writes = []
        self.reset()

    def reset(self):
        self.resets += 1
        rctl = 0 if self.clears_rctl else self.registers.get(RCTL, 0)
        self.registers = {STATUS: 2, RAH: 0, RCTL: rctl}
        self.mask = 0
        self.causes = 0
        if self.load_mac:
            low, high = struct.unpack("<IH", MAC)
            self.registers.update({RAL: low, RAH: high | 1 << 31})

    def read(self, offset):
        if offset == ICR:
            value, self.causes = self.causes, 0
            return value
        return self.registers.get(offset, 0)

    def write(self, offset, value):
        if offset == CTRL and value & 1 << 26:
            self.reset()
            return
        if offset == IMS:
            self.mask |= value
            return
        if offset == IMC:
            self.mask &= ~value
            return
        if offset == EERD:
            value = self.eeprom[value >> 8 & 0xFF] << 16 | 1 << 4
        self.registers[offset] = value
        if offset == RCTL:
            self.rctl_writes.append(value)
        if offset == TDT and not self.hold_tx:
            self.transmit()

    def ring(self, low, high, length):
        address = self.registers[low] | self.registers[high] << 32
        return uctypes.bytearray_at(address, self.registers[length])

    def transmit(self):
        if not self.registers.get(TCTL, 0) & 2:
            return
        ring = self.ring(TDBAL, TDBAH, TDLEN)
        count = len(ring) // 16
        while self.registers[TDH] != self.registers[TDT]:
            at = self.registers[TDH] * 16
            address, length, _, command, status, _, _ = struct.unpack_from("<QHBBBBH", ring, at)
            assert command & 8 and not status & 1
            if command & 0x20:
                self.transmit_large(struct.unpack_from("<QII", ring, at))
            else:
                assert command == 1 | 2 | 8
                self.sent.append(bytes(uctypes.bytearray_at(address, length)))
            ring[at + 12] = 1
            self.registers[TDH] = (self.registers[TDH] + 1) % count

    def transmit_large(self, descriptor):
        """A context or data descriptor of a segment to be cut up (3.3.6, 3.3.7, 3.5)."""
        address, command, options = descriptor
        if not command >> 20 & 15:
            ip, tcp_ = address & 0xFFFFFFFF, address >> 32
            # Where the headers and their checksums are; TCP, IP and segmentation.
            assert (ip & 0xFF, ip >> 8 & 0xFF, tcp_ & 0xFF, tcp_ >> 8 & 0xFF) == (14, 24, 34, 50)
            assert command >> 24 & 7 == 7
            self.context = (command & 0xFFFFF, options >> 8 & 0xFF, options >> 16)
            self.text = b""
            return
        assert command >> 20 & 15 == 1 and command >> 24 & 6 == 6 and options >> 8 == 3
        assert command & 0xFFFFF <= 4096
        self.text += bytes(uctypes.bytearray_at(address, command & 0xFFFFF))
        if command >> 24 & 1:
            payload, header, mss = self.context
            assert len(self.text) == header + payload
            head, text = self.text[:header], self.text[header:]
            for at in range(0, payload, mss):
                frame = bytearray(head + text[at : at + mss])
                struct.pack_into(">H", frame, 16, len(frame) - 14)
                seq = struct.unpack_from(">I", frame, 38)[0]
                struct.pack_into(">I", frame, 38, (seq + at) & 0xFFFFFFFF)
                if at + mss < payload:
                    frame[47] &= ~9
                # The controller adds the length to the sum that stands in TCP's checksum.
                pseudo = struct.unpack_from(">H", frame, 50)[0] + len(frame) - 34
                frame[50:52] = b"\0\0"
                total = _netbuf.checksum(frame, 34, len(frame) - 34, pseudo)
                struct.pack_into(">H", frame, 50, ~total & 0xFFFF)
                struct.pack_into(">H", frame, 24, ~_netbuf.checksum(frame, 14, 20) & 0xFFFF)
                self.sent.append(bytes(frame))

    def receive(self, frame, errors=0, end=True):
        """Deliver a frame; False where the ring is full."""
        assert self.registers[RCTL] & 2
        ring = self.ring(RDBAL, RDBAH, RDLEN)
        head = self.registers[RDH]
        if head == self.registers[RDT]:
            return False
        at = head * 16
        address = struct.unpack_from("<Q", ring, at)[0]
        uctypes.bytearray_at(address, 2048)[: len(frame)] = frame
        struct.pack_into("<HHBBH", ring, at + 8, len(frame), 0, 3 if end else 1, errors, 0)
        self.registers[RDH] = (head + 1) % (len(ring) // 16)
        self.causes |= 0x80
        return True


@pytest.fixture
def model(monkeypatch):
    device = Model()
    machine.mem32.attach(BASE, 0x20000, device)
    space = bytearray(256)
    space[0x3C] = 11
    functions = {
        0x08: (0x8086, 0x7000, 0x060100, {}, bytearray(256)),
        0x18: (0x8086, 0x100E, 0x020000, {0: (BASE, 0x20000, False)}, space),
    }
    monkeypatch.setattr(pci, "functions", functions)
    return device


@pytest.fixture
def card(model):
    return e1000.Card(0x18)


def drain(card):
    frames = []
    while card.receive(lambda frame, now: frames.append(bytes(frame)), None, 0):
        pass
    return frames


def test_find(model, monkeypatch):
    assert drivers.find_cards() == [("e1000", 0x18)] and drivers.unknown_cards() == []
    assert drivers.find_cards("00:03.0") == [("e1000", 0x18)]
    assert drivers.find_cards("virtio_net") == drivers.find_cards("00:04.0") == []
    assert isinstance(drivers.open_card("e1000", 0x18), e1000.Card)
    more = dict(pci.functions)
    more[0x212] = (0x10EC, 0x8168, 0x020000, {}, bytearray(256))
    monkeypatch.setattr(pci, "functions", more)
    assert drivers.find_cards() == [("e1000", 0x18)]
    assert drivers.unknown_cards() == ["10ec:8168 at 02:02.2"]


def test_start(model, card):
    assert model.resets == 2 and pci.read(0x18, 4, 2) & 4
    assert card.mac == MAC and card.irq == 11 and card.mtu == 1500
    assert model.mask == 0xD4 and card.link_up()
    assert model.registers[RDLEN] % 128 == 0 and model.registers[TDLEN] % 128 == 0
    model.registers[STATUS] = 0
    assert not card.link_up()


def test_a_receiver_that_the_kernel_enabled_is_not_written_again(model):
    # QEMU's resets leave RCTL alone, and a write to it costs a second.
    model.clears_rctl = False
    model.registers[RCTL] = 1 << 1 | 1 << 15 | 1 << 26
    card = e1000.Card(0x18)
    assert model.rctl_writes == []
    assert model.receive(b"frame" * 12) and drain(card) == [b"frame" * 12]


def test_a_receiver_that_was_in_use_is_stopped_first(model):
    model.clears_rctl = False
    model.registers[RCTL] = 1 << 1 | 1 << 15 | 1 << 26
    pci.enable(0x18)
    card = e1000.Card(0x18)
    assert model.rctl_writes[0] == 0 and model.rctl_writes[-1] & 2
    card.stop()
    assert not pci.read(0x18, 4, 2) & 4 and not model.registers[RCTL] & 2


def test_the_receiver_is_enabled_last(model, monkeypatch):
    ready = []
    write = model.write

    def watch(offset, value):
        if offset == RCTL and value & 2:
            ready.append((model.registers[RDLEN], pci.read(0x18, 4, 2) & 4))
        write(offset, value)

    monkeypatch.setattr(model, "write", watch)
    e1000.Card(0x18)
    assert ready == [(4096, 4)]


def test_mac_from_the_eeprom(model):
    model.load_mac = False
    card = e1000.Card(0x18)
    assert card.mac == MAC
    assert model.registers[RAH] == 0x80005634


def test_missing_region(model):
    with pytest.raises(OSError):
        e1000.Card(0x08)


def test_reset_that_does_not_end(model, monkeypatch):
    if not hasattr(e1000, "_RESET_TIMEOUT"):
        pytest.skip("MicroPython keeps no name for a constant that starts with an underscore")
    model.reset = lambda: model.registers.update({CTRL: 1 << 26})
    monkeypatch.setattr(e1000, "_RESET_TIMEOUT", 5)
    with pytest.raises(OSError):
        e1000.Card(0x18)


def test_a_card_that_is_started_again_has_the_same_memory(model, monkeypatch):
    allocated = []
    alloc = dma._x86.dma_alloc
    monkeypatch.setattr(
        dma._x86, "dma_alloc", lambda size, align: allocated.append(size) or alloc(size, align)
    )
    card = e1000.Card(0x18)
    allocated.clear()
    for number in range(5):
        # What was received and not taken, or sent, is not found by the next start.
        model.receive(b"stale" * 12)
        card.tx_alloc()[:60] = b"s" * 60
        card.tx_commit(60)
        card.stop()
        card = e1000.Card(0x18)
        assert drain(card) == []
        frame = bytes([number]) * 60
        assert model.receive(frame) and drain(card) == [frame]
        model.sent.clear()
        for _ in range(200):
            card.tx_alloc()[:60] = frame
            card.tx_commit(60)
        assert model.sent == [frame] * 200
    assert allocated == []


def test_a_start_that_lacks_memory_leaks_none(model, monkeypatch):
    left = [1]
    alloc = dma._x86.dma_alloc

    def scarce(size, align):
        if not left[0]:
            raise OSError(12)
        left[0] -= 1
        return alloc(size, align)

    monkeypatch.setattr(dma._x86, "dma_alloc", scarce)
    getattr(dma, "_memory", {}).clear()
    for _ in range(5):  # six blocks, and one more each time
        with pytest.raises(OSError):
            e1000.Card(0x18)
        left[0] = 1
    card = e1000.Card(0x18)
    assert model.receive(b"frame" * 12) and drain(card) == [b"frame" * 12]


def test_transmit(model, card):
    for number in range(1000):
        frame = bytes([number & 0xFF]) * (60 + number)
        buf = card.tx_alloc()
        buf[: len(frame)] = frame
        card.tx_commit(len(frame))
    assert model.sent == [bytes([n & 0xFF]) * (60 + n) for n in range(1000)]


def test_transmit_ring_fills_and_empties(model, card):
    model.hold_tx = True
    count = 0
    while card.tx_alloc() is not None:
        card.tx_commit(60)
        count += 1
    # Head equal to tail means empty, so one stays free.
    assert count == 127 and model.registers[TDT] == 127
    model.transmit()
    assert len(model.sent) == 127 and card.tx_alloc() is not None


def test_receive_in_order_and_around_the_ring(model, card):
    sent, got = [], []
    for number in range(1000):
        frame = number.to_bytes(4, "big") * (15 + number % 300)
        assert model.receive(frame)
        sent.append(frame)
        if number % 37 == 0:
            got += drain(card)
    got += drain(card)
    assert got == sent and card.received == 1000


def test_receive_hands_up_the_rings_own_memory(model, card):
    model.receive(b"x" * 60)
    seen = []
    card.receive(lambda frame, now: seen.append((frame, now)), None, 77)
    frame, now = seen[0]
    assert isinstance(frame, memoryview) and len(frame) == 60 and now == 77
    first = struct.unpack_from("<Q", model.ring(RDBAL, RDBAH, RDLEN), 0)[0]
    assert uctypes.addressof(frame) == first


def test_receive_is_bounded_and_says_that_more_waits(model, card):
    for _ in range(70):
        model.receive(bytes(60))
    count = []
    assert card.receive(lambda *_: count.append(1), None, 0) is True
    assert len(count) == 64
    assert card.receive(lambda *_: count.append(1), None, 0) is False
    assert len(count) == 70


def test_full_receive_ring_recovers(model, card):
    count = 0
    while model.receive(bytes(60)):
        count += 1
    assert count == 255
    assert len(drain(card)) == 255
    assert model.receive(b"again" * 12)
    assert drain(card) == [b"again" * 12]


def test_bad_frames_are_passed_over(model, card):
    model.receive(b"bad" * 20, errors=1)
    model.receive(b"long" * 20, end=False)
    model.receive(b"good" * 20)
    assert drain(card) == [b"good" * 20] and card.errors == 2


def test_handler_that_fails_costs_its_frame_only(model, card):
    model.receive(b"one" * 20)
    model.receive(b"two" * 20)

    def fail(frame, now):
        raise MemoryError

    with pytest.raises(MemoryError):
        card.receive(fail, None, 0)
    assert drain(card) == [b"two" * 20]


def test_segments_that_continue_each_other_come_as_one(model, card):
    peer = Peer(timestamps=False)
    frames = []
    peer.stack.input = lambda frame, now: frames.append(bytes(frame))
    for number in range(5):
        peer.send(tcp.ACK, bytes([number]) * 1000, seq=1000 + number * 1000, ack=7)
    peer.send(tcp.ACK | tcp.FIN, b"end", seq=6000, ack=7)
    peer.peer_port += 1
    peer.send(tcp.ACK, b"other", seq=1, ack=1)
    for frame in frames:
        model.receive(frame)
    got = []
    card.receive(
        lambda frame, now: got.append(bytes(frame)),
        lambda frame, length, now: got.append(_netbuf.segment(frame, length)),
        0,
    )
    assert len(got) == 3
    assert got[0][3:9] == (1000, 7, tcp.ACK, 65535, 54, 54 + 5000)
    assert got[1] == frames[5] and got[2][8] - got[2][7] == 5


def test_segments_with_priority_tags_come_as_one_too(model, card):
    # IEEE 802.1Q 6.9
    peer = Peer(timestamps=False)
    frames = []
    peer.stack.input = lambda frame, now: frames.append(bytes(frame))
    for number in range(4):
        peer.send(tcp.ACK, bytes([number]) * 1460, seq=1000 + number * 1460, ack=7)
    for number, frame in enumerate(frames):
        tag = b"\x81\0" + bytes((number << 5, 0)) if number else b""
        model.receive(frame[:12] + tag + frame[12:])
    peer = Peer(timestamps=False)
    connection = peer.establish()
    got = []
    card.receive(None, lambda frame, length, now: got.append(_netbuf.segment(frame, length)), 0)
    assert [fields[3:9] for fields in got] == [(1000, 7, tcp.ACK, 65535, 54, 54 + 5840)]
    # Through the stack, those of a VLAN are nobody's.
    for tag, there in ((b"\x81\0\0\5", 0), (b"\x81\0\xe0\0", 5)):
        peer.stack.input = lambda frame, now: frames.append(bytes(frame))
        peer.send(tcp.ACK, b"hello")
        del peer.stack.input
        frame = frames.pop()
        model.receive(frame[:12] + tag + frame[12:])
        card.receive(peer.stack.input, peer.stack.input_segment, peer.now)
        assert connection.available() == there


def test_large_segments_are_cut_up_as_small_ones_would_be(model, card):
    # The same connection with and without the controller's help sends the same frames.
    streams = []
    for large in (e1000.Card.large, 0):
        card.large = large
        model.sent.clear()
        data = send_bulk(card)
        streams.append([f for f in model.sent if f[12:14] == b"\x08\0"])
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
    model.transmit()
    assert len(model.sent) == 6 * 14 and card.tx_alloc_large() is not None


def test_interrupt_is_acknowledged(model, card):
    model.receive(bytes(60))
    assert card.interrupt() & 0x80
    assert model.causes == 0


def test_stop(model, card):
    card.stop()
    assert model.mask == 0 and not model.registers.get(RCTL) and model.resets == 3
