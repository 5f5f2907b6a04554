"""Put a suffix behind the name of every symbol that a relocatable object defines for others.

    python suffix.py OBJECT .avx2

Called by CMakeLists.txt. Code inside the object refers to symbols by number, so it follows by
itself; names that the object only uses stay. The new names go behind the end of the file.
Source: ELF-64 object file format 1.5, figures 2 (header), 3 (sections) and 6 (symbols).
"""

import struct
import sys
from pathlib import Path

SHT_SYMTAB = 2
SHN_UNDEF = 0
STB_LOCAL = 0


def add_suffix(data, suffix):
    """Change the ELF file in `data`, a bytearray; returns how many symbols were renamed."""
    if data[:6] != b"\x7fELF\x02\x01":
        raise ValueError("not a 64-bit little-endian ELF file")
    (first,) = struct.unpack_from("<Q", data, 40)  # e_shoff
    size, count = struct.unpack_from("<HH", data, 58)  # e_shentsize, e_shnum
    sections = [struct.unpack_from("<IIQQQQIIQQ", data, first + i * size) for i in range(count)]
    (table,) = [section for section in sections if section[1] == SHT_SYMTAB]
    strings_at = first + table[6] * size  # sh_link: the header of the names' section
    offset, length = sections[table[6]][4:6]
    strings = bytearray(data[offset : offset + length])
    renamed = 0
    for at in range(table[4], table[4] + table[5], 24):
        name, info, _, section = struct.unpack_from("<IBBH", data, at)
        if section == SHN_UNDEF or info >> 4 == STB_LOCAL:
            continue
        struct.pack_into("<I", data, at, len(strings))
        strings += strings[name : strings.index(b"\0", name)] + suffix + b"\0"
        renamed += 1
    struct.pack_into("<QQ", data, strings_at + 24, len(data), len(strings))  # sh_offset, sh_size
    data += strings
    return renamed


if __name__ == "__main__":
    path = Path(sys.argv[1])
    content = bytearray(path.read_bytes())
    if not add_suffix(content, sys.argv[2].encode()):
        sys.exit(f"{path} defines no symbol")
    path.write_bytes(content)
