"""native/netbuf, compiled for the host, against RFC 1071 and the Python twin in shim/."""

import random

import _netbuf
import pytest


@pytest.fixture(scope="module")
def native(compile_native):
    return compile_native(
        "netbuf",
        """
        uint16_t netbuf_checksum(const uint8_t *data, size_t length, uint32_t initial);
        void netbuf_copy(uint8_t *to, const uint8_t *from, size_t length);
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
