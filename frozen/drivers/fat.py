"""Where a file of a FAT32 volume lies, so that a model is read straight into memory.

Everything else about FAT is MicroPython's VfsFat. Numbers are sections of Microsoft's FAT32 File
System Specification, version 1.03.
"""
# SPDX-License-Identifier: MIT

import struct

from micropython import const

_ENOENT = const(2)
_EIO = const(5)
_END = const(0x0FFFFFF8)
_MASK = const(0x0FFFFFFF)
_ENTRY = const(32)
_DIRECTORY = const(0x10)
_LABEL = const(0x08)
_LONG_NAME = const(0x0F)
_LAST_LONG = const(0x40)
_DELETED = const(0xE5)
_CHUNK = const(32768)  # bytes of the table that are read at a time
_ENTRIES = const(_CHUNK // 4)
_STEP = const(128)  # clusters that are compared at a time
_LARGEST_DIRECTORY = const(1 << 21)  # bytes, "FAT Directory Structure"


class Volume:
    """A FAT32 volume on a Part. OSError where it is none."""

    def __init__(self, part):
        sector = bytearray(part.disk.sector)
        part.readblocks(0, sector)
        # "Boot Sector and BPB Structure"
        size, per_cluster, reserved, tables = struct.unpack_from("<HBHB", sector, 11)
        table_size = struct.unpack_from("<I", sector, 36)[0]
        self._root = struct.unpack_from("<I", sector, 44)[0]
        if (
            sector[82:90] != b"FAT32   "
            or size < part.disk.sector
            or size % part.disk.sector
            or not per_cluster
            or not tables
        ):
            raise OSError(_EIO, "no FAT32")
        self._part = part
        self._table_at = reserved * size
        self._data_at = (reserved + tables * table_size) * size
        self._cluster = per_cluster * size
        self._clusters = min(
            table_size * size // 4, (part.size - self._data_at) // self._cluster + 2
        )
        self._chunk = bytearray(_CHUNK)
        self._chunk_number = -1

    def runs(self, path):
        """Return ([(sector of the disk, bytes)], bytes of the file) of "folder/name"."""
        cluster, size, is_folder = self._root, 0, True
        for name in path.split("/"):
            if not is_folder:
                raise OSError(_ENOENT)
            cluster, size, is_folder = self._find(self._read(cluster), name)
        if is_folder:
            raise OSError(_ENOENT)
        return self._runs(cluster, size), size

    def _error(self):
        return OSError(_EIO, "the FAT32 volume is damaged")

    def _entries(self, cluster):
        # Return the table's entries from a cluster's own to the chunk's end: (chunk, index).
        if not 2 <= cluster < self._clusters:
            raise self._error()
        number = cluster // _ENTRIES
        if number != self._chunk_number:
            self._chunk_number = -1
            at = self._table_at + number * _CHUNK
            sector = self._part.disk.sector
            view = memoryview(self._chunk)
            end = min(_CHUNK, self._data_at - at, self._part.size - at) // sector * sector
            self._part.readblocks(0, view[:end], at)
            self._chunk_number = number
        return self._chunk, cluster % _ENTRIES

    def _runs(self, cluster, size):
        runs = []
        sector = self._part.disk.sector
        left = -(-size // self._cluster)
        while left:
            # 4.1: the chain. A run goes on as long as an entry names the next cluster.
            first, count = cluster, 1
            while True:
                chunk, at = self._entries(cluster)
                if count + _STEP <= left and at + _STEP <= _ENTRIES:
                    expected = struct.pack(
                        "<%dI" % _STEP, *range(cluster + 1, cluster + 1 + _STEP)
                    )
                    if chunk[4 * at : 4 * (at + _STEP)] == expected:
                        cluster += _STEP
                        count += _STEP
                        continue
                following = struct.unpack_from("<I", chunk, 4 * at)[0] & _MASK
                if following != cluster + 1 or count == left:
                    break
                cluster += 1
                count += 1
            if first + count > self._clusters:
                raise self._error()
            at = self._data_at + (first - 2) * self._cluster
            length = min(count * self._cluster, size)
            runs.append((self._part.first + at // sector, length))
            size -= length
            left -= count
            if left:
                cluster = following
        return runs

    def _read(self, cluster):
        """Return the content of a folder."""
        data = bytearray()
        sector = self._part.disk.sector
        while cluster < _END:
            chunk, at = self._entries(cluster)
            following = struct.unpack_from("<I", chunk, 4 * at)[0] & _MASK
            piece = bytearray(self._cluster)
            first = self._data_at + (cluster - 2) * self._cluster
            self._part.disk.read(self._part.first + first // sector, piece)
            data += piece
            if len(data) > _LARGEST_DIRECTORY:
                raise self._error()
            cluster = following
        return data

    def _find(self, data, name):
        # Return (first cluster, bytes, whether it is a folder) of a name in a folder.
        wanted = name.lower()
        long_name = ""
        for at in range(0, len(data), _ENTRY):
            first = data[at]
            if not first:
                break
            attributes = data[at + 11]
            if first == _DELETED:
                long_name = ""
            elif attributes & 0x3F == _LONG_NAME:
                # The pieces of a long name come last first.
                units = bytes(data[at + 1 : at + 11] + data[at + 14 : at + 26])
                units += bytes(data[at + 28 : at + 32])
                text = "".join([chr(unit) for unit in struct.unpack("<13H", units) if unit])
                piece = text.rstrip("\uffff")
                long_name = piece if first & _LAST_LONG else piece + long_name
            else:
                short = bytes(data[at : at + 8]).rstrip() + b"." + bytes(data[at + 8 : at + 11])
                short = short.rstrip().rstrip(b".").lower()
                if not attributes & _LABEL and (
                    long_name.lower() == wanted or short == wanted.encode()
                ):
                    high, low, size = struct.unpack("<HxxxxHI", bytes(data[at + 20 : at + 32]))
                    return high << 16 | low, size, bool(attributes & _DIRECTORY)
                long_name = ""
        raise OSError(_ENOENT)
