"""The JSON reader and writer against the standard library's; on MicroPython too, where values that
CPython's json gave are written out beside the texts.
"""

import asyncio
import random
import sys

import pytest
from httpd import jsonio

MICROPYTHON = sys.implementation.name == "micropython"
# MicroPython's own dicts have no order; those of the image and of the build for these tests do.
ORDERED = list(dict.fromkeys("hgfedcba", 0)) == list("hgfedcba")

VALUES = [
    ("null", None),
    ("true", True),
    ("false", False),
    ("0", 0),
    ("-0", 0),
    ("12", 12),
    ("-1.5e+3", -1500.0),
    ("1E5", 100000.0),
    ("0.25", 0.25),
    ("-0.0", -0.0),
    ("0e99999", 0.0),
    ("1e-99999", 0.0),
    ("4.9e-324", 5e-324),
    ("1.7976931348623157e308", 1.7976931348623157e308),
    ("0.30000000000000004", 0.30000000000000004),
    ("9007199254740993", 9007199254740993),
    ("9007199254740993.0", 9007199254740992.0),
    ("9223372036854775807", 9223372036854775807),
    ("-9223372036854775808", -9223372036854775808),
    ("18446744073709551616", 18446744073709551616),
    ("123456789012345678901234567890", 123456789012345678901234567890),
    ("1" + "0" * 400, 10**400),
    ('""', ""),
    ('"a"', "a"),
    ("[]", []),
    ("{}", {}),
    ("[ ]", []),
    ("[1]", [1]),
    ("[1, 2,\n3]", [1, 2, 3]),
    ("[1,2.5]", [1, 2.5]),
    ("[0]", [0]),
    ('[1,"a",null]', [1, "a", None]),
    ('{"a":1}', {"a": 1}),
    (' {"a" : [ {"b" : null} ] } ', {"a": [{"b": None}]}),
    ('"\\u0041\\n\\"\\\\\\/\\b\\f\\r\\t"', 'A\n"\\/\b\f\r\t'),
    ('"\\ud83d\\ude00"', "\U0001f600"),
    ('"\\uDBFF\\uDFFF\\uD800\\uDC00"', "\U0010ffff\U00010000"),
    ('"\\u0000"', "\0"),
    ('"\\ud7ff\\ue000\\uffff"', "\ud7ff\ue000\uffff"),
    ('"é\U0001f600"', "é\U0001f600"),
    ('"a\\u00e9b"', "aéb"),
    ('{"a":{},"b":[[]]}', {"a": {}, "b": [[]]}),
    ('{"a":1,"a":2}', {"a": 2}),
    ('{"":1,"":[]}', {"": []}),
    ('"\\\\"', "\\"),
    ('"\\\\\\""', '\\"'),
    ("\ufeff1", 1),
]
BAD = [
    "",
    " ",
    "nul",
    "nullx",
    "True",
    "NaN",
    "Infinity",
    "-Infinity",
    "01",
    "-01",
    "-",
    "+1",
    "1.",
    ".5",
    "1e",
    "1e+",
    "0x1",
    "1_0",
    "1e999",
    "-1e999",
    "[1.7976931348623159e308]",
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
    '{"a"}',
    '{"a",1}',
    '[1:2]',
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
    '"\\u+123"',
    '"\\ud83d"',
    '"\\ud83dx"',
    '"\\ud83d\\n"',
    '"\\ud83d\\u0041"',
    '"\\ud83d\\ud83d"',
    '"\\ude00"',
    '"\\ude00\\ud83d"',
    '"\n"',
    '"\x1f"',
    '"a\x01\\n"',
    "[1}",
    '{"a":1]',
    "//",
    "[-]",
    "1\x0b",
    "1\x0c2",
    "\xa01",
    "1\0",
    "\ufeff\ufeff1",
    "1\ufeff",
    "1" * 1101,
    "0." + "1" * 1100,
    "[" * 49 + "]" * 49,
    '{"a":' * 49 + "1" + "}" * 49,
]


def same(a, b):
    """Whether two values are equal and of the same types, dicts in the same order."""
    if type(a) is not type(b):
        return False
    if isinstance(a, list):
        return len(a) == len(b) and all([same(x, y) for x, y in zip(a, b)])
    if isinstance(a, dict):
        names = list(a)
        return names == list(b) and all([same(a[name], b[name]) for name in names])
    return a == b


