"""Which address to talk from, and which of a host's to try first (RFC 6724; sections are its)."""

from micropython import const
from net import ipv6

# 2.1: (prefix, bits, precedence, label).
_POLICIES = (
    (ipv6.LOOPBACK, 128, 50, 0),
    (ipv6.MAPPED + bytes(4), 96, 35, 4),
    (ipv6.ANY, 96, 1, 3),
    (b"\x20\2" + bytes(14), 16, 30, 2),
    (b"\x20\1" + bytes(14), 32, 5, 5),
    (b"\x3f\xfe" + bytes(14), 16, 1, 12),
    (b"\xfe\xc0" + bytes(14), 10, 1, 11),
    (b"\xfc" + bytes(15), 7, 3, 13),
    (ipv6.ANY, 0, 40, 1),
)

_LINK = const(2)
_SITE = const(5)
_GLOBAL = const(14)


def scope(address):
    """Return the scope of an IPv6 address, or of an IPv4 one that is mapped (3.1, 3.2)."""
    if address[0] == 0xFF:
        return address[1] & 15
    if address[:12] == ipv6.MAPPED:
        return _LINK if address[12] == 127 or address[12:14] == b"\xa9\xfe" else _GLOBAL
    if address == ipv6.LOOPBACK or ipv6.is_link_local(address):
        return _LINK
    if address[0] == 0xFE and address[1] & 0xC0 == 0xC0:
        return _SITE
    return _GLOBAL


def policy(address):
    """Return (precedence, label)."""
    for prefix, bits, precedence, label in _POLICIES:
        if ipv6.common_prefix(prefix, address) >= bits:
            return precedence, label
    return 0, 0


def source(candidates, destination):
    """Return the best source of [(address, whether it is deprecated)], or None (5)."""
    wanted = scope(destination)
    label = policy(destination)[1]
    best = found = None
    for address, deprecated in candidates:
        own = scope(address)
        rank = (
            address == destination,  # rule 1
            own >= wanted,  # rule 2: the least that reaches, else the widest
            -own if own >= wanted else own,
            not deprecated,  # rule 3
            policy(address)[1] == label,  # rule 6
            ipv6.common_prefix(address, destination),  # rule 8
        )
        if best is None or rank > best:
            best, found = rank, address
    return found


def order(destinations, source_of, deprecated):
    """Return destinations, IPv4's mapped, sorted: the best is first (6).

    Args: source_of: function that returns the source for one, None where it cannot be reached;
    deprecated: function that returns whether a source is deprecated.
    """
    ranked = []
    for number, destination in enumerate(destinations):
        own = source_of(destination)
        precedence, label = policy(destination)
        wide = scope(destination)
        ranked.append(
            (
                own is None,  # rule 1
                own is None or scope(own) != wide,  # rule 2
                own is not None and deprecated(own),  # rule 3
                own is None or policy(own)[1] != label,  # rule 5
                -precedence,  # rule 6
                wide,  # rule 8
                # Rule 9, for IPv6 alone.
                0 if own is None or label == 4 else -ipv6.common_prefix(own, destination),
                number,  # rule 10
            )
        )
    return [destinations[rank[-1]] for rank in sorted(ranked)]
