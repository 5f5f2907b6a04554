"""IGMP messages (RFC 3376 4, RFC 2236 2): parse queries, send reports.

Has what net.groups.Groups wants of a protocol, as net.v6.mld does.
"""

import struct

import _netbuf
from micropython import const
from net import ethernet

PROTOCOL = const(2)
NEWEST = const(3)  # version
ALL_SYSTEMS = const(0xE0000001)  # 224.0.0.1
ALL_ROUTERS = const(0xE0000002)
ALL_V3_ROUTERS = const(0xE0000016)

QUERY = const(0x11)
REPORT_V1 = const(0x12)
REPORT_V2 = const(0x16)
LEAVE_V2 = const(0x17)
_REPORT_V3 = const(0x22)

# Group record types (RFC 3376 4.2.12).
IS_EXCLUDE = const(2)
TO_INCLUDE = const(3)
TO_EXCLUDE = const(4)

_IP = const(14)  # where the IP header starts in a frame
_HEADER = const(24)
_LENGTH = const(8)  # of messages of version 1 and 2, and of queries up to their sources
_LENGTH_V3 = const(12)
# Precedence "internetwork control", TTL 1, and the option Router Alert (RFC 3376 4, RFC 2113).
_TOS = const(0xC0)
_ROUTER_ALERT = const(0x94040000)


def is_group(address):
    """Return whether an address is a group to join."""
    return isinstance(address, int) and address >> 28 == 14


def hardware_groups(joined):
    """Return the hardware addresses that a link has to take in."""
    return [ethernet.multicast(group) for group in {ALL_SYSTEMS} | joined] if joined else []


def is_ready(stack):
    """Return whether reports can leave."""
    return bool(stack.address)


def report(stack, version, records):
    """Send [(type, group)]; return whether the link took all of it."""
    if version == NEWEST:
        frame = stack.begin(ALL_V3_ROUTERS)
        if frame is None:
            return False
        stack.commit(emit_report(frame, stack.address, records))
        return True
    for kind, group in records:
        destination, message = group, REPORT_V2 if version == 2 else REPORT_V1
        if kind == TO_INCLUDE:
            if version == 1:
                continue  # RFC 1112 has no message for this
            destination, message = ALL_ROUTERS, LEAVE_V2
        frame = stack.begin(destination)
        if frame is None:
            return False
        stack.commit(emit(frame, stack.address, destination, message, group))
    return True


def parse_query(buf, start, end):
    """Return (version, longest delay of an answer in ms, group) of a query, or None.

    The group is 0 for a query for all groups.
    """
    length = end - start
    if length < _LENGTH or buf[start] != QUERY or _netbuf.checksum(buf, start, length) != 0xFFFF:
        return None
    code, group = struct.unpack_from(">BxxI", buf, start + 1)
    # RFC 3376 7.1: the version by length and code.
    if length >= _LENGTH_V3:
        if code >= 128:  # 4.1.1: a mantissa and an exponent
            code = (code & 15 | 16) << (code >> 4 & 7) + 3
        return 3, code * 100, group
    if length != _LENGTH:
        return None
    return (2, code * 100, group) if code else (1, 10_000, group)


def emit(frame, source, destination, kind, group):
    """Write a packet with a message of version 1 or 2; return its length with the frame's head."""
    struct.pack_into(">BBHI", frame, _IP + _HEADER, kind, 0, 0, group)
    return _finish(frame, source, destination, _LENGTH)


def emit_report(frame, source, records):
    """Write a packet with a report of version 3; return its length with the frame's head.

    Args: records: [(type, group)].
    """
    at = _IP + _HEADER
    struct.pack_into(">BBHHH", frame, at, _REPORT_V3, 0, 0, 0, len(records))
    for number, (kind, group) in enumerate(records):
        struct.pack_into(">BBHI", frame, at + 8 + 8 * number, kind, 0, 0, group)
    return _finish(frame, source, ALL_V3_ROUTERS, 8 + 8 * len(records))


def _finish(frame, source, destination, length):
    struct.pack_into(
        ">BBHHHBBHIII",
        frame,
        _IP,
        0x40 | _HEADER >> 2,
        _TOS,
        _HEADER + length,
        0,
        0,
        1,
        PROTOCOL,
        0,
        source,
        destination,
        _ROUTER_ALERT,
    )
    for start, size, field in ((_IP, _HEADER, 10), (_IP + _HEADER, length, 2)):
        checksum = ~_netbuf.checksum(frame, start, size) & 0xFFFF
        struct.pack_into(">H", frame, start + field, checksum)
    return _IP + _HEADER + length
