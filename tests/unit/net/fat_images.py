"""FAT32 volumes made by hand from Microsoft's specification, sparse: {offset: bytes}."""

import struct

SECTOR = 512
RESERVED = 32
TABLES = 2


def _checksum(short):
    total = 0
    for c in short:
        total = ((total & 1) << 7 | total >> 1) + c & 0xFF
    return total


def _entry(short, attributes, cluster, size):
    made = short + bytes([attributes]) + bytes(8)
    return made + struct.pack("<HIHI", cluster >> 16, 0, cluster & 0xFFFF, size)


def _named(name, number, attributes, cluster, size):
    """Entries of a file: its long name, last piece first, and a short one."""
    short = ("F%07d" % number).encode() + b"BIN"
    units = [ord(c) for c in name] + [0]
    while len(units) % 13:
        units.append(0xFFFF)
    made = b""
    count = len(units) // 13
    for order in range(count, 0, -1):
        piece = struct.pack("<13H", *units[13 * order - 13 : 13 * order])
        first = order | (0x40 if order == count else 0)
        made += bytes([first]) + piece[:10] + b"\x0f\0" + bytes([_checksum(short)])
        made += piece[10:22] + b"\0\0" + piece[22:]
    return made + _entry(short, attributes, cluster, size)


class Volume:
    """files: {"name" or "folder/name": (bytes, gap)}: a gap leaves a cluster free behind every
    `gap` clusters of the file, 0 for none.
    """

    def __init__(self, files, cluster=1, clusters=66_000, label=b"CLLM"):
        self.size_of_cluster = cluster * SECTOR
        self.table = {0: 0x0FFFFFF8, 1: 0x0FFFFFFF}
        self.parts = {}
        self._next = 3
        self.chains = {}
        table_sectors = -(-(clusters + 2) * 4 // SECTOR)
        self.data_at = (RESERVED + TABLES * table_sectors) * SECTOR
        self.size = self.data_at + clusters * self.size_of_cluster
        root = _entry(label + b" " * (11 - len(label)), 8, 0, 0)
        folders = {}
        number = 0
        for path in sorted(files):
            content, gap = files[path]
            number += 1
            entry = _named(path.split("/")[-1], number, 0x20, self._add(path, content, gap), 0)
            entry = entry[:-4] + struct.pack("<I", len(content))
            if "/" in path:
                folder = path.split("/")[0]
                folders[folder] = folders.get(folder, b"") + entry
            else:
                root += entry
        for name in sorted(folders):
            number += 1
            root += _named(name, number, 0x10, self._add(name + "/", folders[name], 0), 0)
        self._put(2, root)
        self.table[2] = 0x0FFFFFFF
        assert len(root) <= self.size_of_cluster
        boot = bytearray(SECTOR)
        boot[:11] = b"\xeb\x58\x90MSWIN4.1"
        boot[11:36] = struct.pack(
            "<HBHBHHBHHHII",
            SECTOR,
            cluster,
            RESERVED,
            TABLES,
            0,
            0,
            0xF8,
            0,
            63,
            255,
            0,
            self.size // SECTOR,
        )
        boot[36:52] = struct.pack("<IHHIHH", table_sectors, 0, 0, 2, 1, 6)
        boot[64:71] = b"\x80\0\x29\x01\x02\x03\x04"
        boot[71:82] = label + b" " * (11 - len(label))
        boot[82:90] = b"FAT32   "
        boot[510:] = b"\x55\xaa"
        self.parts[0] = bytes(boot)
        info = bytearray(SECTOR)
        info[:4], info[484:488], info[508:] = b"RRaA", b"rrAa", b"\0\0\x55\xaa"
        info[488:496] = b"\xff" * 8
        self.parts[SECTOR] = bytes(info)
        for copy in range(TABLES):
            for first in sorted(self.table):
                at = (RESERVED + copy * table_sectors) * SECTOR + 4 * first
                self.parts[at] = struct.pack("<I", self.table[first])

    def _put(self, cluster, data):
        self.parts[self.data_at + (cluster - 2) * self.size_of_cluster] = data

    def _add(self, path, content, gap):
        size, chain, at = self.size_of_cluster, [], 0
        if not content:
            return 0
        while at < len(content):
            chain.append(self._next)
            self._put(self._next, content[at : at + size])
            self._next += 1
            at += size
            if gap and len(chain) % gap == 0:
                self._next += 1
        for cluster, following in zip(chain, chain[1:] + [0x0FFFFFFF]):
            self.table[cluster] = following
        self.chains[path] = chain
        return chain[0]

    def write(self, file, offset=0):
        """Write it to a seekable file, or into a bytearray."""
        for at in sorted(self.parts):
            data = self.parts[at]
            if isinstance(file, bytearray):
                file[offset + at : offset + at + len(data)] = data
            else:
                file.seek(offset + at)
                file.write(data)
