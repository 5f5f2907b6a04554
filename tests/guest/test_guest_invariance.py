"""A request's tokens in the guest are the host's: alone, beside others, drafted, preempted."""

import pytest
from support.same_answers import answer, at_once, differences, make_requests

gguf = pytest.importorskip("gguf")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    from support import engine_library, small_models

    if not engine_library.LIBRARY.exists():
        pytest.skip(f"no {engine_library.LIBRARY}: run the tests by `make test`")
    return small_models.pair(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def bodies():
    return make_requests(20, 12, seed=2)


@pytest.fixture(scope="module")
def alone(boot_once, models, bodies):
    """Return the answer to each request alone, without drafts."""
    guest = boot_once(model=models[0], config_json={"model": {"n_ctx": 4096}})
    plain = {"cache_prompt": False, "speculative.n_max": 0}
    return [answer(guest, body, **plain) for body in bodies]


def test_in_every_way(boot_once, models, bodies, alone):
    guest = boot_once(model=models[0], config_json={"model": {"n_ctx": 512, "slots": 8}}, smp=2)
    made = {
        "alone": (alone,),
        "drafts, prefixes kept": ([answer(guest, body) for body in bodies],),
        "eight at a time, preempted": (at_once(guest, bodies[::-1], 8)[::-1],),
    }
    assert not differences(made)[:3]


def test_as_on_the_host(models, bodies, alone):
    from support.api_server import ApiServer

    with ApiServer(models[0], {"model": {"n_ctx": 4096}}) as server:
        for body, expected in zip(bodies, alone, strict=True):
            assert answer(server, body)["tokens"] == expected["tokens"]
