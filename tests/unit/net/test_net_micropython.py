"""The network core on MicroPython's unix build: the tests of this folder, and run_micropython.py.

Skipped where there is no such build: see unix_micropython.py.
"""

import subprocess
from pathlib import Path

import pytest
from support import unix_micropython

HERE = Path(__file__).parent
# The grid counts CPython's memory, and its transfers take long on one core.
FILES = sorted(set(HERE.glob("test_*.py")) - {Path(__file__), HERE / "test_grid.py"})

pytestmark = pytest.mark.skipif(not unix_micropython.program(), reason=unix_micropython.MISSING)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_same_on_micropython(path, tmp_path):
    (passed, skipped, failed), said = unix_micropython.run_tests(path, tmp_path)
    functions = unix_micropython.plan(path)["tests"]
    assert failed == 0 and passed + skipped >= len(functions) > skipped, said


def test_transfers_and_asyncio_on_micropython():
    done = subprocess.run(
        [unix_micropython.program(), "-X", "heapsize=32m", str(HERE / "run_micropython.py")],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0 and done.stdout.endswith("ok\n"), done.stdout + done.stderr
