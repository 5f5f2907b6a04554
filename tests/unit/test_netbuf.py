"""native/netbuf, compiled for the host, against RFC 1071 and the Python twin in shim/."""

import random
import struct

import _netbuf
import pytest


@pytest.fixture(scope="module")
def native(compile_native):
    return compile_native(
        "netbuf",
        """
        uint16_t netbuf_checksum(const uint8_t *data, size_t length, uint32_t initial);
        void netbuf_copy(uint8_t *to, const uint8_t *from, size_t length);
        struct netbuf_segment {
            uint8_t ip;
            const uint8_t *addresses;
            uint16_t source_port, port;
            uint32_t seq, ack;
            uint8_t flags;
            uint16_t window;
            uint16_t start;
            uint32_t end;
            bool timestamps;
            uint32_t value, echo;
        };
        bool netbuf_parse(const uint8_t *, size_t, bool, struct netbuf_segment *);
        size_t netbuf_merge(uint8_t *, size_t, size_t, const uint8_t *, size_t);
        struct netbuf_fields {
            uint32_t seq, ack;
            uint8_t flags;
            uint16_t window;
            uint32_t value, echo;
        };
        size_t netbuf_emit(uint8_t *, const uint8_t *, size_t, const struct netbuf_fields *,
            const uint8_t *, size_t, const uint8_t *, size_t);
        """,
    )


def native_sum(native, data, start=0, initial=0):
    buf = native.ffi.new("uint8_t[]", bytes(data))
    return native.lib.netbuf_checksum(buf + start, len(data) - start, initial)


# RFC 1071 section 3: 0001 f203 f4f5 f6f7 sum to ddf2.
RFC_1071 = bytes.fromhex("0001f203f4f5f6f7")


@pytest.mark.parametrize(
    "data, initial, expected",
    [
        (RFC_1071, 0, 0xDDF2),
        (b"", 0, 0),
        (b"", 0x12345, 0x2346),
        (b"\x12", 0, 0x1200),
        (b"\xff\xff", 0, 0xFFFF),
        (b"\xff\xff\0\1", 0, 1),
        (b"\0\0", 0, 0),
        (b"\xff" * 100, 0xFFFFFFFF, 0xFFFF),
        (RFC_1071, 0x220D, 0xFFFF),
    ],
)
def test_known_sums(native, data, initial, expected):
    assert native_sum(native, data, initial=initial) == expected
    assert _netbuf.checksum(data, 0, len(data), initial) == expected


def test_split_sums_continue(native):
    # RFC 1071 section 2 (A): the sum of parts of even length is the sum of the whole.
    data = bytes(range(200))
    first = native_sum(native, data[:60])
    assert native_sum(native, data[60:], initial=first) == native_sum(native, data)


def test_native_and_twin_agree(native):
    rng = random.Random(1071)
    for _ in range(2000):
        data = rng.randbytes(rng.randrange(1, 1600))
        start = rng.randrange(len(data))
        initial = rng.choice((0, 0xFFFF, 0xFFFFFFFF, rng.randrange(1 << 32)))
        expected = _netbuf.checksum(data, start, len(data) - start, initial)
        assert native_sum(native, data, start, initial) == expected


def test_longest_buffer_does_not_overflow(native):
    data = b"\xff" * (1 << 20)
    assert native_sum(native, data) == 0xFFFF


def test_copy_of_overlapping_ranges(native):
    buf = native.ffi.new("uint8_t[]", bytes(range(50)))
    native.lib.netbuf_copy(buf + 10, buf, 30)
    assert bytes(native.ffi.buffer(buf))[:40] == bytes(range(10)) + bytes(range(30))


@pytest.mark.parametrize("start, length", [(-1, 2), (0, -1), (0, 5), (5, 0), (4, 1)])
def test_twin_checks_bounds(start, length):
    with pytest.raises(ValueError):
        _netbuf.checksum(bytes(4), start, length)
    with pytest.raises(ValueError):
        _netbuf.copy(bytearray(4), start, bytes(9), 0, length)
    with pytest.raises(ValueError):
        _netbuf.copy(bytearray(9), 0, bytes(4), start, length)


