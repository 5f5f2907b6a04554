"""Write what an object embeds in place of its PTX: a struct ptx_reference (native/ptx/pack.h).

    python reference.py OUTPUT NAME PTX

NAME: the unit's, whose CRC is the file's number. PTX: the text for the lowest architecture.
"""

import hashlib
import struct
import sys
import zlib
from pathlib import Path

MAGIC = b"CLLMPTXR"
VERSION = 1


def number_of(name):
    """Return the number of the unit `name` in a pack."""
    return zlib.crc32(name.encode())


def reference(name, text):
    """Return the 48 bytes. text: bytes of the PTX."""
    return MAGIC + struct.pack("<II", VERSION, number_of(name)) + hashlib.sha256(text).digest()


if __name__ == "__main__":
    output, name, ptx = sys.argv[1:]
    Path(output).write_bytes(reference(name, Path(ptx).read_bytes()))
