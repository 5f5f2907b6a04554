"""The engine's checks of sampler parameters are the table that requests are checked by."""

import json
import math

import pytest
from serve.apis.sampler_ranges import RANGES
from support.engine_library import EngineFailure

EINVAL = -1
# The engine takes any temperature: llama.cpp chooses the likeliest token at 0 and below.
WIDER = ("temperature",)


def beyond(limits):
    """The next values outside of a range."""
    if limits.whole:
        return limits.least - 1, limits.most + 1
    return math.nextafter(limits.least, -math.inf), math.nextafter(limits.most, math.inf)


@pytest.mark.parametrize("name", sorted(RANGES))
def test_the_engine_takes_what_requests_may_have(engine, name):
    limits = RANGES[name]
    # Large windows are allocated; the default stands for what is between the ends.
    for value in (limits.least, limits.default, limits.most):
        if value is not None:
            engine.sampler(json.dumps({name: value})).close()


@pytest.mark.parametrize("name", sorted(set(RANGES) - set(WIDER)))
def test_the_engine_refuses_what_is_beyond(engine, name):
    for value in beyond(RANGES[name]):
        with pytest.raises(EngineFailure, match=name + ": out of range") as failure:
            engine.sampler(json.dumps({name: value}))
        assert failure.value.code == EINVAL
