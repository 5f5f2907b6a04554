"""Ethernet II frames (IEEE 802.3 clause 3.2.6, type interpretation): parse and emit."""

import struct

from micropython import const

HEADER = const(14)
MINIMUM = const(60)  # without the frame check sequence, which the card adds

TYPE_IPV4 = const(0x0800)
TYPE_ARP = const(0x0806)

BROADCAST = b"\xff\xff\xff\xff\xff\xff"


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


def address_text(address):
    """Write a hardware address as aa:bb:cc:dd:ee:ff."""
    return ":".join("%02x" % octet for octet in address)
