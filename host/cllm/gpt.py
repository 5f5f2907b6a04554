"""GUID partition tables, written and read. UEFI specification 2.10, 5.3 "GUID Partition Table".

Sectors have 512 bytes, which is what GRUB's BIOS code and nearly all disks' firmware count in.
"""

import dataclasses
import struct
import uuid
import zlib
from collections.abc import Sequence

from . import CllmError

SECTOR = 512
ENTRIES = 128
ENTRY = struct.Struct("<16s16sQQQ72s")  # table 5.6
HEADER = struct.Struct("<8sIIIIQQQQ16sQIII")  # table 5.5
TABLE = ENTRIES * ENTRY.size // SECTOR  # sectors of the array of entries
FIRST = 2 + TABLE  # the first sector that partitions may have
LAST = 1 + TABLE  # as many at the end of the disk are the second table's
ALIGNED = 2048  # sectors in 1 MiB, on which partitions begin
NAME = 36  # UTF-16 code units in a partition's name

ESP = uuid.UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")
BIOS_BOOT = uuid.UUID("21686148-6449-6e6f-744e-656564454649")
BASIC_DATA = uuid.UUID("ebd0a0a2-b9e5-4433-87c0-68b6b72699c7")
# cllm's own: a file as it is from the first sector on, under the partition's name.
CLLM_FILE = uuid.UUID("9729b651-2b80-47de-b9cb-6fd6e811e8f7")
# LittleFS2 with blocks of 4096 bytes.
CLLM_FLASH = uuid.UUID("27a10ceb-c6a4-47c7-9961-72a529e838bc")


@dataclasses.dataclass(frozen=True)
class Partition:
    """A partition of a table. first: its first sector. count: how many sectors it has."""

    name: str
    kind: uuid.UUID
    first: int
    count: int
    guid: uuid.UUID = dataclasses.field(default_factory=uuid.uuid4)

    @property
    def offset(self) -> int:
        """The byte of the disk where it begins."""
        return self.first * SECTOR

    @property
    def size(self) -> int:
        """Its bytes."""
        return self.count * SECTOR


@dataclasses.dataclass(frozen=True)
class Table:
    """What read() found. backup: whether only the second header was whole."""

    guid: uuid.UUID
    partitions: list[Partition]
    backup: bool


def build(
    partitions: Sequence[Partition], sectors: int, guid: uuid.UUID, boot_code: bytes = b""
) -> tuple[bytes, bytes]:
    """Return what goes to the first FIRST sectors and to the last LAST sectors of a disk.

    sectors: of the disk. boot_code: up to 440 bytes that a BIOS runs. Raises CllmError for
    partitions that overlap, are outside of the disk or have too long a name.
    """
    _check(partitions, sectors)
    entries = b"".join(
        ENTRY.pack(
            part.kind.bytes_le,
            part.guid.bytes_le,
            part.first,
            part.first + part.count - 1,
            0,
            part.name.encode("utf-16-le"),
        )
        for part in partitions
    ).ljust(ENTRIES * ENTRY.size, b"\0")

    def header(own: int, other: int, table: int) -> bytes:
        def pack(crc: int) -> bytes:
            return HEADER.pack(
                b"EFI PART",
                0x00010000,
                HEADER.size,
                crc,
                0,
                own,
                other,
                FIRST,
                sectors - LAST - 1,
                guid.bytes_le,
                table,
                ENTRIES,
                ENTRY.size,
                zlib.crc32(entries),
            )

        # The header's own CRC counts as zero (table 5.5, HeaderCRC32).
        return pack(zlib.crc32(pack(0))).ljust(SECTOR, b"\0")

    end = sectors - 1
    head = _protective_mbr(sectors, boot_code) + header(1, end, 2) + entries
    return head, entries + header(end, 1, end - TABLE)


def _check(partitions: Sequence[Partition], sectors: int) -> None:
    at = FIRST
    for part in sorted(partitions, key=lambda part: part.first):
        if part.count <= 0 or part.first < at or part.first + part.count > sectors - LAST:
            raise CllmError(f"partition {part.name}: no room for it at sector {part.first}")
        at = part.first + part.count
    for part in partitions:
        if len(part.name.encode("utf-16-le")) > 2 * NAME:
            raise CllmError(f"{part.name}: a partition's name has at most {NAME} characters")


def _protective_mbr(sectors: int, boot_code: bytes) -> bytes:
    """Return sector 0: one partition over the whole disk, of a type that old tools leave alone."""
    # UEFI 2.10, table 5.4: from CHS 0/0/2 to the last, capped at what 32 bits hold.
    record = struct.pack(
        "<B3sB3sII", 0, b"\0\2\0", 0xEE, b"\xff\xff\xff", 1, min(sectors - 1, 0xFFFFFFFF)
    )
    return boot_code.ljust(440, b"\0") + bytes(6) + record.ljust(64, b"\0") + b"\x55\xaa"


def read(file, sectors: int) -> Table:
    """Return the Table of a disk, from the second header if the first is damaged.

    file: seekable, of bytes. sectors: of the disk. Raises CllmError when there is none.
    """
    for own in (1, sectors - 1):
        found = _read_header(file, own)
        if found:
            guid, partitions = found
            return Table(guid, partitions, own != 1)
    raise CllmError("there is no GUID partition table")


def _read_header(file, own: int) -> tuple[uuid.UUID, list[Partition]] | None:
    if own < 1:
        return None
    file.seek(own * SECTOR)
    data = file.read(SECTOR)
    if len(data) < SECTOR:
        return None
    magic, _, size, crc, _, where, _, _, _, guid, table, number, width, entries_crc = (
        HEADER.unpack_from(data)
    )
    if magic != b"EFI PART" or where != own or not HEADER.size <= size <= SECTOR:
        return None
    if zlib.crc32(data[:16] + bytes(4) + data[20:size]) != crc:
        return None
    if width < ENTRY.size or number * width > 1 << 20:
        return None
    file.seek(table * SECTOR)
    entries = file.read(number * width)
    if zlib.crc32(entries) != entries_crc:
        return None
    partitions = []
    for at in range(0, len(entries), width):
        kind, unique, first, last, _, name = ENTRY.unpack_from(entries, at)
        if any(kind):
            partitions.append(
                Partition(
                    name.decode("utf-16-le", "replace").split("\0")[0],
                    uuid.UUID(bytes_le=kind),
                    first,
                    last - first + 1,
                    uuid.UUID(bytes_le=unique),
                )
            )
    return uuid.UUID(bytes_le=guid), partitions
