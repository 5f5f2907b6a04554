"""Let CPython import the frozen Python and the tests' helpers for it. Importing this is enough.

MicroPython's own modules come from `tests/unit/shim`. The frozen modules under MicroPython's names
stay out of the path: their `socket` would hide CPython's.
"""

import sys
import time
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
FOLDERS = ("tests/net", "tests/unit/serve", "tests/unit/net", "frozen", "tests/unit/shim")


def install():
    """Add FOLDERS to the import path and MicroPython's clock functions to `time`; idempotent."""
    for folder in FOLDERS:
        path = str(TOP / folder)
        if path not in sys.path:
            sys.path.insert(0, path)
    if hasattr(time, "ticks_ms"):
        return
    # The machine's ticks never wrap (62-bit small integers): a difference is a plain subtraction.
    added = {
        "ticks_ms": lambda: time.monotonic_ns() // 1_000_000,
        "ticks_us": lambda: time.monotonic_ns() // 1_000,
        "ticks_diff": lambda later, earlier: later - earlier,
        "ticks_add": lambda ticks, delta: ticks + delta,
        "sleep_ms": lambda ms: time.sleep(ms / 1000),
        "sleep_us": lambda us: time.sleep(us / 1_000_000),
    }
    for name, function in added.items():
        setattr(time, name, function)


install()
