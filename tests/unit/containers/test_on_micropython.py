"""This folder's tests on MicroPython's unix build, which has the image's dictionaries and sets.

Skipped where there is no such build: see unix_micropython.py.
"""

from pathlib import Path

import pytest
from support import unix_micropython

HERE = Path(__file__).parent
# CPython itself does not survive the second one (its OrderedDict).
FILES = [HERE / "test_dictionaries.py", HERE / "changing_comparisons.py"]

pytestmark = pytest.mark.skipif(not unix_micropython.program(), reason=unix_micropython.MISSING)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_same_on_micropython(path, tmp_path):
    (passed, skipped, failed), said = unix_micropython.run_tests(path, tmp_path)
    functions = unix_micropython.plan(path)["tests"]
    assert failed == 0 and skipped == 0 and passed >= len(functions), said
