"""A few of the mutated frames of tests/net/fuzz.py, the same ones each time."""

import pytest
from fuzzing import Target
from fuzzing6 import Target6


@pytest.mark.parametrize("seed", range(1, 6))
def test_mutated_frames_do_no_harm(seed):
    target = Target(seed)
    target.feed(8000)
    target.check()


@pytest.mark.parametrize("seed", range(1, 3))
def test_mutated_frames_of_ipv6_do_no_harm(seed):
    target = Target6(seed)
    target.feed(3000)
    target.check()
