"""IPv4 headers (RFC 791) and address texts: parse and emit."""

import struct

import _netbuf
from micropython import const

HEADER = const(20)

ICMP = const(1)
TCP = const(6)
UDP = const(17)

BROADCAST = const(0xFFFFFFFF)
LOOPBACK = const(0x7F000001)

TTL = const(64)
# RFC 9293 3.7.1: what a peer that sends no MSS option can take.
TCP_MSS = const(536)
# RFC 791 3.2: no report of a smaller MTU is believed.
LEAST_MTU = const(576)
# RFC 791 3.2: the most that a packet's fragments carry.
MOST_PAYLOAD = const(65535 - 20)
_DONT_FRAGMENT = const(0x4000)
_MORE_FRAGMENTS = const(0x2000)


def parse(buf, offset):
    """Check a header and return (protocol, source, destination, start, end).

    `start` and `end` bound the payload in `buf`: what Ethernet padded is left out. None for a
    header that is malformed, has a wrong checksum (RFC 1122 3.2.1.2), or is of a fragment: see
    parse_fragment().
    """
    room = len(buf) - offset
    if room < HEADER:
        return None
    version, total, fragment, protocol, source, destination = struct.unpack_from(
        ">BxHxxHxBxxII", buf, offset
    )
    length = (version & 15) << 2
    if version >> 4 != 4 or length < HEADER or total < length or total > room:
        return None
    # More-fragments flag or a fragment offset.
    if fragment & 0x3FFF:
        return None
    if _netbuf.checksum(buf, offset, length) != 0xFFFF:
        return None
    return protocol, source, destination, offset + length, offset + total


def parse_fragment(buf, offset):
    """Check a fragment's header, for which parse() returned None.

    Returns (protocol, source, destination, identification, offset in the whole, whether more
    follow, data as bytes), or None for what is malformed or no fragment.
    """
    room = len(buf) - offset
    if room < HEADER:
        return None
    version, total, identification, fragment, protocol, source, destination = struct.unpack_from(
        ">BxHHHxBxxII", buf, offset
    )
    length = (version & 15) << 2
    if version >> 4 != 4 or length < HEADER or total < length or total > room:
        return None
    if not fragment & 0x3FFF or _netbuf.checksum(buf, offset, length) != 0xFFFF:
        return None
    return (
        protocol,
        source,
        destination,
        identification,
        (fragment & 0x1FFF) << 3,
        bool(fragment & _MORE_FRAGMENTS),
        bytes(buf[offset + length : offset + total]),
    )


def emit(
    buf,
    offset,
    protocol,
    source,
    destination,
    payload,
    identification=0,
    at=None,
    more=False,
    ttl=TTL,
):
    """Write a header of HEADER bytes for `payload` bytes behind it.

    The identification is zero, as RFC 6864 4.1 allows where DF is set and nothing fragments.
    Args: at: where a fragment's payload starts in the whole, None for no fragment; more: whether
    others follow.
    """
    fragment = _DONT_FRAGMENT
    if at is not None:
        fragment = at >> 3 | (_MORE_FRAGMENTS if more else 0)
    struct.pack_into(
        ">HHHHBBHII",
        buf,
        offset,
        0x4500,
        HEADER + payload,
        identification,
        fragment,
        ttl,
        protocol,
        0,
        source,
        destination,
    )
    checksum = ~_netbuf.checksum(buf, offset, HEADER) & 0xFFFF
    buf[offset + 10] = checksum >> 8
    buf[offset + 11] = checksum & 0xFF


def emit_large(buf, offset, protocol, source, destination):
    """Write the header of a packet that the link cuts up: its length and checksum stay zero."""
    struct.pack_into(
        ">HHHHBBHII",
        buf,
        offset,
        0x4500,
        0,
        0,
        _DONT_FRAGMENT,
        TTL,
        protocol,
        0,
        source,
        destination,
    )


def pseudo_header_sum(protocol, source, destination):
    """Sum the fixed part of the pseudo header (RFC 9293 3.1); add the length, then the bytes."""
    return (
        (source >> 16)
        + (source & 0xFFFF)
        + (destination >> 16)
        + (destination & 0xFFFF)
        + protocol
    )


def key(address, port):
    """Return what stands for a peer in a table of connections."""
    return address << 16 | port


def of_key(peer):
    """Return the (address, port) that key() was made of."""
    return peer >> 16, peer & 0xFFFF


def is_multicast(address):
    """Return whether an address is a group's (RFC 1112 4)."""
    return address >> 28 == 14


def address(text):
    """Return the integer of a dotted quad; ValueError for anything else."""
    parts = text.split(".")
    if len(parts) != 4:
        raise ValueError("not an IPv4 address: " + text)
    value = 0
    for part in parts:
        # isdigit() also holds for digits of other scripts, which int() takes as well.
        if not part.isdigit() or len(part) > 3 or int(part) > 255:
            raise ValueError("not an IPv4 address: " + text)
        value = value << 8 | int(part)
    return value


def address_text(value):
    """Write an address as a dotted quad."""
    return "%d.%d.%d.%d" % (value >> 24, value >> 16 & 255, value >> 8 & 255, value & 255)


def mask(bits):
    """Return the netmask of a prefix length, 0 to 32."""
    return 0xFFFFFFFF << (32 - bits) & 0xFFFFFFFF


def is_host(address):
    """Return whether an address can be that of one host on a wire (RFC 1122 3.2.1.3).

    Neither "this network" nor loopback, multicast, reserved or broadcast.
    """
    return 0 < address >> 24 < 224 and address >> 24 != 127


def subnet_ends(address, netmask):
    """Return the first and the last address of a subnet, which no host has (RFC 1122 3.2.1.3).

    0 and BROADCAST where a subnet is too small to spare them (RFC 3021 2.1), or has no netmask.
    """
    rest = ~netmask & 0xFFFFFFFF
    if rest < 2 or not netmask:
        return 0, BROADCAST
    return address & netmask, address | rest


def prefix_length(netmask):
    """Return the prefix length of a netmask; ValueError where its ones are not contiguous."""
    for bits in range(33):
        if mask(bits) == netmask:
            return bits
    raise ValueError("not a netmask: " + address_text(netmask))
