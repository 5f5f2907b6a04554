# Strict JSON in (RFC 8259), compact JSON out.
#
# MicroPython's json.loads takes `[1 2]`, `{"a" 1}` and `[1,` for good and turns an escaped
# surrogate pair into two halves that are no UTF-8, so a client's mistake would pass and its emoji
# would not. This reader steps per token, and over strings and integer arrays with C-speed
# searches. Sizes are bounded by the caller; depth, members of one object and digits of one number
# are bounded here, because each of them costs more than linear time or stack.
# MIT license; Copyright (c) 2026 cllm contributors

import json
import sys

_MAX_DEPTH = 48
_MAX_MEMBERS = 1024
_MAX_NUMBER = 64

_SPACE = b" \t\n\r"
_NUMBER = b"0123456789+-.eE"
_ESCAPES = {
    0x22: '"',
    0x5C: "\\",
    0x2F: "/",
    0x62: "\b",
    0x66: "\f",
    0x6E: "\n",
    0x72: "\r",
    0x74: "\t",
}

if sys.implementation.name == "micropython":

    def dumps(value):
        """JSON text of `value`, without spaces, non-ASCII as it is."""
        return json.dumps(value, separators=(",", ":"))

else:

    def dumps(value):
        """JSON text of `value`, without spaces, non-ASCII as it is."""
        return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def loads(data):
    """Parses `data` (bytes or str). Raises ValueError that says what and at which byte."""
    if isinstance(data, str):
        data = data.encode()
    try:
        value, i = _value(data, _skip(data, 0), 0)
        i = _skip(data, i)
    except IndexError:
        raise ValueError("unexpected end at byte %d" % len(data))
    if i < len(data):
        raise _bad(data, i)
    return value


def _bad(s, i):
    return ValueError("unexpected %r at byte %d" % (chr(s[i]), i))


def _skip(s, i):
    n = len(s)
    while i < n and s[i] in _SPACE:
        i += 1
    return i


def _value(s, i, depth):
    c = s[i]
    if c == 0x22:  # "
        return _string(s, i + 1)
    if c == 0x7B:  # {
        return _object(s, i + 1, depth + 1)
    if c == 0x5B:  # [
        return _array(s, i + 1, depth + 1)
    if s.startswith(b"null", i):
        return None, i + 4
    if s.startswith(b"true", i):
        return True, i + 4
    if s.startswith(b"false", i):
        return False, i + 5
    return _number(s, i)


def _object(s, i, depth):
    if depth > _MAX_DEPTH:
        raise ValueError("nested deeper than %d" % _MAX_DEPTH)
    result = {}
    i = _skip(s, i)
    if s[i] == 0x7D:  # }
        return result, i + 1
    while True:
        if s[i] != 0x22:
            raise _bad(s, i)
        key, i = _string(s, i + 1)
        i = _skip(s, i)
        if s[i] != 0x3A:  # :
            raise _bad(s, i)
        result[key], i = _value(s, _skip(s, i + 1), depth)
        if len(result) > _MAX_MEMBERS:
            raise ValueError("more than %d members in an object" % _MAX_MEMBERS)
        i = _skip(s, i)
        if s[i] == 0x7D:
            return result, i + 1
        if s[i] != 0x2C:  # ,
            raise _bad(s, i)
        i = _skip(s, i + 1)


def _array(s, i, depth):
    if depth > _MAX_DEPTH:
        raise ValueError("nested deeper than %d" % _MAX_DEPTH)
    i = _skip(s, i)
    result = []
    if s[i] == 0x5D:  # ]
        return result, i + 1
    if s[i] - 48 in range(10):
        # A prompt may be thousands of token ids: split them in one go.
        end = s.find(b"]", i)
        if end > 0 and not s[i:end].strip(b"0123456789, \n"):
            for item in s[i:end].split(b","):
                result.append(_number(item.strip(_SPACE), 0, True)[0])
            return result, end + 1
    while True:
        item, i = _value(s, i, depth)
        result.append(item)
        i = _skip(s, i)
        if s[i] == 0x5D:
            return result, i + 1
        if s[i] != 0x2C:
            raise _bad(s, i)
        i = _skip(s, i + 1)


def _number(s, i, whole=False):
    # RFC 8259 6: [ "-" ] ( "0" / digit1-9 *DIGIT ) [ "." 1*DIGIT ] [ "e" [ "+" / "-" ] 1*DIGIT ]
    n = len(s)
    end = i
    while end < n and s[end] in _NUMBER:
        end += 1
        if end - i > _MAX_NUMBER:
            raise ValueError("number too long at byte %d" % i)
    text = s[i:end]
    if not text:
        raise _bad(s, i)
    if whole and end != n:
        raise _bad(s, end)
    mantissa, mark, exponent = text.lower().partition(b"e")
    integer, dot, fraction = mantissa.partition(b".")
    digits = integer[1:] if integer.startswith(b"-") else integer
    if (
        not digits.isdigit()
        or (len(digits) > 1 and digits[0] == 48)
        or (dot and not fraction.isdigit())
        or (mark and not (exponent[1:] if exponent[:1] in (b"+", b"-") else exponent).isdigit())
    ):
        raise ValueError("malformed number at byte %d" % i)
    if dot or mark:
        return float(text.decode()), end
    return int(text), end


def _string(s, i):
    end = s.find(b'"', i)
    if end < 0:
        raise IndexError
    raw = s[i:end]
    if b"\\" in raw:
        return _escaped(s, i)
    return _text(raw, i), end + 1


def _text(raw, i):
    if raw and min(raw) < 0x20:
        raise ValueError("control character in the string at byte %d" % i)
    try:
        return raw.decode()
    except UnicodeError:
        raise ValueError("the string at byte %d is not UTF-8" % i)


def _escaped(s, i):
    parts = []
    high = 0  # the first half of a surrogate pair
    while True:
        quote = s.find(b'"', i)
        if quote < 0:
            raise IndexError
        back = s.find(b"\\", i, quote)
        end = back if back >= 0 else quote
        if end > i:
            if high:
                break
            parts.append(_text(s[i:end], i))
        if back < 0:
            if high:
                break
            return "".join(parts), quote + 1
        c = s[back + 1]
        i = back + 2
        if c != 0x75:  # u
            if high or c not in _ESCAPES:
                break
            parts.append(_ESCAPES[c])
            continue
        code = s[i : i + 4]
        if len(code) < 4 or code.strip(b"0123456789abcdefABCDEF"):
            break
        code = int(code, 16)
        i += 4
        if high:
            if not 0xDC00 <= code <= 0xDFFF:
                break
            parts.append(chr(0x10000 + ((high - 0xD800) << 10) + code - 0xDC00))
            high = 0
        elif 0xD800 <= code <= 0xDBFF:
            high = code
        elif 0xDC00 <= code <= 0xDFFF:
            break
        else:
            parts.append(chr(code))
    raise ValueError("invalid escape in a string before byte %d" % (i + 1))
