"""CPython twin of modules/json, by CPython's own json: the same results, without slices."""

import contextlib
import json
import math
import re

_MAX_NUMBER = 1100


class Reader:
    """What read() returns where it pauses: never here."""


class Writer:
    """What write() returns where it pauses: never here."""


def _memory(value):
    if isinstance(value, list):
        return 96 + sum(8 + _memory(item) for item in value)
    if isinstance(value, _Object):
        return 96 + value.memory
    if isinstance(value, str):
        return 64 + len(value.encode("utf-8", "surrogatepass"))
    if isinstance(value, float):
        return 32
    return 0 if not isinstance(value, int) or abs(value) < 10**18 else 64 + len(str(value))


class _Object(dict):
    memory = 0


def read(text, depth, members, containers, memory, us):
    if not isinstance(text, bytes):
        raise TypeError("bytes expected")
    string = text.decode("utf-8-sig")
    if string.startswith("\ufeff"):
        raise ValueError("unexpected character at byte 3")
    _check_structure(string, depth, containers)

    def pairs(found):
        value = _Object(found)
        if len(value) > members:
            raise ValueError("more than %d members in an object" % members)
        value.memory = sum(48 + _memory(name) + _memory(item) for name, item in found)
        return value

    value = json.loads(
        string,
        object_pairs_hook=pairs,
        parse_float=_float,
        parse_int=_int,
        parse_constant=_constant,
    )
    if _memory(value) > memory:
        raise ValueError("its values take too much memory")
    return _plain(value)


def _check_structure(text, depth, containers):
    level = 0
    # A string without an end is one match as well: to try again at each quote in it takes hours.
    for token in re.findall(r'"(?:[^"\\]|\\.)*"?|[\[{\]}]', text, re.DOTALL):
        level += (token in "[{") - (token in "]}")
        containers -= token in "[{"
        if level > depth:
            raise ValueError("nested too deeply")
        if containers < 0:
            raise ValueError("too many arrays and objects")


def _int(text):
    if len(text) > _MAX_NUMBER:
        raise ValueError("too long a number")
    return int(text)


def _float(text):
    if len(text) > _MAX_NUMBER:
        raise ValueError("too long a number")
    value = float(text)
    if math.isinf(value):
        raise ValueError("number out of range")
    return value


def _constant(text):
    raise ValueError("unexpected '%s'" % text[0])


def _plain(value):
    if isinstance(value, str):
        value.encode()  # UnicodeEncodeError is a ValueError: half a surrogate pair
    elif isinstance(value, list):
        return [_plain(item) for item in value]
    elif isinstance(value, dict):
        return {_plain(name): _plain(item) for name, item in value.items()}
    return value


def write(value, depth, wide, us):
    return json.dumps(
        _writable(value, depth, wide), separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def _writable(value, depth, wide):
    if isinstance(value, (list, tuple, dict)):
        if not depth:
            raise ValueError("nested too deeply")
        if isinstance(value, dict):
            return {name: _writable(item, depth - 1, wide) for name, item in value.items()}
        return [_writable(item, depth - 1, wide) for item in value]
    if not wide and type(value) is int and not -(1 << 63) <= value < 1 << 64:
        try:
            return float(value)
        except OverflowError:
            raise ValueError("a number that JSON has not") from None
    return value


def integers(values, least, most):
    return all(type(value) is int and least <= value <= most for value in values)


def decode(data):
    data = bytes(data)
    used = len(data) - _cut(data)
    return data[:used].decode(errors="replace"), used


_REST = (
    b"\x80",
    b"\xa0",
    b"\x90",
    b"\x80\x80",
    b"\xa0\x80",
    b"\x90\x80",
    b"\x80\x80\x80",
    b"\x90\x80\x80",
)


def _cut(data):
    # Bytes at the end that more could make a character of. (CPython's incremental decoder waits for
    # the third byte of a surrogate, too.)
    for count in range(1, min(len(data), 3) + 1):
        for more in _REST:
            with contextlib.suppress(UnicodeError):
                if len((data[-count:] + more).decode()) == 1:
                    return count
    return 0


def is_utf8(data):
    try:
        bytes(data).decode()
    except UnicodeError:
        return False
    return True
