"""GUID partition tables: read, never written.

Numbers are sections of the UEFI Specification, version 2.10.
"""
# SPDX-License-Identifier: MIT

import binascii
import struct

from drivers.disk import Part
from micropython import const

# 5.3.2: the header's fields.
_SIGNATURE = b"EFI PART"
_HEADER = "<8sIIIIQQQQ16sQIII"
_HEADER_SIZE = const(92)
_CRC_AT = const(16)
# 5.3.3: an entry has 128 * 2^n bytes. The rest are bounds of ours.
_ENTRY_SIZE = const(128)
_LARGEST_ENTRY = const(4096)
_MOST_ENTRIES = const(1024)
_NAME_AT = const(56)


class TableError(Exception):
    """There is no valid partition table, or one copy of it is damaged: the reason."""


def read(disk):
    """Return ([Part], words) of a disk: words say what is wrong with the first table if the
    second, at the disk's end, had to be used, else None. Raise TableError without a table, and
    OSError if the disk cannot be read.
    """
    try:
        return _table(disk, 1), None
    except TableError as exc:
        first = exc
    try:
        parts = _table(disk, disk.sectors - 1)
    except TableError as exc:
        raise TableError("%s; second table: %s" % (first, exc))
    return parts, str(first)


def _table(disk, lba):
    if disk.sectors < 3:
        raise TableError("no room for one")
    sector = bytearray(disk.sector)
    disk.read(lba, sector)
    (
        signature,
        _,
        size,
        crc,
        _,
        my_lba,
        _,
        first_usable,
        last_usable,
        _,
        entries,
        count,
        entry_size,
        entries_crc,
    ) = struct.unpack_from(_HEADER, sector)
    if signature != _SIGNATURE:
        raise TableError("no signature")
    if not _HEADER_SIZE <= size <= disk.sector:
        raise TableError("a header of %d bytes" % size)
    sector[_CRC_AT : _CRC_AT + 4] = b"\0\0\0\0"
    if binascii.crc32(sector[:size]) != crc:
        raise TableError("wrong CRC of the header")
    if my_lba != lba:
        raise TableError("the header belongs to sector %d" % my_lba)
    if (
        not _ENTRY_SIZE <= entry_size <= _LARGEST_ENTRY
        or entry_size % _ENTRY_SIZE
        or not 0 < count <= _MOST_ENTRIES
    ):
        raise TableError("%d entries of %d bytes" % (count, entry_size))
    length = count * entry_size
    whole = -(-length // disk.sector) * disk.sector
    if entries + whole // disk.sector > disk.sectors:
        raise TableError("the entries lie outside of the disk")
    table = bytearray(whole)
    disk.read(entries, table)
    if binascii.crc32(memoryview(table)[:length]) != entries_crc:
        raise TableError("wrong CRC of the entries")
    return _parts(disk, table, count, entry_size, first_usable, min(last_usable, disk.sectors - 1))


def _parts(disk, table, count, entry_size, lowest, highest):
    parts = []
    for number in range(count):
        at = number * entry_size
        kind = table[at : at + 16]
        if not any(kind):
            continue
        first, last = struct.unpack_from("<QQ", table, at + 32)
        if not lowest <= first <= last <= highest:
            raise TableError("partition %d lies outside of the disk" % (number + 1))
        name = _name(table[at + _NAME_AT : at + _ENTRY_SIZE])
        parts.append(Part(disk, first, last - first + 1, name, guid_text(kind)))
    return parts


def _name(data):
    """Return the text of UTF-16 that ends with a zero or with the data."""
    text = ""
    at = 0
    while at + 2 <= len(data):
        unit = data[at] | data[at + 1] << 8
        at += 2
        if not unit:
            break
        if 0xD800 <= unit < 0xDC00 and at + 2 <= len(data):
            low = data[at] | data[at + 1] << 8
            if 0xDC00 <= low < 0xE000:
                at += 2
                unit = 0x10000 + ((unit & 0x3FF) << 10 | low & 0x3FF)
        text += "?" if 0xD800 <= unit < 0xE000 else chr(unit)
    return text


def guid_text(data):
    """Return a GUID's text: the first three fields are little-endian (appendix A)."""
    fields = struct.unpack("<IHH", bytes(data[:8]))
    rest = binascii.hexlify(bytes(data[8:16])).decode().upper()
    return "%08X-%04X-%04X-%s-%s" % (fields + (rest[:4], rest[4:]))
