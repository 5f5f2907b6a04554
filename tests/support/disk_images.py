"""Disk images for tests: partition tables made by hand from the UEFI specification, 5.3."""

import binascii
import struct
import uuid
from pathlib import Path

from cllm import TOP

SECTOR = 512
ENTRIES, ENTRY = 128, 128
FIRST = 2048  # sectors: partitions begin at 1 MiB


def _types():
    names: dict[str, str] = {}
    exec((TOP / "frozen/drivers/gpt_types.py").read_text(), names)
    return names


TYPES = _types()


def entry(kind, first, last, name, number=1):
    """A partition's entry (5.3.3)."""
    made = uuid.UUID(kind).bytes_le + uuid.UUID(int=number).bytes_le
    made += struct.pack("<QQQ", first, last, 0) + name.encode("utf-16-le").ljust(72, b"\0")
    assert len(made) == ENTRY
    return made


def header(sectors, lba, other, entries_at, table, sector=SECTOR, size=92):
    """A header (5.3.2) with its CRC."""
    made = struct.pack(
        "<8sIIIIQQQQ16sQIII",
        b"EFI PART",
        0x10000,
        size,
        0,
        0,
        lba,
        other,
        34,
        sectors - 34,
        uuid.UUID(int=7).bytes_le,
        entries_at,
        ENTRIES,
        ENTRY,
        binascii.crc32(table),
    )
    made = made.ljust(size, b"\0")
    made = made[:16] + struct.pack("<I", binascii.crc32(made)) + made[20:]
    return made.ljust(sector, b"\0")


def tables(parts, sectors, sector=SECTOR):
    """(what begins the disk, what ends it) for parts [(kind, first, count, name)]."""
    table = b"".join(
        entry(kind, first, first + count - 1, name, number)
        for number, (kind, first, count, name) in enumerate(parts, 1)
    ).ljust(ENTRIES * ENTRY, b"\0")
    length = len(table) // sector
    # 5.2.3: the protective MBR.
    mbr = bytearray(sector)
    mbr[446:462] = struct.pack("<BBBBBBBBII", 0, 0, 2, 0, 0xEE, 255, 255, 255, 1, sectors - 1)
    mbr[510:512] = b"\x55\xaa"
    first = bytes(mbr) + header(sectors, 1, sectors - 1, 2, table, sector) + table
    last = table + header(sectors, sectors - 1, 1, sectors - 1 - length, table, sector)
    return first, last


def make(path, parts, damage=None):
    """Write an image with partitions [(kind, name, content: bytes, a Path, or a size)], sparse.

    damage: "first" or "both" makes these tables' CRCs wrong. Returns {name: first sector}.
    """
    places, laid, at = {}, [], FIRST
    for kind, name, content in parts:
        size = (
            content
            if isinstance(content, int)
            else len(content)
            if isinstance(content, bytes)
            else Path(content).stat().st_size
        )
        count = -(-size // SECTOR)
        laid.append((TYPES.get(kind, kind), at, count, name))
        places[name] = at
        at += -(-count // FIRST) * FIRST
    sectors = at + FIRST
    first, last = tables(laid, sectors)
    if damage:
        first = first[: SECTOR + 40] + bytes([first[SECTOR + 40] ^ 1]) + first[SECTOR + 41 :]
    if damage == "both":
        last = last[:-SECTOR] + bytes(SECTOR)
    with open(path, "wb") as file:
        file.write(first)
        for (_, _, content), (_, start, _, _) in zip(parts, laid, strict=True):
            file.seek(start * SECTOR)
            if isinstance(content, bytes):
                file.write(content)
            elif not isinstance(content, int):
                file.write(Path(content).read_bytes())
        file.truncate(sectors * SECTOR)
        file.seek(sectors * SECTOR - len(last))
        file.write(last)
    return places
