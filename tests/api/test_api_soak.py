"""The soak of soak.py, in small."""

import pytest
from soak import soak


@pytest.mark.parametrize(("n_ctx", "slots"), [(2048, 4), (256, 12)], ids=["ample", "short"])
def test_soak(ascii_model, n_ctx, slots):
    """Requests of all kinds; with the short cache preemption all the time."""
    failures, counts, growth = soak(400, n_ctx, slots, seed=3, clients=12, model=ascii_model)
    assert not failures, failures[:5]
    assert counts["whole"] > 100 and counts["aborted"] > 30 and counts["bad"] > 10
    assert growth < 16 << 20
    if n_ctx == 256:
        assert counts["preempted"] > counts["whole"] / 8
    else:
        assert counts["displaced"] > 0
