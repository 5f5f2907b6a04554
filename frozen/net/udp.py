"""UDP (RFC 768): parse and emit."""

import struct

import _netbuf
from micropython import const
from net import ipv4

HEADER = const(8)


def parse(buf, start, end, source, destination):
    """Return (source_port, destination_port, start, end) of the payload, or None."""
    if end - start < HEADER:
        return None
    source_port, port, length, checksum = struct.unpack_from(">HHHH", buf, start)
    if length < HEADER or length > end - start:
        return None
    # A checksum of zero means that the sender made none.
    if checksum:
        pseudo = ipv4.pseudo_header_sum(ipv4.UDP, source, destination) + length
        if _netbuf.checksum(buf, start, length, pseudo) != 0xFFFF:
            return None
    return source_port, port, start + HEADER, start + length


def emit(buf, offset, source, source_port, destination, port, length):
    """Write the header of a datagram whose `length` payload bytes already stand behind it."""
    total = HEADER + length
    struct.pack_into(">HHHH", buf, offset, source_port, port, total, 0)
    pseudo = ipv4.pseudo_header_sum(ipv4.UDP, source, destination) + total
    # A computed zero is sent as all ones; a sum that is not zero is never 0xffff inverted twice.
    checksum = (~_netbuf.checksum(buf, offset, total, pseudo) & 0xFFFF) or 0xFFFF
    struct.pack_into(">H", buf, offset + 6, checksum)
    return total