def need_order():
    if not ORDERED:
        pytest.skip("this MicroPython's dicts have no order")


@pytest.mark.parametrize("text, value", VALUES)
def test_values(text, value):
    assert same(jsonio.loads(text), value)
    assert same(jsonio.loads(text.encode()), value)
    assert same(jsonio.loads("[" * 40 + text.lstrip("\ufeff") + "]" * 40), nested(value, 40))


def nested(value, depth):
    return nested([value], depth - 1) if depth else value


@pytest.mark.parametrize("text", BAD)
def test_bad(text):
    with pytest.raises(ValueError):
        jsonio.loads(text)


@pytest.mark.parametrize(
    "data",
    [
        b'"\xff"',
        b'"\xc3"',
        b"\xff",
        b'"\xed\xa0\x80"',
        b'"\xc0\x80"',
        b'"\xe0\x9f\xbf"',
        b'"\xf0\x8f\xbf\xbf"',
        b'"\xf4\x90\x80\x80"',
        b'"\xf5\x80\x80\x80"',
        b'"\x80"',
        b'"\xe2\x82"',
        b'{"\xff":1}',
        b'"abcdefgh\xff"',
    ],
)
def test_not_utf8(data):
    with pytest.raises(ValueError):
        jsonio.loads(data)
    assert not jsonio.is_utf8(data)


def test_errors_say_what_and_where():
    if not MICROPYTHON:
        pytest.skip("CPython's json has words of its own")
    for text, said in (
        ("[1 2]", "unexpected '2' at byte 3"),
        ("[1,", "unexpected end at byte 3"),
        ("[1,\x01]", "unexpected character at byte 3"),
        ('["\\ud800"]', "invalid escape at byte 2"),
        ('["abcdefghijk\n"]', "control character in a string at byte 13"),
        ("[1e999]", "number out of range at byte 1"),
        ("[ 01]", "malformed number at byte 2"),
        ("[" * 50, "nested too deeply at byte 48"),
    ):
        with pytest.raises(ValueError) as info:
            jsonio.loads(text)
        assert str(info.value) == said, (text, info.value)


def test_members_are_in_order_and_bounded():
    need_order()
    names = ["k%d" % (i * 7919 % 4096) for i in range(4096)]
    text = "{" + ",".join(['"%s":%d' % (name, i) for i, name in enumerate(names)]) + "}"
    value = jsonio.loads(text)
    assert list(value) == names and list(value.values()) == list(range(4096))
    assert jsonio.dumps(value) == text
    again = ",".join(['"%s":0' % name for name in names[:100]])
    assert len(jsonio.loads(text[:-1] + "," + again + "}")) == 4096  # these are no more members
    with pytest.raises(ValueError, match="members"):
        jsonio.loads(text[:-1] + ',"more":1}')


def test_the_members_of_all_objects_are_bounded():
    if not MICROPYTHON:
        pytest.skip("CPython's dicts are not afraid of it")
    text = "{" + ",".join(['"k%d":0' % i for i in range(1100)]) + "}"
    assert len(jsonio.loads("[" + (text + ",") * 25 + "0]")) == 26
    with pytest.raises(ValueError, match="members"):
        jsonio.loads("[" + (text + ",") * 40 + "0]")


def test_a_name_that_comes_again_keeps_its_place():
    need_order()
    assert list(jsonio.loads('{"b":1,"a":2,"b":3}').items()) == [("b", 3), ("a", 2)]


@pytest.mark.parametrize(
    "item, count",
    [("0.5", 100000), ("[]", 16000), ('""', 20000), ('{"a":0}', 10000), ("1", 200000)],
)
def test_memory_is_bounded(item, count):
    text = "[" + (item + ",") * count + "0]"
    assert len(jsonio.loads(text, memory=8 << 20)) == count + 1
    with pytest.raises(ValueError, match="memory"):
        jsonio.loads(text, memory=1 << 20)


def test_large_bodies_are_within_the_bounds():
    """What a context of 131,072 tokens can hold, as tokens, floats, messages."""
    for text in (
        "[" + "99999," * 131071 + "0]",
        "[" + "-0.12345678901234567," * 100000 + "0]",
        "[" + '{"role":"user","content":"x"},' * 16000 + "0]",
        '"' + "\\n" * (1 << 20) + '"',
        "{" + ",".join(['"p%d":{"type":"string"}' % i for i in range(1100)]) + "}",
    ):
        jsonio.loads(text)


