"""native/json, compiled for the host, against CPython's json and repr."""

import json
import math
import random
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

DEPTH = 48
PAUSE, ERROR, DONE, NULL, FALSE, TRUE, INTEGER, FLOAT, STRING, NAME = range(10)
ARRAY, ARRAY_END, OBJECT, OBJECT_END = range(10, 14)


@pytest.fixture(scope="module")
def native(compile_native):
    return compile_native(
        "json",
        """
        struct json_reader {
            const uint8_t *text;
            size_t size, at;
            const char *error;
            unsigned depth, max_depth;
            uint64_t objects;
            uint8_t state;
            size_t start, end, length;
            bool escaped, fits;
            int64_t integer;
            double number;
        };
        void json_read(struct json_reader *, const void *, size_t, unsigned);
        int json_next(struct json_reader *, size_t);
        size_t json_decode(const struct json_reader *, size_t *, uint8_t *, size_t);
        size_t json_escape(const uint8_t *, size_t, size_t *, uint8_t *, size_t);
        size_t json_double(double, char *);
        size_t json_valid(const uint8_t *, size_t);
        size_t json_broken(const uint8_t *, size_t, bool *);
        """,
    )


class Malformed(ValueError):
    pass


def events(native, data, work):
    """Return the tokens of `data` as (event, value), read with pauses after `work` bytes."""
    ffi, lib = native.ffi, native.lib
    text = ffi.new("uint8_t[]", data)  # with a zero behind it, which no token may reach
    reader = ffi.new("struct json_reader *")
    lib.json_read(reader, text, len(data), DEPTH)
    found = []
    while True:
        event = lib.json_next(reader, work)
        if event == PAUSE:
            continue
        if event == ERROR:
            assert lib.json_next(reader, work) == ERROR and 0 <= reader.at <= len(data)
            raise Malformed(ffi.string(reader.error).decode(), reader.at)
        if event == DONE:
            return found
        found.append((event, value(native, reader, data, event, work)))


def value(native, reader, data, event, work):
    if event == INTEGER:
        number = int(data[reader.start : reader.end])
        assert not reader.fits or reader.integer == number
        return number
    if event == FLOAT:
        return reader.number
    if event not in (STRING, NAME):
        return None
    out = native.ffi.new("uint8_t[]", reader.length + 1)
    at = native.ffi.new("size_t *", reader.start)
    length = 0
    while at[0] != reader.end:
        length += native.lib.json_decode(reader, at, out + length, work)
    assert length == reader.length and out[length] == 0
    decoded = bytes(native.ffi.buffer(out, length))
    assert reader.escaped or decoded == data[reader.start : reader.end]
    return decoded.decode()


def build(found):
    """Return the value of tokens."""
    found = iter(found)

    def one(event, value):
        if event == ARRAY:
            items = []
            for token in found:
                if token[0] == ARRAY_END:
                    return items
                items.append(one(*token))
        if event == OBJECT:
            members = {}
            for token in found:
                if token[0] == OBJECT_END:
                    return members
                assert token[0] == NAME
                members[token[1]] = one(*next(found))
        return {NULL: None, FALSE: False, TRUE: True}.get(event, value)

    result = one(*next(found))
    assert next(found, None) is None
    return result


def loads(native, data, work=1 << 20):
    return build(events(native, data, work))


def expected(text):
    """Return what CPython's json makes of `text`, without its extensions of RFC 8259."""

    def number(text):
        value = float(text)
        if math.isinf(value):
            raise ValueError("out of range")
        return value

    def constant(name):
        raise ValueError(name)

    text = text[1:] if text.startswith("\ufeff") else text
    value = json.loads(text, parse_float=number, parse_constant=constant)
    json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair is no text
    return value


def same(a, b):
    return repr(a) == repr(b)  # order, types, the sign of zero


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20
)


@settings(max_examples=300, deadline=None)
@given(VALUES, st.booleans(), st.sampled_from([None, 1]), st.sampled_from([1, 3, 7, 1 << 20]))
def test_any_value(native, value, ascii, indent, work):
    data = json.dumps(value, ensure_ascii=ascii, indent=indent).encode()
    assert same(loads(native, data, work), value)
    assert same(loads(native, b"\xef\xbb\xbf" + data + b" \n", work), value)


PIECES = [
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    '"',
    "\\",
    "\\u",
    "d83d",
    "\\ude00",
    "0",
    "1",
    "-",
    ".",
    "e",
    "E",
    "+",
    "null",
    "true",
    "false",
    " ",
    "\n",
    "\t",
    "é",
    "\U0001f600",
    "a",
    "abcdefghi",
    "\x01",
    "\0",
    '"a":',
    "1e308",
    "1e999",
    "123456789012345678901",
    "\ufeff",
    "/",
    "n",
    "[[",
    "NaN",
]


@settings(max_examples=3000, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=12), st.sampled_from([1, 2, 1 << 20]))
def test_any_text(native, pieces, work):
    check_as_json(native, "".join(pieces), work)


def check_as_json(native, text, work):
    try:
        wanted = expected(text)
    except ValueError:
        with pytest.raises(Malformed):
            loads(native, text.encode(), work)
    else:
        assert same(loads(native, text.encode(), work), wanted)


BASE = '{"a": [1, 2.5, -3e2, "x\\n\\u00e9\\ud83d\\ude00"], "b": {"c": null, "d": [true, false]}}'