class Segments:
    """Return random plain TCP segments of two connections; most continue the one before."""

    def __init__(self, seed, six=False):
        self.random = random.Random(seed)
        self.six = six
        self.seq, self.ack, self.clock = [5, 0xFFFFF000], [1, 0x7FFFFFFF], [9, 0xFFFFFFFE]

    def next(self):
        rng = self.random
        which = rng.random() < 0.1
        if rng.random() < 0.3:
            self.ack[which] += rng.choice((0, 1, 5000, -1))
        if rng.random() < 0.3:
            self.clock[which] += rng.choice((0, 1, -1))
        text = rng.randbytes(rng.choice((0, 0, 1, 100, 1448)))
        header = 32 if rng.random() < 0.9 else 20
        options = struct.pack(
            ">III", rng.choice((0x0101080A,) * 9 + (0,)), self.clock[which] & 0xFFFFFFFF, 77
        )
        seq = self.seq[which] + (0 if rng.random() < 0.9 else rng.choice((1, -1, 1000)))
        tcp = (
            bytearray(
                struct.pack(
                    ">HHIIBBHHH",
                    4000 + which,
                    80,
                    seq & 0xFFFFFFFF,
                    self.ack[which] & 0xFFFFFFFF,
                    header << 2,
                    rng.choice((16,) * 9 + (24, 17, 0)),
                    rng.getrandbits(16),
                    0,
                    0,
                )
            )
            + (options if header == 32 else b"")
            + text
        )
        self.seq[which] = seq + len(text)
        if self.six:
            first = rng.choice(((0x20, 1),) * 20 + ((0xFF, 2), (0, 0)))
            addresses = bytes(first) + bytes(13) + b"\2\x20\1" + bytes(13) + b"\1"
        else:
            addresses = bytes((rng.choice((10,) * 20 + (0, 127, 224)), 0, 0, 2, 10, 0, 0, 1))
        pseudo = addresses + struct.pack(">HH", 6, len(tcp))
        total = (~_netbuf.checksum(pseudo + tcp, 0, len(pseudo + tcp))) & 0xFFFF
        struct.pack_into(">H", tcp, 16, total)
        if self.six:
            ip = struct.pack(">BBHHBB", 0x60, 0, 0, len(tcp), 6, 64) + addresses
        else:
            ip = bytearray(
                struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(tcp), 0, 0, 64, 6, 0) + addresses
            )
            struct.pack_into(">H", ip, 10, ~_netbuf.checksum(ip, 0, 20) & 0xFFFF)
        kind = b"\x86\xdd" if self.six else b"\x08\0"
        frame = bytearray(bytes(12) + kind + ip + tcp + bytes(rng.choice((0, 0, 6))))
        frame[4:6] = rng.randbytes(2)
        # Some go to a group, some have up to three priority tags, some a VLAN.
        frame[0] = rng.choice((2,) * 30 + (1, 255))
        for _ in range(rng.choice((0, 0, 0, 1, 1, 2, 3))):
            tag = rng.choice((0x8100, 0x8100, 0x88A8)), rng.choice((0, 0xE000, 0x1000) * 7 + (5,))
            frame[12:12] = struct.pack(">HH", *tag)
        if rng.random() < 0.1:
            frame[rng.randrange(len(frame))] ^= 1 << rng.randrange(8)
        if rng.random() < 0.03:
            del frame[rng.randrange(len(frame)) :]
        return bytes(frame)