def test_containers_are_bounded():
    text = "[" + "[],{}," * 8190 + "[]]"
    assert len(jsonio.loads(text)) == 16381
    for more in ("[[],[],[]]", "[{},{},{}]", '{"a":[],"b":{}}'):
        with pytest.raises(ValueError, match="arrays and objects"):
            jsonio.loads("[" + more + "," + text + "]")
    assert len(jsonio.loads("[" + "[]," * 99 + "0]", containers=100)) == 100
    with pytest.raises(ValueError, match="arrays and objects"):
        jsonio.loads("[" + "[]," * 100 + "0]", containers=100)


class Ticks:
    """Counts the turns of the loop while something else runs."""

    def __init__(self):
        self.count = 0
        self.task = asyncio.create_task(self.run())

    async def run(self):
        while True:
            self.count += 1
            await asyncio.sleep(0)


@pytest.mark.parametrize(
    "start, piece, count, end",
    [
        ("\"", "\\n", 1000000, "\""),
        ("\"", "я", 1000000, "\""),
        ("[\"", "\\u044f", 300000, "\"]"),
        ("[", "0.5,", 200000, "1]"),
        ("[", "1,", 500000, "1]"),
        ("[", '{"role":"user","content":"hello"},', 20000, "1]"),
    ],
)
def test_reading_and_writing_give_way(start, piece, count, end):
    data = (start + piece * count + end).encode()

    async def scenario():
        ticks = Ticks()
        value = await jsonio.read(data, containers=1 << 20)
        reading = ticks.count
        text = await jsonio.finish(jsonio.begin(value))
        writing = ticks.count - reading
        ticks.task.cancel()
        assert same(value, jsonio.loads(data, containers=1 << 20))
        assert text == jsonio.dumps(value).encode()
        return reading, writing

    reading, writing = asyncio.run(scenario())
    if MICROPYTHON:
        assert reading > 0 and writing > 0


def test_an_error_in_the_middle_of_slices():
    for end in (b"x]", b"1e999]", b'"\\ud800"]', b""):
        with pytest.raises(ValueError):
            asyncio.run(jsonio.read(b"[" + b"0.5," * 100000 + end))


# --- writing


def test_numbers_are_written_exactly():
    for text in (
        "0.1",
        "0.30000000000000004",
        "1.7976931348623157e+308",
        "5e-324",
        "2.2250738585072014e-308",
        "1e+16",
        "1e+22",
        "9999999999999998.0",
        "123456.0",
        "-0.0",
        "0.0001",
        "1e-05",
        "100.0",
        "5.684341886080802e-14",
        "9007199254740992.0",
        "1.2345678901234566e-07",
        "3.141592653589793",
        "-9223372036854775809",
        "18446744073709551616",
        "123456789012345678901234567890",
        "0",
        "-7",
    ):
        assert jsonio.dumps(jsonio.loads(text)) == text
    assert jsonio.dumps(10**300) == "1" + "0" * 300


def test_doubles_round_trip():
    rng = random.Random(5)
    for _ in range(20000):
        value = rng.random() * 10.0 ** rng.randint(-300, 300) * (1 - 2 * rng.getrandbits(1))
        text = jsonio.dumps(value)
        assert jsonio.loads(text) == value
        if not MICROPYTHON:  # whose own text of it is another number
            assert text == repr(value)


def test_what_json_has_not_is_not_written():
    inf = float("inf")
    for value in (inf, -inf, float("nan"), [1, inf], {"a": float("nan")}):
        with pytest.raises(ValueError):
            jsonio.dumps(value)
    for value in (b"x", object(), {1, 2}, [b"x"], {b"x": 1}, {(1,): 1}, print):
        with pytest.raises(TypeError):
            jsonio.dumps(value)


def test_a_str_that_is_no_utf8_is_not_written():
    half = "\ud800" if not MICROPYTHON else str(b"\xed\xa0\x80", "utf-8")
    for value in (half, ["a" * 100 + half], {half: 1}):
        with pytest.raises(ValueError):
            jsonio.dumps(value)


def test_strings_are_written_as_they_are():
    for value in ("", "a" * 10000, "\"\\/", "\b\f\n\r\t\0\x01\x1f\x7f", "é€\U0001f600" * 5000):
        assert jsonio.loads(jsonio.dumps(value)) == value
    assert jsonio.dumps('\x00\x1f"\\/\n\x7fé') == '"\\u0000\\u001f\\"\\\\/\\n\x7fé"'