def test_mutations(native):
    rng = random.Random(3)
    for _ in range(4000):
        text = list(BASE)
        for _ in range(rng.randrange(1, 4)):
            text[rng.randrange(len(text))] = rng.choice('{}[]",:\\0123456789.eE+- \tntfdu')
        check_as_json(native, "".join(text), rng.choice([1, 5, 1 << 20]))


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=40))
def test_any_bytes(native, data):
    try:
        text = data.decode()
    except UnicodeError:
        text = None
    buffer = native.ffi.new("uint8_t[]", data)
    assert (native.lib.json_valid(buffer, len(data)) == len(data)) == (text is not None)
    for body in (data, b'"' + data + b'"', b'{"' + data + b'":0}'):
        if text is None:
            with pytest.raises(Malformed):
                loads(native, body)
        else:
            check_as_json(native, body.decode(), 1 << 20)


def test_every_pair_of_octets_of_utf8(native):
    for first in range(0x80, 0x100):
        for second in range(0x100):
            for tail in (b"", b"\x80", b"\xbf\x80", b"\x80\x80\x80"):
                data = bytes([first, second]) + tail
                try:
                    data.decode()
                    wanted = True
                except UnicodeError:
                    wanted = False
                buffer = native.ffi.new("uint8_t[]", data)
                assert (native.lib.json_valid(buffer, len(data)) == len(data)) == wanted, data
                assert replaced(native, data) == data.decode(errors="replace")


def replaced(native, data):
    """Return `data` as text by json_valid() and json_broken(), with U+FFFD for broken UTF-8."""
    cut = native.ffi.new("bool *")
    text = ""
    at = 0
    while at < len(data):
        rest = native.ffi.new("uint8_t[]", data[at:])
        good = native.lib.json_valid(rest, len(data) - at)
        text += data[at : at + good].decode()
        at += good
        if at < len(data):
            rest = native.ffi.new("uint8_t[]", data[at:])
            at += native.lib.json_broken(rest, len(data) - at, cut)
            assert not cut[0] or at == len(data)
            text += "\ufffd"
    return text


BROKEN = [
    0x20,
    0x7F,
    0x80,
    0xBF,
    0xC1,
    0xC2,
    0xE0,
    0xA0,
    0x9F,
    0xED,
    0xEF,
    0xF0,
    0x90,
    0xF4,
    0x8F,
    0xF5,
]


@settings(max_examples=1000, deadline=None)
@given(st.lists(st.sampled_from(BROKEN), max_size=12).map(bytes) | st.binary(max_size=12))
def test_broken_characters_are_replaced_as_by_python(native, data):
    assert replaced(native, data) == data.decode(errors="replace")


@pytest.mark.parametrize("depth", [1, DEPTH - 1, DEPTH, DEPTH + 1, 100000])
def test_depth(native, depth):
    for text in (b"[" * depth + b"]" * depth, b'{"a":' * (depth - 1) + b"{}" + b"}" * (depth - 1)):
        if depth <= DEPTH:
            loads(native, text)
        else:
            with pytest.raises(Malformed, match="nested"):
                loads(native, text)


def test_numbers_have_a_length(native):
    for text in ("1" * 1100, "0." + "1" * 1098, "-" + "9" * 1099, "1e" + "0" * 1097 + "1"):
        assert same(loads(native, text.encode()), json.loads(text))
        with pytest.raises(Malformed, match="long"):
            loads(native, text.encode() + b"1")


@settings(max_examples=2000, deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False), st.integers(0, 25))
def test_doubles_are_read_to_the_last_bit(native, value, digits):
    for text in ("%.*e" % (digits, value), "%.*g" % (digits + 1, value), repr(value)):
        wanted = float(text)
        if "." in text or "e" in text:
            if math.isinf(wanted):
                with pytest.raises(Malformed, match="range"):
                    loads(native, text.encode())
            else:
                assert same(loads(native, text.encode()), wanted)


def text_of(native, value):
    out = native.ffi.new("char[25]")
    return bytes(native.ffi.buffer(out, native.lib.json_double(value, out))).decode()


@settings(max_examples=5000, deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_doubles_are_written_as_repr(native, value):
    assert text_of(native, value) == repr(value)


def test_all_exponents_are_written_as_repr(native):
    rng = random.Random(4)
    for exponent in range(0x7FF):
        mantissas = (0, 1, 2, (1 << 52) - 1, rng.getrandbits(52), rng.getrandbits(20) << 32)
        for mantissa in mantissas:
            (value,) = struct.unpack("<d", struct.pack("<Q", exponent << 52 | mantissa))
            assert text_of(native, value) == repr(value)
    for exponent in range(-323, 309):
        for digits in (1, 2, 5, 9, 123, 987654321, 12345678901234567):
            value = float("%de%d" % (digits, exponent))
            if not math.isinf(value):
                assert text_of(native, value) == repr(value)


def test_what_is_no_number_has_no_text(native):
    for value in (math.inf, -math.inf, math.nan):
        assert text_of(native, value) == ""


def escaped(native, data, room):
    ffi = native.ffi
    text = ffi.new("uint8_t[]", data)
    at = ffi.new("size_t *", 0)
    out = b""
    while at[0] != len(data):
        buffer = ffi.new("uint8_t[]", room)
        written = native.lib.json_escape(text, len(data), at, buffer, room)
        if written == (1 << 64) - 1:
            return None
        assert 0 < written <= room
        out += bytes(ffi.buffer(buffer, written))
    return out


ODD = 'a"\\\n\x00\x1f\x7f\x80é\U0001f600'


@settings(max_examples=1000, deadline=None)
@given(st.text() | st.text(alphabet=ODD), st.sampled_from([16, 17, 999]))
def test_strings_are_escaped_as_by_json(native, text, room):
    wanted = json.dumps(text, ensure_ascii=False)[1:-1].encode()
    assert escaped(native, text.encode(), room) == wanted


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=30))
def test_what_is_no_utf8_is_not_written(native, data):
    try:
        data.decode()
    except UnicodeError:
        assert escaped(native, data, 99) is None
