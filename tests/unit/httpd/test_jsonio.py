"""The strict JSON reader against the standard library's, and where MicroPython's is too lax."""

import json
import random

import pytest

from httpd import jsonio

GOOD = [
    "null",
    "true",
    "false",
    "0",
    "-0",
    "12",
    "-1.5e+3",
    "1E5",
    "0.25",
    '""',
    '"a"',
    "[]",
    "{}",
    "[ ]",
    "[1]",
    "[1, 2,\n3]",
    "[1,2.5]",
    "[0]",
    '[1,"a",null]',
    '{"a":1}',
    ' {"a" : [ {"b" : null} ] } ',
    '"\\u0041\\n\\"\\\\\\/\\b\\f\\r\\t"',
    '"\\ud83d\\ude00"',
    '"é😀"',
    '"a\\u00e9b"',
    '{"a":{},"b":[[]]}',
    '{"a":1,"a":2}',
    '"\\\\"',
    '"\\\\\\""',
]
BAD = [
    "",
    " ",
    "nul",
    "True",
    "NaN",
    "Infinity",
    "01",
    "-",
    "+1",
    "1.",
    ".5",
    "1e",
    "1e+",
    "0x1",
    "1_0",
    "[",
    "[1",
    "[1,",
    "[1,]",
    "[,1]",
    "[1 2]",
    "[1,,2]",
    "[01]",
    "[1,01]",
    "[1 ,2 3]",
    "{",
    '{"a"',
    '{"a":',
    '{"a":1',
    '{"a":1,',
    '{"a":1,}',
    '{"a" 1}',
    "{a:1}",
    "{'a':1}",
    "{1:2}",
    '{"a":1}}',
    "1 2",
    '"',
    '"a',
    '"\\',
    '"\\q"',
    '"\\u12"',
    '"\\u12g4"',
    '"\\ud83d"',
    '"\\ud83dx"',
    '"\\ud83d\\n"',
    '"\\ude00"',
    '"\n"',
    '"a\x01\\n"',
    "[1}",
    '{"a":1]',
    "//",
    "[-]",
    "1" * 100,
    "[" * 100 + "]" * 100,
]


@pytest.mark.parametrize("text", GOOD)
def test_good(text):
    assert jsonio.loads(text) == json.loads(text)


@pytest.mark.parametrize("text", BAD)
def test_bad(text):
    with pytest.raises(ValueError):
        jsonio.loads(text)


@pytest.mark.parametrize("data", [b'"\xff"', b'"\xc3"', b"\xff", b'"\xed\xa0\x80"'])
def test_not_utf8(data):
    with pytest.raises(ValueError):
        jsonio.loads(data)


def test_members_are_bounded():
    with pytest.raises(ValueError, match="members"):
        jsonio.loads(json.dumps({str(i): i for i in range(2000)}))


def test_random_values_round_trip():
    rng = random.Random(2)

    def value(depth):
        kind = rng.randrange(8 if depth < 4 else 6)
        if kind == 0:
            return rng.choice([None, True, False])
        if kind == 1:
            return rng.randrange(-(10**12), 10**12)
        if kind == 2:
            return rng.random() * 10 ** rng.randrange(-9, 9)
        if kind < 6:
            return "".join(rng.choice('"\\\tAé€😀') for _ in range(5))
        if kind == 6:
            return [value(depth + 1) for _ in range(rng.randrange(5))]
        return {str(value(9)): value(depth + 1) for _ in range(rng.randrange(5))}

    for _ in range(500):
        v = value(0)
        for text in (json.dumps(v), json.dumps(v, ensure_ascii=False, indent=1), jsonio.dumps(v)):
            assert jsonio.loads(text) == v


def test_mutations_agree_with_json():
    """What the standard library refuses is refused here, but for its known extensions."""
    rng = random.Random(3)
    base = '{"a": [1, 2.5, -3e2, "x\\n\\u00e9"], "b": {"c": null, "d": [true, false]}}'
    for _ in range(4000):
        text = list(base)
        for _ in range(rng.randrange(1, 4)):
            text[rng.randrange(len(text))] = rng.choice('{}[]",:\\0123456789.eE+- \tntf')
        text = "".join(text)
        try:
            expected = json.loads(text)
        except ValueError:
            with pytest.raises(ValueError):
                jsonio.loads(text)
        else:
            assert jsonio.loads(text) == expected, text
