"""Partition tables made by hand from the UEFI specification, and what is wrong with them."""

import binascii
import struct

import disk_models  # noqa: F401, makes drivers.disk importable
import pytest
from drivers import gpt, gpt_types
from drivers.disk import Disk

SECTORS = 4096
ZERO = bytes(16)


class Memory(Disk):
    """A disk in memory, whose reads of `bad` sectors fail."""

    def __init__(self, data, sector=512):
        self.name, self.sector, self.sectors = "mem0", sector, len(data) // sector
        self.data, self.bad, self.flushes = data, set(), 0

    def read(self, lba, view):
        self._check(lba, len(view))
        for n in range(lba, lba + len(view) // self.sector):
            if n in self.bad:
                raise OSError(5, "mem0: read at sector %d" % n)
        at = lba * self.sector
        view[:] = self.data[at : at + len(view)]

    def write(self, lba, view):
        self._check(lba, len(view))
        at = lba * self.sector
        self.data[at : at + len(view)] = view

    def flush(self):
        self.flushes += 1


def guid(text):
    """The bytes of a GUID's text (appendix A)."""
    a, b, c, d, e = text.split("-")
    fields = struct.pack("<IHH", int(a, 16), int(b, 16), int(c, 16))
    return fields + binascii.unhexlify(d + e)


def utf16(text):
    made = b""
    for c in text:
        n = ord(c)
        if n >= 0x10000:
            n -= 0x10000
            made += struct.pack("<HH", 0xD800 | n >> 10, 0xDC00 | n & 0x3FF)
        else:
            made += struct.pack("<H", n)
    return made


def entry(kind, first, last, name):
    name = utf16(name) if isinstance(name, str) else name
    made = guid(kind) + b"\1" * 16 + struct.pack("<QQQ", first, last, 0) + name
    return made + bytes(128 - len(made))


def header(lba, other, entries, table, size=92, count=128, entry_size=128, usable=(34, 4000)):
    fields = (b"EFI PART", 0x10000, size, 0, 0, lba, other)
    fields += usable + (ZERO, entries, count, entry_size, binascii.crc32(table))
    made = struct.pack("<8sIIIIQQQQ16sQIII", *fields)
    made += bytes(max(0, size - 92))
    return made[:16] + struct.pack("<I", binascii.crc32(made[:size])) + made[20:]


def image(entries, sector=512, **fields):
    """A disk with both tables."""
    table = b"".join(entries)
    table += bytes(fields.get("count", 128) * fields.get("entry_size", 128) - len(table))
    sectors = SECTORS * 512 // sector
    data = bytearray(SECTORS * 512)
    length = -(-len(table) // sector)
    last = sectors - 1
    for lba, other, at in ((1, last, 2), (last, 1, last - length)):
        made = header(lba, other, at, table, **fields)
        data[lba * sector : lba * sector + len(made)] = made
        data[at * sector : at * sector + len(table)] = table
    return Memory(data, sector)


ENTRIES = [
    entry(gpt_types.ESP, 64, 127, "CLLM"),
    bytes(128),
    entry(gpt_types.MODEL, 128, 1151, "modèle-😀.gguf"),
    entry(gpt_types.FLASH, 2000, 4000, "flash"),
]


def shown(parts):
    return [(part.kind, part.first, part.count, part.name) for part in parts]


WANTED = [
    (gpt_types.ESP, 64, 64, "CLLM"),
    (gpt_types.MODEL, 128, 1024, "modèle-😀.gguf"),
    (gpt_types.FLASH, 2000, 2001, "flash"),
]


def test_a_table():
    parts, words = gpt.read(image(ENTRIES))
    assert shown(parts) == WANTED and words is None


@pytest.mark.parametrize(
    "fields", [{"size": 512}, {"entry_size": 256}, {"count": 4}, {"count": 3}]
)
def test_sizes_of_headers_and_entries(fields):
    entries = ENTRIES
    if fields.get("entry_size"):
        entries = [one + bytes(128) for one in ENTRIES]
    if fields.get("count") == 3:
        entries = ENTRIES[:3]
    parts, words = gpt.read(image(entries, **fields))
    assert shown(parts) == WANTED[: len(parts)] and len(parts) > 1 and words is None


def test_sectors_of_4_kib():
    entries = [entry(gpt_types.MODEL, 64, 127, "m.gguf")]
    parts, _ = gpt.read(image(entries, 4096, usable=(6, 400)))
    assert shown(parts) == [(gpt_types.MODEL, 64, 64, "m.gguf")]
    assert parts[0].size == 64 * 4096 and parts[0].block == 4096


@pytest.mark.parametrize(
    "at, words",
    [
        (512, "no signature"),
        (512 + 13, "header of"),
        (512 + 60, "CRC of the header"),
        (512 + 16, "CRC of the header"),
        (1024 + 130, "CRC of the entries"),
    ],
)
def test_a_damaged_first_table_falls_back_to_the_second(at, words):
    disk = image(ENTRIES)
    disk.data[at] ^= 0x81
    parts, said = gpt.read(disk)
    assert shown(parts) == WANTED and words in said
    disk.data[(SECTORS - 1) * 512] ^= 1
    with pytest.raises(gpt.TableError, match="second table: no signature"):
        gpt.read(disk)


@pytest.mark.parametrize(
    "entries, fields",
    [
        ([entry(gpt_types.MODEL, 20, 30, "x")], {}),  # before the first usable sector
        ([entry(gpt_types.MODEL, 100, 4001, "x")], {}),
        ([entry(gpt_types.MODEL, 100, 99, "x")], {}),
        ([entry(gpt_types.MODEL, 100, (1 << 64) - 1, "x")], {"usable": (34, (1 << 64) - 1)}),
        ([], {"count": 0}),
        ([], {"count": 2000}),
        ([], {"entry_size": 96}),
        ([], {"entry_size": 136}),
    ],
)
def test_tables_with_right_checksums_and_wrong_contents(entries, fields):
    with pytest.raises(gpt.TableError):
        gpt.read(image(entries, **fields))


def test_a_header_from_elsewhere():
    disk = image(ENTRIES)
    disk.data[512:1024] = disk.data[(SECTORS - 1) * 512 :]
    parts, words = gpt.read(disk)
    assert shown(parts) == WANTED and "belongs to sector 4095" in words


@pytest.mark.parametrize("size", [0, 512, 1024, 1536, 512 * 64])
def test_no_table(size):
    with pytest.raises(gpt.TableError):
        gpt.read(Memory(bytearray(size)))


def test_a_sector_that_cannot_be_read():
    disk = image(ENTRIES)
    disk.bad.add(1)
    with pytest.raises(OSError):
        gpt.read(disk)


@pytest.mark.parametrize(
    "name, text",
    [
        (b"", ""),
        (b"a\0\0\0b\0", "a"),
        (b"\x3d\xd8", "?"),  # half a pair
        (b"\x00\xdca\0", "?a"),
        (b"\x3d\xd8\x00\xde", "\U0001f600"),
        (b"a\0" * 36, "a" * 36),
    ],
)
def test_names(name, text):
    parts, _ = gpt.read(image([entry(gpt_types.MODEL, 64, 65, name)]))
    assert parts[0].name == text


def test_a_partition_as_a_block_device():
    disk = image(ENTRIES)
    (_, part, flash), _ = gpt.read(disk)
    assert (part.ioctl(4, 0), part.ioctl(5, 0), part.ioctl(6, 3), part.ioctl(1, 0)) == (
        1024,
        512,
        0,
        0,
    )
    part.writeblocks(2, b"a" * 1024)
    assert disk.data[130 * 512 : 132 * 512] == b"a" * 1024
    part.writeblocks(0, b"b" * 512, 512)
    view = bytearray(1536)
    part.readblocks(1, view)
    assert view == b"b" * 512 + b"a" * 1024
    part.ioctl(3, 0)
    assert disk.flushes == 1
    for block, size, offset in ((1023, 1024, 0), (1024, 512, 0), (-1, 512, 0), (0, 100, 0)):
        with pytest.raises(OSError):
            part.readblocks(block, bytearray(size), offset)
        with pytest.raises(OSError):
            part.writeblocks(block, bytearray(size), offset)
    flash.block = 4096
    assert flash.ioctl(4, 0) == 250 and flash.ioctl(5, 0) == 4096
    flash.writeblocks(1, b"c" * 512, 3584)
    assert disk.data[(2000 + 15) * 512 : (2000 + 16) * 512] == b"c" * 512
