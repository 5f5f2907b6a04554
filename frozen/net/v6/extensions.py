"""IPv6's extension headers (RFC 8200 4), within the bounds that RFC 8504 5.3 allows a host."""

from micropython import const
from net import ipv6

# Codes of parameter problems (RFC 4443 3.4), and DISCARD: no error is sent.
_BAD_FIELD = const(0)
_UNKNOWN_HEADER = const(1)
_UNKNOWN_OPTION = const(2)
DISCARD = const(-1)
# As _UNKNOWN_OPTION, but not for a packet to a group (4.2, action 11).
UNKNOWN_OPTION_ALONE = const(-2)

_MOST_HEADERS = const(8)
_MOST_OPTIONS = const(16)
_PAD_1 = const(0)


def skip(buf, start, end, protocol, pointer):
    """Pass over extension headers from buf[start] on.

    Args: protocol: the next header's, named at buf[pointer], which lies in the IPv6 header.
    Returns (protocol, start, pointer, code): of the first header that is none to skip (a fragment
    header is such a one), or, unless code is None, what the error points to.
    """
    first = pointer
    for _ in range(_MOST_HEADERS):
        if protocol == ipv6.HOP_BY_HOP:
            # 4.1: right behind the IPv6 header only.
            if pointer != first:
                return protocol, start, pointer, _UNKNOWN_HEADER
        elif protocol not in (ipv6.ROUTING, ipv6.OPTIONS):
            return protocol, start, pointer, None
        if end - start < 8 or (buf[start + 1] + 1) * 8 > end - start:
            return protocol, start, pointer, DISCARD
        after = start + (buf[start + 1] + 1) * 8
        if protocol == ipv6.ROUTING:
            # 4.4: no type of them is known here.
            if buf[start + 3]:
                return protocol, start, start + 2, _BAD_FIELD
        else:
            at, code = _options(buf, start + 2, after)
            if code is not None:
                return protocol, start, at, code
        pointer = start
        protocol = buf[start]
        start = after
    return protocol, start, pointer, DISCARD


def upper(buf, start, end, protocol):
    """Return (protocol, start) behind all extension headers, whatever they say."""
    for _ in range(_MOST_HEADERS):
        if protocol not in (ipv6.HOP_BY_HOP, ipv6.ROUTING, ipv6.FRAGMENT, ipv6.OPTIONS):
            break
        if end - start < 8:
            break
        length = 0 if protocol == ipv6.FRAGMENT else buf[start + 1]
        protocol = buf[start]
        start += (length + 1) * 8
    return protocol, start


def _options(buf, at, end):
    """Return (where, code) of an option that the packet must not be taken with, or None for it."""
    for _ in range(_MOST_OPTIONS):
        # RFC 8504 5.3: any number of these would cost time and say nothing.
        while at < end and buf[at] == _PAD_1:
            at += 1
        if at == end:
            return at, None
        if end - at < 2 or buf[at + 1] > end - at - 2:
            return at, DISCARD
        action = buf[at] >> 6
        if action == 1:
            return at, DISCARD
        if action == 2:
            return at, _UNKNOWN_OPTION
        if action == 3:
            return at, UNKNOWN_OPTION_ALONE
        at += 2 + buf[at + 1]
    return at, None if at == end else DISCARD
