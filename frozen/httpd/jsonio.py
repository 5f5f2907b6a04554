"""Strict JSON (RFC 8259) in, compact JSON out, exactly, and with turns of the event loop.

Nothing uses MicroPython's own json: it accepts `[1 2]`, splits a surrogate pair into halves, and
writes doubles with 16 digits and infinity as `inf`. Numbers here are exact: integers of up to
1,100 digits, and doubles to the last bit in both directions. Numbers beyond a double, lone
surrogates and bytes that are no UTF-8 are errors.
"""
# SPDX-License-Identifier: MIT

import asyncio

import _jsonio

# Nesting of a body. The engine reads some bodies again, in C++, with a recursion for each level.
# An answer may hold a body, so it may be nested deeper.
MAX_DEPTH = 48
_WRITTEN_DEPTH = 96
# Members of one object. n names with the same hash take n * n / 2 comparisons, so all objects of a
# text together may cost as much as two of this size.
MAX_MEMBERS = 4096
# Arrays and objects of one text. Handlers look at each of them, in Python.
MAX_CONTAINERS = 16384
# Bytes of memory for the values of one text: what 2 MiB of words or integers need.
MAX_MEMORY = 12 << 20

_SLICE_US = 2000  # of work between two turns of the event loop


def loads(data, memory=MAX_MEMORY, containers=MAX_CONTAINERS):
    """Return the value of JSON text (bytes or str). A ValueError says what is wrong and where."""
    return _jsonio.read(_bytes(data), MAX_DEPTH, MAX_MEMBERS, containers, memory, -1)


async def read(data, memory=MAX_MEMORY, containers=MAX_CONTAINERS):
    """Return the value of `data` as loads() does. The event loop runs every few milliseconds."""
    data = _bytes(data)
    value = _jsonio.read(data, MAX_DEPTH, MAX_MEMBERS, containers, memory, _SLICE_US)
    if type(value) is not _jsonio.Reader:
        return value
    while True:
        await asyncio.sleep(0)
        if value.run(_SLICE_US):
            return value.result()


def dumps(value):
    """Return JSON text (str) of `value`: without spaces, non-ASCII as it is, members in order.

    Raise ValueError for an infinity, a NaN or a str that is no UTF-8, TypeError for a type that
    JSON lacks.
    """
    return str(_jsonio.write(value, _WRITTEN_DEPTH, True, -1), "utf-8")


def dumps_narrow(value):
    """Return JSON text of `value` for C++: integers beyond 64 bits are written as doubles."""
    return str(_jsonio.write(value, _WRITTEN_DEPTH, False, -1), "utf-8")


def begin(value):
    """Return JSON text (bytes) of `value`, or a writer for finish() if it takes long."""
    return _jsonio.write(value, _WRITTEN_DEPTH, True, _SLICE_US)


async def finish(begun):
    """Return the text (bytes) of what begin() returned. The event loop runs meanwhile."""
    if type(begun) is not _jsonio.Writer:
        return begun
    while True:
        await asyncio.sleep(0)
        if begun.run(_SLICE_US):
            return begun.result()


def finish_now(begun):
    """Return the text (bytes) of what begin() returned, at once. For small values."""
    if type(begun) is not _jsonio.Writer:
        return begun
    begun.run(-1)
    return begun.result()


def is_utf8(data):
    """Return whether `data` (bytes) is UTF-8. MicroPython's decode() lets surrogates pass."""
    return _jsonio.is_utf8(data)


def decode(data):
    """Return (text, used) of `data` (bytes). text: with U+FFFD for what is no UTF-8. used: how
    many bytes the text stands for; a character that the end cuts is left out.
    """
    return _jsonio.decode(data)


def integers(values, least, most):
    """Return whether all items of a list are integers from `least` to `most`; a bool is none."""
    return _jsonio.integers(values, least, most)


def _bytes(data):
    if isinstance(data, str):
        return data.encode()
    return data if isinstance(data, bytes) else bytes(data)
