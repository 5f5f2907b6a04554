"""Runs run_micropython.py on MicroPython's unix build.

Skipped unless $MICROPYTHON or `micropython` in $PATH names one (1.25, with asyncio frozen).
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

MICROPYTHON = os.environ.get("MICROPYTHON") or shutil.which("micropython")
SCRIPT = Path(__file__).with_name("run_micropython.py")


@pytest.mark.skipif(not MICROPYTHON, reason="no MicroPython for this machine")
def test_network_core_on_micropython():
    done = subprocess.run(
        [MICROPYTHON, "-X", "heapsize=32m", str(SCRIPT)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0 and done.stdout.endswith("ok\n"), done.stdout + done.stderr
