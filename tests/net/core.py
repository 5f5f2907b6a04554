"""Lets the programs of this folder import the frozen network core and the simulator, on CPython."""

import sys
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]

for folder in ("tests/unit/shim", "frozen", "tests/unit/net", "tests/net"):
    path = str(TOP / folder)
    if path not in sys.path:
        sys.path.insert(0, path)
