"""The table of function names inside the image, for the guest's backtraces.

It is written after linking, into room that the linker script leaves behind the code, so no address
changes. The format is described in kernel/symbols.c.
"""

import ctypes
import re
import struct

from . import CllmError

GROUP = 16
LONGEST = 160  # bytes of a name; what a backtrace needs of a longer one is its beginning
STT_NOTYPE, STT_FUNC = 0, 2
SHF_EXECINSTR = 4


class Elf:
    """The sections and symbols of a 64-bit little-endian ELF file (ELF-64 1.5, figures 2 to 6)."""

    def __init__(self, data):
        self.data = data
        (first,) = struct.unpack_from("<Q", data, 40)
        size, count = struct.unpack_from("<HH", data, 58)
        self.sections = [
            struct.unpack_from("<IIQQQQIIQQ", data, first + i * size) for i in range(count)
        ]

    def symbols(self):
        """Yield (name, type, section header or None, value, size)."""
        for _, kind, _, _, offset, size, link, _, _, _ in self.sections:
            if kind != 2:  # SHT_SYMTAB
                continue
            names = self.sections[link][4]
            for at in range(offset, offset + size, 24):
                name, info, _, index, value, length = struct.unpack_from("<IBBHQQ", self.data, at)
                section = self.sections[index] if index < len(self.sections) else None
                end = self.data.index(b"\0", names + name)
                yield self.data[names + name:end].decode(), info & 15, section, value, length


def functions(elf):
    """Sorted [(address, mangled name)], one per address, and the end of the last function."""
    found, end = {}, 0
    for name, kind, section, value, size in elf.symbols():
        if not name or section is None or not section[2] & SHF_EXECINSTR:
            continue
        if kind not in (STT_NOTYPE, STT_FUNC) or name.startswith((".L", "$", "__text_")):
            continue
        end = max(end, value + size)
        # Of several names the global, plainly written one reads best.
        if value not in found or (kind, -len(name)) > found[value][0]:
            found[value] = ((kind, -len(name)), name)
    return [(address, name) for address, (_, name) in sorted(found.items())], end


def demangler():
    """A function that makes C++ names readable; the identity where the host has no libstdc++."""
    try:
        demangle = ctypes.CDLL("libstdc++.so.6").__cxa_demangle
    except (OSError, AttributeError):
        return lambda name: name
    free = ctypes.CDLL(None).free
    free.argtypes = [ctypes.c_void_p]
    demangle.restype = ctypes.c_void_p
    demangle.argtypes = [ctypes.c_char_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]

    def readable(name):
        if not name.startswith("_Z"):
            return name
        text = demangle(name.encode(), None, None, None)
        if not text:
            return name
        try:
            return shorten(ctypes.string_at(text).decode(errors="replace"))
        finally:
            free(text)

    return readable


def shorten(name):
    """A demangled name without return type, parameters, template arguments and ABI tags."""
    name = re.sub(r"\[abi:\w+\]", "", name).replace("std::__1::", "std::")
    name = name.replace("(anonymous namespace)", "{anonymous}")
    # Brackets that belong to an operator's name are no brackets.
    name = re.sub(r"operator(\(\)|<=>|<<=?|>>=?|<=?|>=?|->\*?)",
                  lambda m: "operator" + m[1].translate(OPENED), name)
    plain, depth = [], 0
    for c in name:
        if c in "<(":
            depth += 1
        elif c in ">)":
            depth -= 1
        elif depth == 0:
            plain.append(c)
    name = "".join(plain).removesuffix(" const").strip()
    # What is left in front of a blank is the return type, but for an operator's own blank.
    head, _, tail = name.rpartition("::")
    if " " not in tail.removeprefix("operator ") or "operator" in tail:
        name = head.rpartition(" ")[2] + "::" + tail if head else name
    if "operator" not in name:
        name = name.rpartition(" ")[2]
    return name.translate(CLOSED)


OPENED = {ord("<"): "\1", ord(">"): "\2", ord("("): "\3", ord(")"): "\4"}
CLOSED = {1: "<", 2: ">", 3: "(", 4: ")"}


def table(entries, end):
    """The bytes of the table for sorted (address, name) entries; `end` is the last one's end."""
    groups = -(-len(entries) // GROUP)
    index, names = bytearray(), bytearray()
    for i, (address, name) in enumerate(entries):
        name = name.encode()[:LONGEST]
        if i % GROUP == 0:
            index += struct.pack("<II", address, 12 + 8 * groups + len(names))
            last, before = address, b""
        shared = 0
        while shared < min(len(name), len(before)) and name[shared] == before[shared]:
            shared += 1
        delta = address - last
        while delta > 0x7F:
            names.append(delta & 0x7F | 0x80)
            delta >>= 7
        names += bytes([delta, shared, len(name) - shared]) + name[shared:]
        last, before = address, name
    return struct.pack("<4sII", b"SYMS", len(entries), end) + index + names


def write_into(data):
    """Fill the table of the linked image `data` (a bytearray) in place.

    Raises CllmError when the image has no room for it.
    """
    elf = Elf(bytes(data))
    places = {name: value for name, _, _, value, _ in elf.symbols() if name.startswith("__symbols_")}
    start, stop = places["__symbols_start"], places["__symbols_end"]
    readable = demangler()
    found, end = functions(elf)
    content = table([(address, readable(name)) for address, name in found], end)
    if len(content) > stop - start:
        raise CllmError(
            f"the names of {len(found)} functions take {len(content)} bytes, but link.ld leaves "
            f"{stop - start} for them: give .symbols more"
        )
    for _, _, flags, address, offset, size, *_ in elf.sections:
        if flags & 2 and address <= start < address + size:  # SHF_ALLOC
            at = offset + start - address
            data[at:at + len(content)] = content
            return
    raise CllmError("the image has no section for the names of functions")
