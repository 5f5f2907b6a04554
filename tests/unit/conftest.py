"""Lets CPython import the frozen Python: MicroPython's modules come from `shim/`.

`frozen/lib` is left off the path on purpose: its `socket` would hide CPython's own.
"""

import importlib.util
import sys
import time
from pathlib import Path

import cffi
import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent

for folder in (HERE / "shim", ROOT / "frozen"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

# MicroPython's clock functions. The machine's ticks never wrap (62-bit small integers), so the
# difference is a plain subtraction there and here.
if not hasattr(time, "ticks_ms"):
    time.ticks_ms = lambda: time.monotonic_ns() // 1_000_000
    time.ticks_us = lambda: time.monotonic_ns() // 1_000
    time.ticks_diff = lambda later, earlier: later - earlier
    time.ticks_add = lambda ticks, delta: ticks + delta
    time.sleep_ms = lambda ms: time.sleep(ms / 1000)
    time.sleep_us = lambda us: time.sleep(us / 1_000_000)


@pytest.fixture(scope="session")
def compile_native(tmp_path_factory):
    """A function that compiles part of native/ for the host: (folder, cdef) -> cffi module.

    The folder's C files are built with its header of the same name.
    """

    def compile_folder(name, cdef):
        folder = ROOT / "native" / name
        ffi = cffi.FFI()
        ffi.cdef(cdef)
        module_name = "_native_" + name
        ffi.set_source(
            module_name,
            '#include "%s.h"' % name,
            sources=[str(path) for path in folder.glob("*.c")],
            include_dirs=[str(folder)],
            extra_compile_args=["-O2", "-Wall", "-Wextra"],
        )
        path = ffi.compile(tmpdir=str(tmp_path_factory.mktemp(name)))
        spec = importlib.util.spec_from_file_location(module_name, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return compile_folder
