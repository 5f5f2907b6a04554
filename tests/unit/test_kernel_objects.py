"""What the compiler made of code that runs in interrupts: no vector register, no call into libc.

An interrupt handler runs between any two instructions of a thread whose vector registers nobody has
saved. clang makes calls of memcpy for assignments, whatever flags forbid it, and musl's uses SSE.
"""

import re
import shutil
import subprocess

import pytest
from cllm.build import BUILD
from support.object_symbols import symbols

PORT = BUILD / "port"
# Of the port: what the kernel's hooks call.
OTHERS = ("mpirq.o", "pyframe.o", "py/scheduler.o")


def kernel_objects():
    found = sorted((PORT / "kernel").rglob("*.o"))
    return found + [PORT / name for name in OTHERS]


@pytest.fixture(scope="module", autouse=True)
def built():
    if not PORT.exists():
        pytest.fail("the port is not built: run `make build`")


def test_the_list_is_not_empty():
    assert {"trap.o", "sched.o", "console.o"} <= {path.name for path in kernel_objects()}
    assert "irq_save" not in symbols(PORT / "kernel" / "cpu" / "trap.o")[1]
    assert "crash" in symbols(PORT / "kernel" / "cpu" / "trap.o")[1]


@pytest.mark.parametrize("path", kernel_objects(), ids=lambda path: path.name)
def test_no_call_into_libc(path):
    forbidden = {"memcpy", "memmove", "memset", "memcmp", "strlen", "bcmp", "malloc", "printf"}
    assert not symbols(path)[1] & forbidden


@pytest.mark.skipif(shutil.which("objdump") is None, reason="no objdump (binutils) here")
@pytest.mark.parametrize("path", kernel_objects(), ids=lambda path: path.name)
def test_no_vector_register_but_to_save_it(path):
    listing = subprocess.run(
        ["objdump", "-d", "--no-show-raw-insn", path], capture_output=True, text=True, check=True
    ).stdout
    assert not re.findall(r"%[xyz]mm\d+", listing)
