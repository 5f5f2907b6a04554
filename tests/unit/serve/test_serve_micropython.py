"""The tests of this folder whose subject differs between the interpreters (ints, floats, dicts,
JSON, UTF-8), under the unix port of MicroPython.

Skipped where there is no such build: see unix_micropython.py.
"""

from pathlib import Path

import pytest
import unix_micropython

FILES = ["test_params.py", "test_conversations.py", "test_stops.py"]


@pytest.mark.parametrize("name", FILES)
def test_micropython_does_the_same(name, tmp_path):
    if not unix_micropython.program():
        pytest.skip(unix_micropython.MISSING)
    path = Path(__file__).with_name(name)
    (passed, _, failed), said = unix_micropython.run_tests(path, tmp_path)
    assert failed == 0 and passed >= len(unix_micropython.plan(path)["tests"]), said
