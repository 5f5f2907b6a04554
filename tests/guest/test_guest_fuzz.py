"""The fuzzer of fuzz_api.py into a guest, in small."""

import subprocess
import sys


def test_broken_requests():
    """Only errors of the client, and a well-behaved one beside them gets its answers."""
    command = [sys.executable, "-m", "support.fuzz_api", "--guest", "--count", "200", "--seed", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert " 400: " in done.stdout and "well-behaved client got" in done.stdout