def test_containers():
    need_order()
    assert jsonio.dumps((1, [2, (3,)], {})) == "[1,[2,[3]],{}]"
    assert jsonio.dumps({1: 2, None: 3, True: 4, 0.5: 5}) == '{"1":4,"null":3,"0.5":5}'

    class Names(dict):
        pass

    class Items(list):
        pass

    names = Names()
    names["a"] = Items([1])
    assert jsonio.dumps(names) == '{"a":[1]}'


def test_depth_is_bounded():
    jsonio.dumps(nested(1, 96))
    for value in (nested(1, 97), []):
        if not value:
            value.append(value)  # without end
        with pytest.raises(ValueError):
            jsonio.dumps(value)


def test_wide_integers_are_doubles_for_the_engine():
    value = [1 << 63, -(1 << 63), (1 << 64) - 1, 1 << 64, -(1 << 63) - 1, 10**29]
    assert jsonio.dumps_narrow(value) == (
        "[9223372036854775808,-9223372036854775808,18446744073709551615,"
        "1.8446744073709552e+19,-9.223372036854775808e+18,1e+29]"
    ).replace("-9.223372036854775808e+18", "-9.223372036854776e+18")
    with pytest.raises(ValueError):
        jsonio.dumps_narrow(10**400)


def test_a_list_that_changes_while_it_is_written():
    async def scenario():
        value = {"a": [0.1] * 200000, "b": {str(i): i for i in range(1000)}}
        begun = jsonio.begin(value)
        value["a"].clear()
        value["b"].clear()
        value["c"] = 1
        return jsonio.loads(await jsonio.finish(begun))

    assert list(asyncio.run(scenario()))[0] == "a"


# --- checks


def test_integers():
    assert jsonio.integers([0, 5, 9], 0, 9) and jsonio.integers([], 0, 0)
    for item in (-1, 10, True, False, 1.0, "1", None, [], 1 << 62, 1 << 70, -(1 << 70)):
        assert not jsonio.integers([1, item], 0, 9)


def test_is_utf8():
    for data in (b"", b"abc", "é€\U0001f600".encode(), b"\xed\x9f\xbf\xee\x80\x80", b"a" * 99):
        assert jsonio.is_utf8(data)


def test_decode():
    for data, text, used in (
        (b"", "", 0),
        (b"abc", "abc", 3),
        ("é€\U0001f600".encode(), "é€\U0001f600", 9),
        (b"a\xff\x80b", "a\ufffd\ufffdb", 4),
        (b"\xf0\x9f\x98x", "\ufffdx", 4),
        (b"\xed\xa0\x80", "\ufffd" * 3, 3),
        (b"a\xe2\x82", "a", 1),
        (b"\xf0\x9f\x98", "", 0),
        (b"\xe2\x28", "\ufffd(", 2),
        (b"\x80" * 100 + b"\xc3", "\ufffd" * 100, 100),
    ):
        assert jsonio.decode(data) == (text, used), data


# --- against the standard library


def _value(rng, depth):
    kind = rng.randrange(8 if depth < 4 else 6)
    if kind == 0:
        return rng.choice([None, True, False])
    if kind == 1:
        return rng.randrange(-(10**12), 10**12)
    if kind == 2:
        return rng.random() * 10.0 ** rng.randrange(-9, 9)
    if kind < 6:
        return "".join([rng.choice('"\\\tAé€\U0001f600') for _ in range(5)])
    if kind == 6:
        return [_value(rng, depth + 1) for _ in range(rng.randrange(5))]
    return {str(_value(rng, 9)): _value(rng, depth + 1) for _ in range(rng.randrange(5))}


def test_random_values_round_trip():
    need_order()
    rng = random.Random(2)
    for _ in range(500):
        value = _value(rng, 0)
        assert same(jsonio.loads(jsonio.dumps(value)), value)


def test_as_the_standard_library():
    if MICROPYTHON:
        pytest.skip("its json is another")
    import json

    rng = random.Random(2)
    for _ in range(500):
        value = _value(rng, 0)
        for text in (json.dumps(value), json.dumps(value, ensure_ascii=False, indent=1)):
            assert same(jsonio.loads(text), value)
        assert jsonio.dumps(value) == json.dumps(value, ensure_ascii=False, separators=(",", ":"))
