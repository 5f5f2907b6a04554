"""invariance.py, in small: the answer to a request depends on the request alone."""

import pytest
from invariance import compute, evidence
from support.same_answers import differences, make_requests

gguf = pytest.importorskip("gguf")
from support import small_models  # noqa: E402

Type = gguf.GGMLQuantizationType


@pytest.mark.parametrize(
    ("architecture", "kind", "threads"),
    [
        ("llama", Type.Q4_K, 2),
        ("qwen3", Type.Q4_1, 1),
        ("mixture", Type.Q8_0, 1),
        ("refact", Type.F16, 1),
    ],
)
def test_the_same_answers_in_every_way(tmp_path, tiny, architecture, kind, threads):
    paths = small_models.pair(tmp_path, architecture, kind)
    made = compute(*paths, make_requests(30, 24, seed=kind), threads=threads)
    assert not differences(made)[:3]
    assert all(evidence(made).values()), evidence(made)
