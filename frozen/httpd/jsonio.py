"""Strict JSON (RFC 8259) in, compact JSON out, exactly, and with turns of the event loop.

MicroPython's own json takes `[1 2]` for good, makes two halves of a surrogate pair and writes 16
digits of a double and `inf`; it is not used anywhere. Numbers here are exact: integers of any size
up to 1,100 digits, doubles to the last bit in both directions. Numbers beyond a double, lone
surrogates and what is no UTF-8 are errors.
"""
# SPDX-License-Identifier: MIT

import asyncio

import _jsonio

# Levels of a body; each is a level of C++'s recursion where the engine reads it again. What is
# written may be a body inside an answer.
MAX_DEPTH = 48
_WRITTEN_DEPTH = 96
# Members of one object. Names that share a hash are compared with each other, n of them n * n / 2
# times: all objects of a text together may cost as much as two of this size.
MAX_MEMBERS = 4096
# Arrays and objects of one text: whoever is given them looks at each, in Python.
MAX_CONTAINERS = 16384
# Bytes of memory that the values of one text may take: what 2 MiB of words need, or of integers.
MAX_MEMORY = 12 << 20

_SLICE_US = 2000  # of work between two turns of the event loop


def loads(data, memory=MAX_MEMORY, containers=MAX_CONTAINERS):
    """Return the value of JSON text, bytes or str. Raise ValueError that says what and where."""
    return _jsonio.read(_bytes(data), MAX_DEPTH, MAX_MEMBERS, containers, memory, -1)


async def read(data, memory=MAX_MEMORY, containers=MAX_CONTAINERS):
    """Return the value of `data` as loads() does, with turns of the loop every few milliseconds."""
    data = _bytes(data)
    value = _jsonio.read(data, MAX_DEPTH, MAX_MEMBERS, containers, memory, _SLICE_US)
    if type(value) is not _jsonio.Reader:
        return value
    while True:
        await asyncio.sleep(0)
        if value.run(_SLICE_US):
            return value.result()


def dumps(value):
    """Return JSON text (str) of `value`, without spaces, non-ASCII as it is, members in order.

    Raise ValueError for an infinity, NaN or a str that is no UTF-8, TypeError for what JSON has
    no form of.
    """
    return str(_jsonio.write(value, _WRITTEN_DEPTH, True, -1), "utf-8")


def dumps_narrow(value):
    """Return JSON text of `value` for C++: integers beyond 64 bits are doubles, as it has it."""
    return str(_jsonio.write(value, _WRITTEN_DEPTH, False, -1), "utf-8")


def begin(value):
    """Return JSON text (bytes) of `value`, or an unfinished writer for finish() if it takes long."""
    return _jsonio.write(value, _WRITTEN_DEPTH, True, _SLICE_US)


async def finish(begun):
    """Return the text (bytes) of what begin() returned, with turns of the loop."""
    if type(begun) is not _jsonio.Writer:
        return begun
    while True:
        await asyncio.sleep(0)
        if begun.run(_SLICE_US):
            return begun.result()


def finish_now(begun):
    """Return the text (bytes) of what begin() returned, at once: for what is small."""
    if type(begun) is not _jsonio.Writer:
        return begun
    begun.run(-1)
    return begun.result()


def is_utf8(data):
    """Return whether `data` (bytes) is UTF-8. MicroPython's decode() lets surrogates pass."""
    return _jsonio.is_utf8(data)


def decode(data):
    """Return (text, used) of `data` (bytes): U+FFFD for what is no UTF-8, and how many bytes were
    used, which are all but those of a character that the end cuts.
    """
    return _jsonio.decode(data)


def integers(values, least, most):
    """Return whether all items of a list are integers from `least` to `most`, and none a bool."""
    return _jsonio.integers(values, least, most)


def _bytes(data):
    if isinstance(data, str):
        return data.encode()
    return data if isinstance(data, bytes) else bytes(data)
