"""Fields of a request, on CPython and on MicroPython, whose ints, floats and dicts differ."""

import pytest
from serve.apis.params import Params, integer, number, schema_of
from serve.apis.sampler_ranges import RANGES
from serve.scheduling.errors import RequestError

INFINITY = float("inf")
OBJECT = {"type": "object", "properties": {"a": {"const": 1}}}


def refused(function, *arguments):
    with pytest.raises(RequestError) as info:
        function(*arguments)
    assert info.value.status == 400
    return info.value.message


def seed_of(seed):
    return Params({"seed": seed}).sampling.get("seed")


@pytest.mark.parametrize(
    "seed, used",
    [
        (0, 0),
        (42, 42),
        (4294967294, 4294967294),
        (-5, 4294967291),  # as llama-server's conversion to 32 bits without a sign
        (-2147483648, 2147483648),
        (1e9, 1000000000),
        (-1, None),  # random
        (4294967295, None),  # llama-server's default, which means the same
    ],
)
def test_seeds_of_32_bits_are_used_as_they_are(seed, used):
    assert seed_of(seed) == used


def test_seeds_of_64_bits_are_each_a_seed_of_their_own():
    seeds = [
        (1 << 63) - 1, (1 << 63) - 2, 1 << 62, (1 << 62) + 1, -(1 << 62), -(1 << 63), 1 << 32,
        (1 << 53) + 1, 10**18, 10**18 + 1, -(10**18) - 1, -(1 << 31) - 1, 1 << 61,
    ]  # fmt: skip
    used = [seed_of(seed) for seed in seeds]
    assert all([isinstance(seed, int) and 0 <= seed < 4294967295 for seed in used])
    assert len(set(used)) == len(seeds)
    assert used == [seed_of(seed) for seed in seeds]


@pytest.mark.parametrize(
    "seed", [1 << 63, -(1 << 63) - 1, 10**40, 1e19, -1e19, 1.5, INFINITY, -INFINITY, "1", True, []]
)
def test_seeds_that_are_none(seed):
    assert "seed" in refused(seed_of, seed)


@pytest.mark.parametrize(
    "value", [INFINITY, -INFINITY, INFINITY - INFINITY, 10.0**300, 0.5, "1", False]
)
def test_integers_that_are_none(value):
    assert "max_tokens" in refused(Params, {"max_tokens": value})
    assert "x" in refused(integer, {"x": value}, "x", 0, 10, False)


def test_integers_are_clamped_or_refused_exactly():
    assert integer({"x": 10**30}, "x", 0, 5, False) == 5
    assert integer({"x": -(10**30)}, "x", 0, 5, False) == 0
    assert integer({"x": 2.0}, "x", 0, 5) == 2
    for value in ((1 << 53) + 1, 9007199254740993.0 + 2, 1 << 62, -1):
        assert "between" in refused(integer, {"x": value}, "x", 0, 1 << 53)
    assert integer({"x": 1 << 53}, "x", 0, 1 << 53) == 1 << 53
    assert integer({}, "x", 0, 5) is None and integer({"x": None}, "x", 0, 5) is None


FLOATS = ("temperature", "top_p", "min_p", "presence_penalty", "dry_base", "adaptive_decay")


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("value", [INFINITY, -INFINITY, INFINITY - INFINITY])
def test_nothing_that_is_not_finite_passes(name, value):
    assert "finite" in refused(Params, {name: value})


def test_numbers_are_clamped():
    assert number({"x": 10**60}, "x", 0.0, 1.0) == 1.0
    assert number({"x": -(10**1000)}, "x", 0.0, 1.0) == 0.0
    assert number({"x": -5}, "x", 0.0, 1.0) == 0.0
    assert number({"x": 1.7e308}, "x", 0.0, 1e9) == 1e9
    assert number({}, "x", 0.0, 1.0) is None


@pytest.mark.parametrize("name", sorted(RANGES))
def test_sampler_parameters_stay_in_their_ranges(name):
    limits = RANGES[name]
    for end in (limits.least, limits.most):
        assert Params({name: end}).sampling == {name: end}
    for value, end in ((limits.least - 1, limits.least), (limits.most * 2 + 1, limits.most)):
        if limits.clamps:
            assert Params({name: value}).sampling == {name: end}
        else:
            assert "between" in refused(Params, {name: value})


def test_a_repeat_penalty_that_cannot_be_divided_by():
    for value in (0, -1, 1e-7):
        assert "'repeat_penalty': Value must be between 1e-06" in refused(
            Params, {"repeat_penalty": value}
        )
    assert Params({"presence_penalty": 1e8}).sampling == {"presence_penalty": 1e6}


FORMS = [
    {"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": OBJECT}},
    {"type": "json_schema", "json_schema": {"schema": OBJECT}, "schema": None},
    {"type": "json_schema", "schema": OBJECT},
    {"type": "json_schema", "name": "n", "strict": False, "schema": OBJECT},
    {"type": "json_object", "schema": OBJECT},
    {"type": "json_object", "json_schema": {"schema": OBJECT}},
]


@pytest.mark.parametrize("form", FORMS)
def test_a_schema_in_any_form_is_the_schema(form):
    assert schema_of({"response_format": form}) == OBJECT
    assert Params({"response_format": form}).sampling == {"json_schema": OBJECT}


@pytest.mark.parametrize("form", [None, {}, {"type": "text"}, {"type": None}])
def test_no_schema(form):
    assert schema_of({"response_format": form}) is None
    assert schema_of({"response_format": form, "json_schema": OBJECT}) == OBJECT


def test_any_object():
    assert schema_of({"response_format": {"type": "json_object"}}) == {}
    assert schema_of({"response_format": {"type": "json_schema", "schema": {}}}) == {}
    both = {"response_format": {"type": "json_object"}, "json_schema": OBJECT}
    assert schema_of(both) == OBJECT


@pytest.mark.parametrize(
    "form",
    [
        {"type": "json_schema"},
        {"type": "json_schema", "json_schema": {}},
        {"type": "json_schema", "json_schema": {"name": "n"}},
        {"type": "json_schema", "json_schema": OBJECT},  # not wrapped: `schema` is missing
        {"type": "json_schema", "json_schema": {"name": "n", "schema": None}},
        {"type": "json_schema", "json_schema": {"schema": "{}"}},
        {"type": "json_schema", "schema": True},
        {"type": "json_schema", "schema": [OBJECT]},
        {"type": "json_schema", "schema": OBJECT, "strict": "yes"},
        {"type": "json_object", "value": OBJECT},  # text-generation-inference's
        {"type": "text", "schema": OBJECT},
        {"schema": OBJECT},
        {"json_schema": {"schema": OBJECT}},
        {"type": "regex", "value": "a+"},
        {"type": "grammar", "grammar": "root ::= \"a\""},
        {"type": 1},
        "json",
        [],
    ],
)
def test_a_schema_is_never_left_out(form):
    assert refused(schema_of, {"response_format": form})
    assert refused(Params, {"response_format": form})


def test_a_schema_and_a_grammar():
    body = {"response_format": {"type": "json_object"}, "grammar": "root ::= \"a\""}
    assert "grammar" in refused(schema_of, body)
    assert "grammar" in refused(schema_of, {"json_schema": {}, "grammar": "root ::= \"a\""})
