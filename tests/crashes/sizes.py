"""Sizes, counts and widths that do not fit; run on MicroPython's unix build and in a guest."""

import array
import collections
import io
import random
import struct

B = 1 << 61  # items of 8 bytes each are 0 bytes, in 64 bits
TOO_LARGE = (MemoryError, OverflowError, ValueError)


class Liar:
    """Has another length than it says."""

    def __init__(self, length):
        self.length = length

    def __len__(self):
        return self.length

    def __iter__(self):
        return iter([1, 2, 3] * 100)


def refused(*texts):
    for text in texts:
        try:
            result = eval(text)
        except TOO_LARGE:
            continue
        raise AssertionError(text + ": " + repr(result)[:60])


refused(
    "[0] * B",
    "[0] * (B + 1)",
    "[0, 0] * (1 << 60)",
    "B * [0]",
    "[0] * (B - 1)",
    "[0] * (1 << 100)",
)
refused("(1,) * B", "(1, 2) * (1 << 60)", "(1,) * (B - 2)")
refused(
    "b'12345678' * (B + 1)", "b'ab' * ((1 << 63) + 1)", "'abcdefgh' * B", "'abcdefgh' * (B + 1)"
)
refused(
    "bytearray(1 << 62)", "bytearray(-1)", "bytes(1 << 62)", "bytes((1 << 62) - 1)", "bytes(-1)"
)
refused("bytes(Liar(B))", "bytearray(Liar(B))", "array.array('d', Liar(B))")
refused("'x'.center(1 << 62)", "b'x'.center((1 << 62) - 1)", "(5).to_bytes(1 << 62, 'big')")
refused("collections.deque((), B)", "collections.deque((), B - 1)", "collections.deque((), -1)")
refused("io.BytesIO(1 << 62)", "io.StringIO(1 << 62)")
refused(
    "1 << (1 << 62)",
    "2 ** (1 << 62)",
    "10 ** 10 ** 9",
    "(1 << 100) ** (1 << 100)",
    "(-3) ** (1 << 62)",
)
refused(
    "'{:99999999999}'.format(5)", "'{:<99999999999}'.format('a')", "'{:099999999999f}'.format(5.0)"
)
refused(
    "'%99999999999d' % 5", "'%*d' % (1 << 40, 5)", "'%-99999999999s' % 'a'", "'%.99999999999d' % 5"
)
refused(
    "'{:{}}'.format(5, 1 << 40)", "'%.*f' % (1 << 40, 1.5)", "'{99999999999999999999}'.format(5)"
)
refused(
    "struct.calcsize('99999999999999999999s')",
    "struct.calcsize('4611686018427387904s4611686018427387904s')",
)
refused(
    "struct.pack('2305843009213693952Q', 1)", "struct.unpack('2305843009213693953Q', b'12345678')"
)
refused("struct.unpack('999999999999B', b'')", "struct.unpack_from('B', b'a', (1 << 62) - 1)")
refused(
    "struct.pack_into('B', bytearray(1), (1 << 62) - 1, 1)",
    "struct.pack_into('B', bytearray(1), -B, 1)",
)


def write_at(position):
    file = io.BytesIO(b"abc")
    file.seek(position)
    file.write(b"abcdefgh")


for position in (1 << 40, B, (1 << 62) - 1):
    refused("write_at(%d)" % position)
try:
    pow(3, 1 << 64, 0)
except ZeroDivisionError:
    pass

assert [] * B == [] and () * B == () and b"" * B == b"" and "" * B == ""
assert list(array.array("b", Liar(1))) == [1, 2, 3] * 100 and bytes(Liar(1)) == bytes(
    [1, 2, 3] * 100
)
assert "a b".rsplit(" ", B) == ["a", "b"] and round(15, -B) == 0
assert len(range(0, -(1 << 62), -1)) > 0 and len(range(0, 10, 1 << 32)[:: 1 << 32]) == 0
for _ in range(100):
    assert 0 <= random.randrange(1 << 62) < 1 << 62
    assert -(1 << 62) <= random.randint(-(1 << 62), 0) <= 0
assert str(10**50) == "1" + "0" * 50 and int("9" * 100) == 10**100 - 1
assert hex(16**33 + 5) == "0x1" + "0" * 32 + "5"
assert (
    "{:,}".format(-(10**20)) == "-100,000,000,000,000,000,000" and int("z" * 30, 36) == 36**30 - 1
)
text = "%900000d" % 5
assert len(text) == 900000 and text[-2:] == " 5"
print("crashes: ok")
