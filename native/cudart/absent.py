"""Write C++ that defines the template instances of ggml-cuda which a build has left out.

    python absent.py OUTPUT OBJECT ...

The `ci` profile does not compile every instance, but the code that chooses one names them all. Each
that is missing becomes a function that says its name and ends as a failed assertion of ggml does.
What else the objects lack comes from other libraries. Source: ELF-64 object file format 1.5,
figures 2 (header), 3 (sections) and 6 (symbols).
"""

import struct
import sys
from pathlib import Path

SHT_SYMTAB = 2
SHN_UNDEF = 0
STB_LOCAL = 0

# Every instance takes one of these; nothing of another library does.
MARK = "25ggml_backend_cuda_context"

HEAD = """\
// Made by native/cudart/absent.py: what this build of ggml-cuda has left out.
extern "C" [[noreturn]] void ggml_abort(const char *file, int line, const char *format, ...);

#define ABSENT(number, name)                                                                     \\
    extern "C" void absent_##number(void) __asm__(name);                                         \\
    extern "C" void absent_##number(void) {                                                      \\
        ggml_abort("ggml-cuda", 0, "not in this build of the CUDA backend: %s", name);           \\
    }

"""


def symbols(data):
    """Return (defined, undefined) names of an object for other objects, as sets."""
    if data[:6] != b"\x7fELF\x02\x01":
        raise ValueError("not a 64-bit little-endian ELF file")
    (first,) = struct.unpack_from("<Q", data, 40)  # e_shoff
    size, count = struct.unpack_from("<HH", data, 58)  # e_shentsize, e_shnum
    if count == 0:  # as many sections as the first one's size says
        (count,) = struct.unpack_from("<Q", data, first + 32)
    sections = [struct.unpack_from("<IIQQQQIIQQ", data, first + i * size) for i in range(count)]
    defined, undefined = set(), set()
    for section in sections:
        if section[1] != SHT_SYMTAB:
            continue
        strings = sections[section[6]][4]
        for at in range(section[4], section[4] + section[5], 24):
            name, info, _, place = struct.unpack_from("<IBBH", data, at)
            if info >> 4 == STB_LOCAL or not name:
                continue
            start = strings + name
            text = data[start : data.index(b"\0", start)].decode()
            (undefined if place == SHN_UNDEF else defined).add(text)
    return defined, undefined


def missing(objects):
    """Return the instances that the objects need and none of them has, sorted."""
    defined, undefined = set(), set()
    for data in objects:
        has, lacks = symbols(data)
        defined |= has
        undefined |= lacks
    return sorted(name for name in undefined - defined if MARK in name)


def source(names):
    lines = [f'ABSENT({number}, "{name}")\n' for number, name in enumerate(names)]
    return HEAD + "".join(lines)


if __name__ == "__main__":
    output, *paths = map(Path, sys.argv[1:])
    output.write_text(source(missing([path.read_bytes() for path in paths])))
