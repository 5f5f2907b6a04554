"""ARP for IPv4 over Ethernet (RFC 826): parse and emit."""

import struct

from micropython import const

LENGTH = const(28)

REQUEST = const(1)
REPLY = const(2)

_FORMAT = ">HHBBH6sI6sI"


def parse(buf, offset):
    """Return (operation, sender_mac, sender_ip, target_mac, target_ip), or None.

    None stands for anything but Ethernet and IPv4 addresses (RFC 826, "Packet Reception").
    """
    if len(buf) - offset < LENGTH:
        return None
    fields = struct.unpack_from(_FORMAT, buf, offset)
    if fields[:4] != (1, 0x0800, 6, 4) or fields[4] not in (REQUEST, REPLY):
        return None
    return fields[4:]


def emit(buf, offset, operation, sender_mac, sender_ip, target_mac, target_ip):
    """Write a packet of LENGTH bytes."""
    struct.pack_into(
        _FORMAT,
        buf,
        offset,
        1,
        0x0800,
        6,
        4,
        operation,
        sender_mac,
        sender_ip,
        target_mac,
        target_ip,
    )