@pytest.mark.parametrize("six", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_merging_is_the_same_in_c_and_python(native, seed, six):
    segments = Segments(seed, six)
    room = 20000
    theirs, ours = native.ffi.new("uint8_t[]", room), bytearray(room)
    length = merges = 0
    fields = native.ffi.new("struct netbuf_segment *")
    for _ in range(4000):
        frame = segments.next()
        buf = native.ffi.new("uint8_t[]", frame)
        parsed = _netbuf.segment(frame, len(frame))
        assert native.lib.netbuf_parse(buf, len(frame), False, fields) == (parsed is not None)
        if parsed:
            assert fields.ip == (40 if six else 20)
            addresses = bytes(native.ffi.buffer(fields.addresses, 32 if six else 8))
            half = len(addresses) // 2
            source, destination = addresses[:half], addresses[half:]
            peer = source + struct.pack(">H", fields.source_port)
            assert parsed[:9] == (
                destination if six else int.from_bytes(destination, "big"),
                fields.port,
                peer if six else int.from_bytes(peer, "big"),
                fields.seq,
                fields.ack,
                fields.flags,
                fields.window,
                fields.start,
                fields.end,
            )
            stamps = (fields.value, fields.echo, ()) if fields.timestamps else None
            assert parsed[9] == stamps
        merged = _netbuf.merge(ours, length, frame, len(frame))
        assert native.lib.netbuf_merge(theirs, length, room, buf, len(frame)) == merged
        merges += bool(length and merged)
        if not merged and length:
            merged = _netbuf.merge(ours, 0, frame, len(frame))
            assert native.lib.netbuf_merge(theirs, 0, room, buf, len(frame)) == merged
        length = merged
        assert bytes(native.ffi.buffer(theirs, length)) == ours[:length]
    assert merges > 100


@pytest.mark.parametrize("size", [40, 52, 60, 72])
def test_emitting_is_the_same_in_c_and_python_and_is_parsed_again(native, size):
    rng = random.Random(size)
    ip = 40 if size >= 60 else 20
    for _ in range(300):
        header = bytearray(size)
        if ip == 40:
            struct.pack_into(">BxxxxxBB", header, 0, 0x60, 6, 64)
            header[8:40] = b"\x20\1" + bytes(13) + b"\1\x20\1" + bytes(13) + b"\2"
        else:
            struct.pack_into(
                ">BxxxxxHBBxxII", header, 0, 0x45, 0x4000, 64, 6, 0x0A000001, 0x0A000002
            )
        struct.pack_into(">HH8xB", header, ip, 80, 4000, size - ip << 2)
        if size == ip + 32:
            struct.pack_into(">I", header, ip + 20, 0x0101080A)
        seq, ack, value, echo = (rng.getrandbits(40) for _ in range(4))
        window, length = rng.getrandbits(16), rng.choice((0, 1, 2, 100, 1447))
        ring, at = rng.randbytes(2048), rng.randrange(2049)
        ours, theirs = bytearray(1600), native.ffi.new("uint8_t[]", 1600)
        ours[12:14] = theirs[12:14] = b"\x86\xdd" if ip == 40 else b"\x08\0"
        end = _netbuf.emit(ours, header, seq, ack, 24, window, value, echo, ring, at, length)
        first = min(length, len(ring) - at)
        mask = 0xFFFFFFFF
        fields = (seq & mask, ack & mask, 24, window, value & mask, echo & mask)
        buf = native.ffi.from_buffer(ring)
        assert (
            end
            == 14 + size + length
            == native.lib.netbuf_emit(
                theirs,
                bytes(header),
                size,
                native.ffi.new("struct netbuf_fields *", fields),
                native.ffi.cast("uint8_t *", buf) + at,
                first,
                native.ffi.cast("uint8_t *", buf),
                length - first,
            )
        )
        assert bytes(native.ffi.buffer(theirs, end)) == ours[:end]
        # merge() needs a right checksum.
        assert _netbuf.merge(bytearray(2000), 0, ours, end) == end
        parsed = _netbuf.segment(ours, end)
        assert parsed[3:7] == fields[:4]
        assert ours[parsed[7] : parsed[8]] == (ring + ring)[at : at + length]
        assert parsed[9] == ((value & mask, echo & mask, ()) if size == ip + 32 else None)


def test_priority_tags_are_left_out(native):
    # IEEE 802.1Q 6.9
    frames = []
    segments = Segments(1)
    while len(frames) < 2:
        frame = segments.next()
        if frame[12:14] == b"\x08\0" and _netbuf.merge(bytearray(2000), 0, frame, len(frame)):
            frames.append(frame)
    frame = frames[0]
    plain = bytearray(2000)
    end = _netbuf.merge(plain, 0, frame, len(frame))
    for tags, taken in (
        (b"\x81\0\0\0", True),
        (b"\x81\0\xe0\0", True),
        (b"\x88\xa8\xe0\0\x81\0\x10\0", True),
        (b"\x81\0\0\0" * 3, False),
        (b"\x81\0\0\5", False),
        (b"\x81\0\xef\xff", False),
        (b"\x81\0\0\0\x81\0\0\5", False),
    ):
        tagged = frame[:12] + tags + frame[12:]
        ours, theirs = bytearray(2000), native.ffi.new("uint8_t[]", 2000)
        buf = native.ffi.new("uint8_t[]", tagged)
        got = _netbuf.merge(ours, 0, tagged, len(tagged))
        assert got == native.lib.netbuf_merge(theirs, 0, 2000, buf, len(tagged))
        assert got == (end if taken else 0)
        if taken:
            assert ours == plain and bytes(native.ffi.buffer(theirs)) == plain
        group = b"\xff" * 6 + tagged[6:]
        buf = native.ffi.new("uint8_t[]", group)
        assert not _netbuf.merge(ours, 0, group, len(group))
        assert not native.lib.netbuf_merge(theirs, 0, 2000, buf, len(group))
