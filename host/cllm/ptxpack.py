"""The pack of PTX files beside the image, as native/ptx/pack.h lays it out.

A file of clang's PTX is a head, globals and functions. The pack says for each kernel where its text
lies and what parameters it has, so that neither the guest nor gpud has to parse PTX for a launch.
Source: Parallel Thread Execution ISA 8.5, sections 4.4 (names), 5.2 (types), 7.1 (functions).
"""

import dataclasses
import hashlib
import re
import struct
import sys
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from . import CllmError

MAGIC = b"CLLMPTXP"
VERSION = 1
HEADER = struct.Struct("<8s4I8I")
FILE = struct.Struct("<32sIIQIIII")
KERNEL = struct.Struct("<QIIIIII")
PARAM = struct.Struct("<HH")
MAX_ARCHITECTURES = 8

FUNCTION = re.compile(
    r"^(?P<linkage>\.visible |\.weak |\.extern )?\.(?P<kind>entry|func)\s*(?P<result>\([^)]*\)\s*)?"
    r"(?P<name>[\w$%]+)\s*\(",
    re.MULTILINE,
)
PARAMETER = re.compile(
    r"\.param\s+(?:\.align\s+(?P<align>\d+)\s+)?\.(?P<type>[a-z]+\d+)"
    r"(?:\s+\.ptr(?:\s+\.\w+)*(?:\s+\.align\s+\d+)?)?\s+(?P<name>[\w$%]+)(?:\[(?P<count>\d+)\])?"
)
SHARED = re.compile(
    r"^\s*(?:\.visible |\.weak )?\.shared\s+(?:\.align\s+(?P<align>\d+)\s+)?"
    r"\.(?P<type>[a-z]+\d+)\s+(?P<name>[\w$%]+)(?:\[(?P<count>\d+)\])?",
    re.MULTILINE,
)
WORD = re.compile(r"[\w$%]+")
FILE_NAME = re.compile(r"(?P<unit>.+)\.sm_(?P<arch>\d+)\.ptx")


def name_hash(name: str) -> int:
    """Return ucuda_name_hash() (native/ucuda/abi.h): FNV-1a, 64 bits."""
    value = 0xCBF29CE484222325
    for byte in name.encode():
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return value


def file_number(unit: str) -> int:
    """Return the number that native/cudart/reference.py gives the unit."""
    return zlib.crc32(unit.encode())


def sha256(text: bytes) -> bytes:
    return hashlib.sha256(text).digest()


@dataclasses.dataclass(frozen=True)
class Kernel:
    """start, length: of its text, in bytes. parameters: (offset, size) of each, in bytes."""

    name: str
    start: int
    length: int
    parameters: tuple[tuple[int, int], ...]
    parameter_bytes: int
    static_shared: int


def kernels(text: str) -> Iterator[Kernel]:
    """Yield the kernels of a PTX file. Raises CllmError for what is not as clang writes it."""
    shared: dict[str, tuple[int, int]] = {}
    for found in SHARED.finditer(text):
        align, size = _layout(found)
        shared[found["name"]] = align, size
    for found in FUNCTION.finditer(text):
        if found["kind"] != "entry":
            continue
        start = found.start()
        close = text.index(")", found.end())
        end = _end_of_body(text, text.index("{", close))
        parameters, total = _parameters(text[found.end() : close])
        body = text[close:end]
        yield Kernel(
            found["name"], start, end - start, parameters, total, _shared_of(body, shared)
        )


def _end_of_body(text: str, opening: int) -> int:
    """Return where the text after the closing brace begins."""
    depth = 0
    for found in re.compile("[{}]").finditer(text, opening):
        depth += 1 if found[0] == "{" else -1
        if depth == 0:
            return found.end()
    raise CllmError("PTX: a function without an end")


