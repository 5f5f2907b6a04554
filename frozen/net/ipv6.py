"""IPv6 headers (RFC 8200) and addresses (RFC 4291, RFC 5952): parse and emit.

Addresses are bytes of length 16. The functions that ipv4 has too mean the same here, see
net.family.
"""

import struct

import _netbuf
from micropython import const
from net import ipv4

HEADER = const(40)

# Next headers.
HOP_BY_HOP = const(0)
TCP = const(6)
UDP = const(17)
ROUTING = const(43)
FRAGMENT = const(44)
ICMP = const(58)
NOTHING = const(59)
OPTIONS = const(60)

TTL = const(64)
# RFC 9293 3.7.1: what a peer that sends no MSS option can take.
TCP_MSS = const(1220)
# RFC 8200 5: what every link takes, and so the least MTU of a path (RFC 8201 4).
LEAST_MTU = const(1280)
# 4.5: the most that a packet's fragments carry.
MOST_PAYLOAD = const(65535)

ANY = b"\0" * 16
LOOPBACK = b"\0" * 15 + b"\1"
ALL_NODES = b"\xff\2" + b"\0" * 13 + b"\1"
ALL_ROUTERS = b"\xff\2" + b"\0" * 13 + b"\2"
MAPPED = b"\0" * 10 + b"\xff\xff"  # ::ffff:0:0/96, RFC 4291 2.5.5.2
_SOLICITED_NODE = b"\xff\2" + b"\0" * 9 + b"\1\xff"

FRAGMENT_HEADER = const(8)


def parse(buf, offset):
    """Check a header and return (next header, source, destination, start, end, hop limit), or None.

    `start` and `end` bound the payload in `buf`.
    """
    if len(buf) - offset < HEADER:
        return None
    version, length, following, hops, source, destination = struct.unpack_from(
        ">BxxxHBB16s16s", buf, offset
    )
    start = offset + HEADER
    if version >> 4 != 6 or start + length > len(buf):
        return None
    return following, source, destination, start, start + length, hops


def emit(buf, offset, protocol, source, destination, payload, ttl=TTL):
    """Write a header of HEADER bytes for `payload` bytes behind it."""
    struct.pack_into(
        ">IHBB16s16s", buf, offset, 0x60000000, payload, protocol, ttl, source, destination
    )


def emit_large(buf, offset, protocol, source, destination):
    """Write the header of a packet that the link cuts up: its length stays zero."""
    emit(buf, offset, protocol, source, destination, 0)


def emit_fragment_header(buf, offset, protocol, at, more, identification):
    """Write a fragment header of FRAGMENT_HEADER bytes (RFC 8200 4.5).

    Args: at: where the fragment starts in the whole, a multiple of eight; more: others follow.
    """
    struct.pack_into(">BBHI", buf, offset, protocol, 0, at | (1 if more else 0), identification)


def pseudo_header_sum(protocol, source, destination):
    """Sum the fixed part of the pseudo header (8.1); add the length, then the bytes."""
    return _netbuf.checksum(source + destination, 0, 32, protocol)


def key(address, port):
    """Return what stands for a peer in a table of connections, as _netbuf.segment() does."""
    return address + struct.pack(">H", port)


def of_key(peer):
    """Return the (address, port) that key() was made of."""
    return peer[:16], peer[16] << 8 | peer[17]


def is_multicast(address):
    """Return whether an address is a group's."""
    return address[0] == 0xFF


def is_link_local(address):
    """Return whether an address is of fe80::/10, or a group of this link (RFC 4291 2.5.6, 2.7)."""
    first = address[0]
    if first == 0xFF:
        return address[1] & 15 in (1, 2)
    return first == 0xFE and address[1] & 0xC0 == 0x80


def is_host(address):
    """Return whether an address can be that of one host on a wire.

    Neither a group's nor one that begins with 16 zeros: the unspecified, the loopback, and those
    that embed IPv4's.
    """
    return address[0] != 0xFF and address[:2] != b"\0\0"


def solicited_node(address):
    """Return the group in which neighbours look for an address (RFC 4291 2.7.1)."""
    return _SOLICITED_NODE + address[13:]


def hardware_group(group):
    """Return the hardware address of a group (RFC 2464 7)."""
    return b"\x33\x33" + group[12:]


def mask(address, bits):
    """Return an address with all but its first `bits` bits zero."""
    whole = bits >> 3
    masked = address[:whole]
    if bits & 7:
        masked += bytes((address[whole] & 0xFF00 >> (bits & 7) & 0xFF,))
    return masked + bytes(16 - len(masked))


def common_prefix(one, other):
    """Return how many leading bits of two addresses are the same (RFC 6724 2.2)."""
    for at in range(16):
        differ = one[at] ^ other[at]
        if differ:
            bits = at * 8
            while not differ & 0x80:
                differ <<= 1
                bits += 1
            return bits
    return 128


def mapped(address):
    """Return the IPv6 address that stands for an IPv4 one (RFC 4291 2.5.5.2)."""
    return MAPPED + struct.pack(">I", address)


def address(text):
    """Return the bytes of an address (RFC 4291 2.2), with its zone. ValueError: not an address.

    A link-local one may name its zone (RFC 4007 11): "%0", there is one interface.
    """
    text, percent, zone = text.partition("%")
    head, gap, tail = text.partition("::")
    front = _groups(head, text, not gap)
    back = _groups(tail, text, True)
    zeros = 16 - len(front) - len(back)
    if zeros < 2 if gap else zeros:
        raise ValueError("not an IPv6 address: " + text)
    value = front + bytes(zeros) + back
    if percent and not (zone == "0" and is_link_local(value)):
        raise ValueError("no such zone: " + zone)
    return value


def _groups(part, text, last):
    value = b""
    if not part:
        return value
    groups = part.split(":")
    for number, group in enumerate(groups):
        if last and "." in group and number == len(groups) - 1:
            value += struct.pack(">I", ipv4.address(group))
            continue
        if not 0 < len(group) <= 4:
            raise ValueError("not an IPv6 address: " + text)
        for digit in group:
            if digit not in "0123456789abcdefABCDEF":
                raise ValueError("not an IPv6 address: " + text)
        value += struct.pack(">H", int(group, 16))
    return value


def address_text(value):
    """Write an address as RFC 5952 4 wants it."""
    if value[:12] == MAPPED:
        # 5: mixed notation where the prefix says what it is.
        return "::ffff:" + ipv4.address_text(struct.unpack_from(">I", value, 12)[0])
    groups = struct.unpack(">8H", value)
    # 4.2.2, 4.2.3: the longest run of at least two zeros, the first of several.
    best, length = 0, 1
    for start in range(8):
        end = start
        while end < 8 and not groups[end]:
            end += 1
        if end - start > length:
            best, length = start, end - start
    if length < 2:
        return ":".join(["%x" % group for group in groups])
    head = ":".join(["%x" % group for group in groups[:best]])
    tail = ":".join(["%x" % group for group in groups[best + length :]])
    return head + "::" + tail


def interface(text):
    """Return (address, prefix length) of "address/bits"; ValueError for anything else."""
    text, _, bits = text.partition("/")
    if not bits.isdigit() or not 0 < int(bits) <= 128:
        raise ValueError("not address/bits: " + text)
    return address(text), int(bits)
