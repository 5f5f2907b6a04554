"""What the compiler made of code that runs in interrupts: no vector register, no call into libc.

An interrupt handler runs between any two instructions of a thread whose vector registers nobody has
saved. clang makes calls of memcpy for assignments, whatever flags forbid it, and musl's uses SSE.
"""

import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from cllm.build import BUILD

PORT = BUILD / "port"
# Of the port: what the kernel's hooks call.
OTHERS = ("mpirq.o", "pyframe.o", "py/scheduler.o")


def kernel_objects():
    found = sorted((PORT / "kernel").rglob("*.o"))
    return found + [PORT / name for name in OTHERS]


def undefined_symbols(path):
    """Names that an ELF-64 object wants from others (ELF-64 object file format 1.5, figures 3, 7)."""
    data = Path(path).read_bytes()
    (at,) = struct.unpack_from("<Q", data, 40)
    size, count = struct.unpack_from("<HH", data, 58)
    sections = [struct.unpack_from("<IIQQQQIIQQ", data, at + i * size) for i in range(count)]
    names = set()
    for _, kind, _, _, offset, length, link, _, _, _ in sections:
        if kind == 2:  # SHT_SYMTAB
            strings = sections[link][4]
            for entry in range(offset, offset + length, 24):
                name, _, _, section = struct.unpack_from("<IBBH", data, entry)
                if section == 0 and name:
                    start = strings + name
                    names.add(data[start : data.index(b"\0", start)].decode())
    return names


@pytest.fixture(scope="module", autouse=True)
def built():
    if not PORT.exists():
        pytest.fail("the port is not built: run `make build`")


def test_the_list_is_not_empty():
    assert {"trap.o", "sched.o", "console.o"} <= {path.name for path in kernel_objects()}
    assert "irq_save" not in undefined_symbols(PORT / "kernel" / "cpu" / "trap.o")
    assert "crash" in undefined_symbols(PORT / "kernel" / "cpu" / "trap.o")


@pytest.mark.parametrize("path", kernel_objects(), ids=lambda path: path.name)
def test_no_call_into_libc(path):
    forbidden = {"memcpy", "memmove", "memset", "memcmp", "strlen", "bcmp", "malloc", "printf"}
    assert not undefined_symbols(path) & forbidden


@pytest.mark.skipif(shutil.which("objdump") is None, reason="no objdump (binutils) here")
@pytest.mark.parametrize("path", kernel_objects(), ids=lambda path: path.name)
def test_no_vector_register_but_to_save_it(path):
    listing = subprocess.run(
        ["objdump", "-d", "--no-show-raw-insn", path], capture_output=True, text=True, check=True
    ).stdout
    assert not re.findall(r"%[xyz]mm\d+", listing)