def _layout(found: re.Match[str]) -> tuple[int, int]:
    """Return (alignment, size) of a variable, in bytes."""
    element = max(int(re.sub(r"\D", "", found["type"])) // 8, 1)
    return int(found["align"] or element), element * int(found["count"] or 1)


def _parameters(text: str) -> tuple[tuple[tuple[int, int], ...], int]:
    """Return ((offset, size), ...) and the size of all."""
    listed = []
    total = 0
    for word in filter(None, map(str.strip, text.split(","))):
        found = PARAMETER.fullmatch(word)
        if not found:
            raise CllmError(f"PTX: no parameter that clang writes: {word}")
        align, size = _layout(found)
        offset = -(-total // align) * align
        listed.append((offset, size))
        total = offset + size
    return tuple(listed), total


def _shared_of(body: str, shared: dict[str, tuple[int, int]]) -> int:
    """Return the bytes of the shared variables that a function names, alignment included."""
    named = set(WORD.findall(body)) & shared.keys() if shared else set()
    total = 0
    for align, size in sorted((shared[name] for name in named), reverse=True):
        total = -(-total // align) * align + size
    return total


def pack(files: Iterable[tuple[str, int, bytes]]) -> bytes:
    """Return a pack. files: (unit, architecture, text) of each PTX file."""
    ordered = sorted(files, key=lambda file: (file_number(file[0]), file[1]))
    numbers = {(file_number(unit), arch) for unit, arch, _ in ordered}
    architectures = sorted({arch for _, arch, _ in ordered})
    if len(numbers) != len(ordered):
        raise CllmError("two PTX files of a pack have the same number and architecture")
    if len(architectures) > MAX_ARCHITECTURES:
        raise CllmError(f"a pack has at most {MAX_ARCHITECTURES} architectures")
    listed = [
        sorted(kernels(text.decode("ascii")), key=lambda kernel: name_hash(kernel.name))
        for _, _, text in ordered
    ]
    n_kernels = sum(map(len, listed))
    params = [pair for file in listed for kernel in file for pair in kernel.parameters]
    offset = HEADER.size + FILE.size * len(ordered)
    offset += KERNEL.size * n_kernels + PARAM.size * len(params)
    table = bytearray()
    kernel_table = bytearray()
    first_param = first_kernel = 0
    streams = [zlib.compress(text, 9) for _, _, text in ordered]
    for (unit, arch, text), packed, file in zip(ordered, streams, listed):
        table += FILE.pack(
            sha256(text),
            file_number(unit),
            arch,
            offset,
            len(packed),
            len(text),
            first_kernel,
            len(file),
        )
        offset += len(packed)
        first_kernel += len(file)
        for kernel in file:
            kernel_table += KERNEL.pack(
                name_hash(kernel.name),
                kernel.start,
                kernel.length,
                first_param,
                len(kernel.parameters),
                kernel.parameter_bytes,
                kernel.static_shared,
            )
            first_param += len(kernel.parameters)
    known = architectures + [0] * (MAX_ARCHITECTURES - len(architectures))
    header = HEADER.pack(MAGIC, VERSION, len(ordered), n_kernels, len(params), *known)
    return b"".join(
        (header, table, kernel_table, *(PARAM.pack(*pair) for pair in params), *streams)
    )


def write(path: Path, files: Iterable[Path]) -> None:
    """Write the pack of files named UNIT.sm_ARCH.ptx, unless it is there with the same content."""
    named = []
    for file in files:
        found = FILE_NAME.fullmatch(file.name)
        if not found:
            raise CllmError(f"{file} is not named UNIT.sm_ARCH.ptx")
        named.append((found["unit"], int(found["arch"]), file.read_bytes()))
    content = pack(named)
    if not path.exists() or path.read_bytes() != content:
        fresh = path.with_name(f".{path.name}.new")
        fresh.write_bytes(content)
        fresh.replace(path)


if __name__ == "__main__":
    write(Path(sys.argv[1]), map(Path, sys.argv[2:]))
