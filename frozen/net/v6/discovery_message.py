"""Neighbour discovery messages (RFC 4861 4): parse and emit. Sections are RFC 4861's."""

import struct

from micropython import const
from net import ipv6
from net.v6 import icmp

ROUTER_SOLICITATION = const(133)
ROUTER_ADVERTISEMENT = const(134)
SOLICITATION = const(135)
ADVERTISEMENT = const(136)
REDIRECT = const(137)

# 7.1 and others: what comes from another link has been forwarded.
HOPS = const(255)
INFINITE = const(0xFFFFFFFF)

# Flags of an advertisement (4.4).
ROUTER = const(0x80)
SOLICITED = const(0x40)
OVERRIDE = const(0x20)

_SOURCE_ADDRESS = const(1)  # 4.6
_TARGET_ADDRESS = const(2)
_PREFIX = const(3)
_MTU = const(5)
_RDNSS = const(25)  # RFC 8106 5.1
_MOST_OPTIONS = const(32)

_HEADER = const(24)  # of solicitation and advertisement
_RS_HEADER = const(8)
_RA_HEADER = const(16)
_ADDRESS_OPTION = const(8)


def _options(buf, at, end):
    """Return [(type, where, length)], or None where one is malformed (4.6)."""
    found = []
    while at < end:
        if end - at < 8 or len(found) >= _MOST_OPTIONS:
            return None
        length = buf[at + 1] * 8
        if not length or length > end - at:
            return None
        found.append((buf[at], at, length))
        at += length
    return found


def _hardware_address(buf, at, length):
    mac = bytes(buf[at + 2 : at + 8])
    # An address of a group would make us send to all.
    return mac if length == _ADDRESS_OPTION and not mac[0] & 1 and any(mac) else None


def parse_neighbour(buf, start, end):
    """Return (flags, target, hardware address or None) of a solicitation or an advertisement.

    None where it is malformed (7.1.1, 7.1.2).
    """
    if end - start < _HEADER:
        return None
    options = _options(buf, start + _HEADER, end)
    target = bytes(buf[start + 8 : start + _HEADER])
    if options is None or ipv6.is_multicast(target):
        return None
    wanted = _SOURCE_ADDRESS if buf[start] == SOLICITATION else _TARGET_ADDRESS
    mac = None
    for kind, at, length in options:
        if kind == wanted:
            mac = _hardware_address(buf, at, length)
    return buf[start + 4], target, mac


class RouterAdvertisement:
    """What a router says (4.2). Times are seconds unless the name says ms.

    lifetime: of the default router, 0: it is none; preference: 1 high, 0, -1 low (RFC 4191 2.2);
    managed, other: ask DHCPv6; reachable_ms, retransmit_ms: 0 for not said; mac, mtu: or None;
    prefixes: [(prefix, bits, on link, autonomous, valid, preferred)]; servers: [(address,
    lifetime)] of DNS.
    """

    def __init__(self, fields):
        flags, self.lifetime, self.reachable_ms, self.retransmit_ms = fields
        self.managed = bool(flags & 0x80)
        self.other = bool(flags & 0x40)
        self.preference = (0, 1, 0, -1)[flags >> 3 & 3]
        self.mac = None
        self.mtu = None
        self.prefixes = []
        self.servers = []


def parse_router_advertisement(buf, start, end):
    """Return the RouterAdvertisement in buf[start:end], or None where it is malformed (6.1.2)."""
    if end - start < _RA_HEADER:
        return None
    options = _options(buf, start + _RA_HEADER, end)
    if options is None:
        return None
    said = RouterAdvertisement(struct.unpack_from(">BHII", buf, start + 5))
    for kind, at, length in options:
        if kind == _SOURCE_ADDRESS:
            said.mac = _hardware_address(buf, at, length)
        elif kind == _MTU and length == 8:
            said.mtu = struct.unpack_from(">I", buf, at + 4)[0]
        elif kind == _PREFIX and length == 32:
            bits, flags, valid, preferred = struct.unpack_from(">BBII", buf, at + 2)
            prefix = bytes(buf[at + 16 : at + 32])
            # RFC 4862 5.5.3 (b), (c); RFC 4861 6.3.4: what no host's address begins with.
            if bits <= 128 and preferred <= valid and not ipv6.is_link_local(prefix):
                prefix = ipv6.mask(prefix, bits)
                if not ipv6.is_multicast(prefix):
                    said.prefixes.append(
                        (prefix, bits, bool(flags & 0x80), bool(flags & 0x40), valid, preferred)
                    )
        elif kind == _RDNSS and length >= 24:
            lifetime = struct.unpack_from(">I", buf, at + 4)[0]
            for server in range(at + 8, at + length - 15, 16):
                said.servers.append((bytes(buf[server : server + 16]), lifetime))
    return said


def _emit_mac(buf, offset, kind, mac):
    buf[offset] = kind
    buf[offset + 1] = 1
    buf[offset + 2 : offset + 8] = mac


def emit_solicitation(buf, offset, source, destination, target, mac):
    """Write a neighbour solicitation and return its length.

    Args: mac: ours, or None where the source is unspecified (4.3).
    """
    struct.pack_into(">BBHI16s", buf, offset, SOLICITATION, 0, 0, 0, target)
    length = _HEADER
    if mac is not None:
        _emit_mac(buf, offset + length, _SOURCE_ADDRESS, mac)
        length += _ADDRESS_OPTION
    icmp.finish(buf, offset, length, source, destination)
    return length


def emit_advertisement(buf, offset, source, destination, target, flags, mac):
    """Write a neighbour advertisement and return its length."""
    struct.pack_into(">BBHI16s", buf, offset, ADVERTISEMENT, 0, 0, flags << 24, target)
    _emit_mac(buf, offset + _HEADER, _TARGET_ADDRESS, mac)
    icmp.finish(buf, offset, _HEADER + _ADDRESS_OPTION, source, destination)
    return _HEADER + _ADDRESS_OPTION


def emit_router_solicitation(buf, offset, source, destination, mac):
    """Write a router solicitation and return its length; mac as for emit_solicitation()."""
    struct.pack_into(">BBHI", buf, offset, ROUTER_SOLICITATION, 0, 0, 0)
    length = _RS_HEADER
    if mac is not None:
        _emit_mac(buf, offset + length, _SOURCE_ADDRESS, mac)
        length += _ADDRESS_OPTION
    icmp.finish(buf, offset, length, source, destination)
    return length
