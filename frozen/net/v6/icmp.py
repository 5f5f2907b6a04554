"""ICMPv6 (RFC 4443): parse and emit messages."""

import struct

import _netbuf
from micropython import const
from net import ipv6
from net.v6 import extensions

HEADER = const(8)

UNREACHABLE = const(1)
TOO_BIG = const(2)
TIME_EXCEEDED = const(3)
PARAMETER_PROBLEM = const(4)
ECHO_REQUEST = const(128)
ECHO_REPLY = const(129)

PORT_UNREACHABLE = const(4)
REASSEMBLY = const(1)  # time exceeded
# Parameter problems (3.4).
BAD_FIELD = const(0)
UNKNOWN_HEADER = const(1)
UNKNOWN_OPTION = const(2)


def parse(buf, start, end, source, destination):
    """Return (type, code) of a message in buf[start:end], or None where it is malformed."""
    length = end - start
    if length < HEADER:
        return None
    pseudo = ipv6.pseudo_header_sum(ipv6.ICMP, source, destination) + length
    if _netbuf.checksum(buf, start, length, pseudo) != 0xFFFF:
        return None
    return buf[start], buf[start + 1]


def is_error(kind):
    """Return whether messages of a type report errors (2.1)."""
    return kind < 128


def parse_error(buf, start, end):
    """Return what an error message quotes of our packet, or None.

    (MTU of TOO_BIG, next header, source, destination, source port, destination port, the 32 bits
    that follow the ports).
    """
    mtu = struct.unpack_from(">I", buf, start + 4)[0]
    at = start + HEADER
    if end - at < ipv6.HEADER or buf[at] >> 4 != 6:
        return None
    source, destination = struct.unpack_from(">16s16s", buf, at + 8)
    protocol, at, _, code = extensions.skip(buf, at + ipv6.HEADER, end, buf[at + 6], at + 6)
    if code is None and protocol == ipv6.FRAGMENT and end - at >= ipv6.FRAGMENT_HEADER:
        # Ports stand in the first fragment alone.
        if struct.unpack_from(">H", buf, at + 2)[0] & 0xFFF8:
            return None
        protocol = buf[at]
        at += ipv6.FRAGMENT_HEADER
    if code is not None or end - at < 8:
        return None
    return (mtu, protocol, source, destination) + struct.unpack_from(">HHI", buf, at)


def finish(buf, offset, length, source, destination):
    """Write the checksum of a message whose field for it is zero."""
    pseudo = ipv6.pseudo_header_sum(ipv6.ICMP, source, destination) + length
    checksum = ~_netbuf.checksum(buf, offset, length, pseudo) & 0xFFFF
    struct.pack_into(">H", buf, offset + 2, checksum)


def emit(buf, offset, kind, code, rest, payload, source, destination):
    """Write a message and return its length.

    Args: rest: the header's second half, 32 bits; payload: bytes that follow the header.
    """
    length = HEADER + len(payload)
    struct.pack_into(">BBHI", buf, offset, kind, code, 0, rest)
    _netbuf.copy(buf, offset + HEADER, payload, 0, len(payload))
    finish(buf, offset, length, source, destination)
    return length
