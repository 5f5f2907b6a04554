"""The two address families behind one seam.

An IPv4 address is an integer, an IPv6 address is bytes of length 16, so an address says of which
family it is. The modules ipv4 and ipv6 are the families. Both have: HEADER, TTL, TCP_MSS,
LEAST_MTU, TCP, UDP, ICMP; emit(), emit_large(), pseudo_header_sum(); address_text(), is_host(),
is_multicast(); key(), which stands for a peer in a table of connections.
"""

from net import ipv4, ipv6


def of(address):
    """Return the family of an address."""
    return ipv6 if isinstance(address, bytes) else ipv4


def address(text):
    """Return the address of a text of either family; ValueError: it is none."""
    return ipv6.address(text) if ":" in text else ipv4.address(text)


def address_text(value):
    """Return the text of an address of either family."""
    return of(value).address_text(value)
