"""The fuzzer of fuzz_api.py into a guest, in small."""

import subprocess
import sys


def test_broken_requests():
    """Broken requests get client errors, and a well-behaved client gets its answers."""
    command = [
        sys.executable,
        "-m",
        "support.fuzz_api",
        "--guest",
        "--count",
        "200",
        "--seed",
        "2",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert " 400: " in done.stdout and "well-behaved client got" in done.stdout
