"""Arithmetic modulo 2^32: sequence numbers (RFC 9293 3.4) and timestamps (RFC 7323 5.2).

Connections keep sequence numbers unwrapped: plain integers that start at the initial sequence
number and only grow, so code compares them with `<`. Numbers are wrapped when they are written to
a segment and unwrapped when one arrives. The hot path does both in place, with MASK.
"""

from micropython import const

MASK = const(0xFFFFFFFF)
# Half of the circle: a number less than this far ahead is a later one.
HALF = const(0x80000000)


def unwrap(number, near):
    """Return the integer nearest to `near` that equals `number` modulo 2^32."""
    return near + ((number - near + HALF) & MASK) - HALF


def is_later(number, other):
    """Return whether `number` comes after `other` on the circle."""
    return 0 < (number - other) & MASK < HALF
