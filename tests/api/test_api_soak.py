"""The soak of soak.py, in small."""

import pytest
from soak import soak


@pytest.mark.parametrize("n_ctx", [2048, 256])
def test_soak(ascii_model, n_ctx):
    failures, counts, growth = soak(400, n_ctx, seed=3, clients=12, model=ascii_model)
    assert not failures, failures[:5]
    assert counts["whole"] > 100 and counts["aborted"] > 30 and counts["bad"] > 10
    assert growth < 16 << 20
    if n_ctx == 256:
        assert counts["preempted"] > 0
