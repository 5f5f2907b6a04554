"""Lets CPython import the frozen Python: MicroPython's modules come from `shim/`.

`frozen/api` is left off the path on purpose: its `socket` would hide CPython's own.
"""

import sys
import time
from pathlib import Path

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
