"""Multicast listener discovery (RFC 3810, RFC 2710): parse queries, send reports.

Has what net.groups.Groups wants of a protocol, as net.igmp does.
"""

import struct

from micropython import const
from net import ipv6
from net.v6 import icmp

NEWEST = const(2)
QUERY = const(130)
_REPORT_V1 = const(131)
_DONE_V1 = const(132)
_REPORT_V2 = const(143)
MESSAGES = (QUERY, _REPORT_V1, _DONE_V1, _REPORT_V2)

# Record types (RFC 3810 5.2.12).
IS_EXCLUDE = const(2)
TO_INCLUDE = const(3)
TO_EXCLUDE = const(4)

_ALL_V2_ROUTERS = b"\xff\2" + bytes(13) + b"\x16"
_IP = const(14)  # where the IP header starts in a frame
# 5: a hop limit of 1, and the option Router Alert (RFC 2711) in a hop-by-hop header.
_HOP_BY_HOP = b"\x3a\0\5\2\0\0\1\0"
_MESSAGE = const(62)
_LENGTH_V1 = const(24)
_LENGTH_V2 = const(28)


def is_group(address):
    """Return whether an address is a group to join."""
    return isinstance(address, bytes) and ipv6.is_multicast(address)


def hardware_groups(joined):
    """Return the hardware addresses that a link has to take in."""
    return [ipv6.hardware_group(group) for group in {ipv6.ALL_NODES} | joined]


def is_ready(stack):
    """Return whether reports can leave: before there is an address too (RFC 3590 4)."""
    return stack.six.is_active()


def parse_query(buf, start, end):
    """Return (version, longest delay of an answer in ms, group or None for all), or None."""
    length = end - start
    if length < _LENGTH_V1 or buf[start] != QUERY or buf[start + 1]:
        return None
    delay, group = struct.unpack_from(">H2x16s", buf, start + 4)
    if group == ipv6.ANY:
        group = None
    elif not ipv6.is_multicast(group):
        return None
    if length == _LENGTH_V1:
        return 1, delay, group
    if length < _LENGTH_V2:
        return None
    if delay >= 32768:  # 5.1.3: a mantissa and an exponent
        delay = (delay & 0xFFF | 0x1000) << (delay >> 12 & 7) + 3
    return 2, delay, group


def report(stack, version, records):
    """Send [(type, group)]; return whether the link took all of it."""
    # 5.2.13: a link-local source, or, before there is one, the unspecified.
    source = stack.six.link_local or ipv6.ANY
    # 6: groups of this host alone, and the one that all are in, are not reported.
    records = [
        (kind, group) for kind, group in records if group[1] & 15 > 1 and group != ipv6.ALL_NODES
    ]
    if not records:
        return True
    if version == 2:
        message = struct.pack(">BBHHH", _REPORT_V2, 0, 0, 0, len(records))
        for kind, group in records:
            message += struct.pack(">BBH16s", kind, 0, 0, group)
        return _send(stack, source, _ALL_V2_ROUTERS, message)
    for kind, group in records:
        leaves = kind == TO_INCLUDE
        message = struct.pack(">BBHI16s", _DONE_V1 if leaves else _REPORT_V1, 0, 0, 0, group)
        if not _send(stack, source, ipv6.ALL_ROUTERS if leaves else group, message):
            return False
    return True


def _send(stack, source, destination, message):
    frame = stack.begin(destination)
    if frame is None:
        return False
    length = len(message)
    frame[_IP + ipv6.HEADER : _MESSAGE] = _HOP_BY_HOP
    frame[_MESSAGE : _MESSAGE + length] = message
    icmp.finish(frame, _MESSAGE, length, source, destination)
    ipv6.emit(frame, _IP, ipv6.HOP_BY_HOP, source, destination, len(_HOP_BY_HOP) + length, 1)
    stack.commit(_MESSAGE + length)
    return True
