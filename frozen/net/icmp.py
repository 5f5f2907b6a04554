"""ICMP (RFC 792): parse and emit the messages that this stack understands."""

import struct

import _netbuf
from micropython import const

HEADER = const(8)

ECHO_REPLY = const(0)
UNREACHABLE = const(3)
ECHO_REQUEST = const(8)

PORT_UNREACHABLE = const(3)


def parse(buf, start, end):
    """Return (type, code) of a message in buf[start:end], or None where it is malformed."""
    if end - start < HEADER or _netbuf.checksum(buf, start, end - start) != 0xFFFF:
        return None
    return buf[start], buf[start + 1]


def emit(buf, offset, kind, code, rest, payload):
    """Write a message and return its length.

    Args: rest: the header's second half, 32 bits; payload: bytes that follow the header.
    """
    length = HEADER + len(payload)
    struct.pack_into(">BBHI", buf, offset, kind, code, 0, rest)
    _netbuf.copy(buf, offset + HEADER, payload, 0, len(payload))
    checksum = ~_netbuf.checksum(buf, offset, length) & 0xFFFF
    struct.pack_into(">H", buf, offset + 2, checksum)
    return length
