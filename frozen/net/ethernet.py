"""Ethernet II frames (IEEE 802.3 clause 3.2.6, type interpretation): parse and emit."""

import struct

from micropython import const

HEADER = const(14)

TYPE_IPV4 = const(0x0800)
TYPE_ARP = const(0x0806)
TYPE_IPV6 = const(0x86DD)
# IEEE 802.1Q 9.6: a tag is one of these types and 16 bits, of which 12 name a VLAN.
TYPE_CUSTOMER_TAG = const(0x8100)
TYPE_SERVICE_TAG = const(0x88A8)
_TAG = const(4)
_VLAN = const(0x0FFF)
# A provider's tag before a customer's; no network uses more.
_MAX_TAGS = const(2)

BROADCAST = b"\xff\xff\xff\xff\xff\xff"


def multicast(group):
    """Return the hardware address of an IPv4 group (RFC 1112 6.4)."""
    return struct.pack(">BBBBH", 1, 0, 0x5E, group >> 16 & 0x7F, group & 0xFFFF)


def emit(buf, destination, source, ethertype):
    """Write a header at the start of `buf`; addresses are bytes of length 6."""
    buf[0:6] = destination
    buf[6:12] = source
    buf[12] = ethertype >> 8
    buf[13] = ethertype & 0xFF


def parse(frame):
    """Return (destination, source, ethertype), or None for a frame too short to have them."""
    if len(frame) < HEADER:
        return None
    return struct.unpack_from(">6s6sH", frame, 0)


def untag(frame):
    """Return a frame without its priority tags, or None if it belongs to a VLAN or is cut short.

    IEEE 802.1Q 6.9: a tag with VLAN 0 carries a priority only.
    """
    at = 12
    for _ in range(_MAX_TAGS):
        if len(frame) - at < _TAG + 2:
            return None
        kind, tag = struct.unpack_from(">HH", frame, at)
        if kind not in (TYPE_CUSTOMER_TAG, TYPE_SERVICE_TAG):
            break
        if tag & _VLAN:
            return None
        at += _TAG
    return memoryview(bytes(frame[:12]) + bytes(frame[at:]))


def address_text(address):
    """Write a hardware address as aa:bb:cc:dd:ee:ff."""
    return ":".join("%02x" % octet for octet in address)
