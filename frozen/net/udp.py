"""UDP (RFC 768): parse and emit."""

import struct

import _netbuf
from micropython import const
from net import family, ipv4

HEADER = const(8)


def parse(buf, start, end, source, destination):
    """Return (source_port, destination_port, start, end) of the payload, or None."""
    if end - start < HEADER:
        return None
    source_port, port, length, checksum = struct.unpack_from(">HHHH", buf, start)
    if length < HEADER or length > end - start:
        return None
    ip = family.of(source)
    # A checksum of zero means that the sender made none; over IPv6 it has to (RFC 8200 8.1).
    if checksum or ip is not ipv4:
        pseudo = ip.pseudo_header_sum(ip.UDP, source, destination) + length
        if not checksum or _netbuf.checksum(buf, start, length, pseudo) != 0xFFFF:
            return None
    return source_port, port, start + HEADER, start + length


def emit(buf, offset, source, source_port, destination, port, length):
    """Write the header of a datagram whose `length` payload bytes already stand behind it."""
    total = HEADER + length
    struct.pack_into(">HHHH", buf, offset, source_port, port, total, 0)
    ip = family.of(source)
    pseudo = ip.pseudo_header_sum(ip.UDP, source, destination) + total
    # A computed zero is sent as all ones; a sum that is not zero is never 0xffff inverted twice.
    checksum = (~_netbuf.checksum(buf, offset, total, pseudo) & 0xFFFF) or 0xFFFF
    struct.pack_into(">H", buf, offset + 6, checksum)
    return total
