"""The table of function names inside the image, for the guest's backtraces.

It is written after linking, into space that the linker script reserves, so no address changes.
`kernel/symbols.c` describes the format.
"""

import ctypes
import re
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from elftools.elf.constants import SH_FLAGS
from elftools.elf.elffile import ELFFile

from . import CllmError

GROUP = 16  # names; the first is whole, others omit the prefix that they share with the one before
Symbol = tuple[str, str, Any, int, int]  # name, type, section or None, value, size
PLACE = "__symbols_"  # prefix of link.ld's names for the ends of the reserved space
LONGEST = 160  # bytes of a name; longer ones are cut


def symbols(elf: ELFFile) -> Iterator[Symbol]:
    """Yield (name, type, section or None, value, size) of the symbols of an ELFFile."""
    table: Any = elf.get_section_by_name(".symtab")
    sections = list(elf.iter_sections())
    for symbol in table.iter_symbols() if table else ():
        index = symbol["st_shndx"]  # a number, or the name of a special index
        section = sections[index] if isinstance(index, int) else None
        kind = symbol["st_info"]["type"]
        yield symbol.name, kind, section, symbol["st_value"], symbol["st_size"]


def functions(symbols_of_image: Iterable[Symbol]) -> tuple[list[tuple[int, str]], int]:
    """Return sorted [(address, mangled name)], one per address, and the end of the last function.

    symbols_of_image: from symbols().
    """
    found: dict[int, tuple[tuple[bool, int], str]] = {}
    end = 0
    for name, kind, section, value, size in symbols_of_image:
        if not name or section is None or not section["sh_flags"] & SH_FLAGS.SHF_EXECINSTR:
            continue
        if kind not in ("STT_NOTYPE", "STT_FUNC") or name.startswith((".L", "$", "__text_")):
            continue
        end = max(end, value + size)
        # Of several names prefer one typed as a function, then the shortest.
        rank = (kind == "STT_FUNC", -len(name))
        if value not in found or rank > found[value][0]:
            found[value] = (rank, name)
    return [(address, name) for address, (_, name) in sorted(found.items())], end


def demangler() -> Callable[[str], str]:
    """Return a function that makes C++ names readable; the identity without libstdc++."""
    try:
        demangle = ctypes.CDLL("libstdc++.so.6").__cxa_demangle
    except (OSError, AttributeError):
        return lambda name: name
    free = ctypes.CDLL(None).free
    free.argtypes = [ctypes.c_void_p]
    demangle.restype = ctypes.c_void_p
    demangle.argtypes = [ctypes.c_char_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]

    def readable(name: str) -> str:
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


def shorten(name: str) -> str:
    """Return a demangled name without return type, parameters, template arguments and tags."""
    name = re.sub(r"\[abi:\w+\]", "", name).replace("std::__1::", "std::")
    name = name.replace("(anonymous namespace)", "{anonymous}")
    # Protect the brackets of an operator's name.
    name = re.sub(
        r"operator(\(\)|<=>|<<=?|>>=?|<=?|>=?|->\*?)",
        lambda m: "operator" + m[1].translate(OPENED),
        name,
    )
    plain, depth = [], 0
    for c in name:
        if c in "<(":
            depth += 1
        elif c in ">)":
            depth -= 1
        elif depth == 0:
            plain.append(c)
    name = "".join(plain).removesuffix(" const").strip()
    # The return type ends with a blank, but "operator new" has one as well.
    head, _, tail = name.rpartition("::")
    if " " not in tail.removeprefix("operator ") or "operator" in tail:
        name = head.rpartition(" ")[2] + "::" + tail if head else name
    if "operator" not in name:
        name = name.rpartition(" ")[2]
    return name.translate(CLOSED)


OPENED = {ord("<"): "\1", ord(">"): "\2", ord("("): "\3", ord(")"): "\4"}
CLOSED = {1: "<", 2: ">", 3: "(", 4: ")"}


def table(entries: Sequence[tuple[int, str]], end: int) -> bytes:
    """Return the table's bytes for sorted (address, name) entries; `end`: of the last function."""
    groups = -(-len(entries) // GROUP)
    index, names = bytearray(), bytearray()
    last, before = 0, b""
    for i, (address, text) in enumerate(entries):
        name = text.encode()[:LONGEST]
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


def write_into(data: bytearray, elf: ELFFile) -> None:
    """Fill the table in the linked image `data` in place; `elf` is the same image, parsed.

    Raises CllmError when the image has no room for it.
    """
    known = list(symbols(elf))
    places = {name: value for name, _, _, value, _ in known if name.startswith(PLACE)}
    start, stop = places[PLACE + "start"], places[PLACE + "end"]
    readable = demangler()
    found, end = functions(known)
    content = table([(address, readable(name)) for address, name in found], end)
    if len(content) > stop - start:
        raise CllmError(
            f"the names of {len(found)} functions take {len(content)} bytes, but link.ld leaves "
            f"{stop - start} for them: give .symbols more"
        )
    for section in elf.iter_sections():
        address = section["sh_addr"]
        loaded = section["sh_flags"] & SH_FLAGS.SHF_ALLOC
        if loaded and address <= start < address + section["sh_size"]:
            at = section["sh_offset"] + start - address
            data[at : at + len(content)] = content
            return
    raise CllmError("the image has no section for the names of functions")
