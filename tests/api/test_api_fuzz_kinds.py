"""The fuzzer of fuzz_kinds.py, in small."""

import pytest
from support import fuzz_kinds


@pytest.mark.parametrize("kind", fuzz_kinds.KINDS)
def test_hostile_requests(tiny, kind):
    """15 s of each kind: no death, no 5xx but a named limit, nobody waits.

    tiny: skips the test without the library.
    """
    assert fuzz_kinds.main(["--kind", kind, "--seconds", "15", "--seed", "test"]) == 0
