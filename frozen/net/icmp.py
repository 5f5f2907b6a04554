"""ICMP (RFC 792): parse and emit the messages that this stack understands."""

import struct

import _netbuf
from micropython import const

HEADER = const(8)

ECHO_REPLY = const(0)
UNREACHABLE = const(3)
ECHO_REQUEST = const(8)
TIME_EXCEEDED = const(11)

PROTOCOL_UNREACHABLE = const(2)
PORT_UNREACHABLE = const(3)
FRAGMENTATION_NEEDED = const(4)


def parse(buf, start, end):
    """Return (type, code) of a message in buf[start:end], or None where it is malformed."""
    if end - start < HEADER or _netbuf.checksum(buf, start, end - start) != 0xFFFF:
        return None
    return buf[start], buf[start + 1]


def parse_error(buf, start, end):
    """Return what an error message (UNREACHABLE, TIME_EXCEEDED) quotes of our packet, or None.

    (next hop's MTU or 0, protocol, source, destination, source port, destination port, the 32 bits
    that follow the ports: a TCP segment's number). RFC 1122 3.2.2: eight bytes behind the header
    are quoted at least.
    """
    mtu = buf[start + 6] << 8 | buf[start + 7]  # RFC 1191 4
    at = start + HEADER
    if end - at < 28:
        return None
    version, fragment, protocol, source, destination = struct.unpack_from(">B5xHxBxxII", buf, at)
    header = (version & 15) << 2
    if version >> 4 != 4 or header < 20 or fragment & 0x1FFF or end - at < header + 8:
        return None
    return (mtu, protocol, source, destination) + struct.unpack_from(">HHI", buf, at + header)


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
