"""SYN cookies: handshakes without memory while a listener has too many half open
(RFC 4987 3.6).

The initial sequence number of the SYN with our ACK is the cookie:
    5 bits of a clock of 64 s, 3 bits for the MSS, 24 bits of a keyed hash over both and the peer.
What else the SYN asked for goes into the low 5 bits of our timestamp, which the peer echoes:
window scale (15: none) and SACK. A peer without timestamps gets neither, as the RFC says.
"""

import hashlib
import struct

from micropython import const
from net.tcp.sequence import MASK
from net.tcp.wire import MAX_SHIFT

_PERIOD = const(65536)  # ms
# Cookies older than this many periods are no longer taken; the handshake's own limit is near.
_LIFETIME = const(2)
# The MSS that a cookie can say: the largest that is not above the peer's counts.
_SIZES = (64, 536, 1024, 1220, 1360, 1400, 1440, 1460)
_NO_SHIFT = const(15)
_OPTION_BITS = const(31)


def identity(addresses):
    """Return the bytes that stand for (local, port, remote, remote_port)."""
    return struct.pack(">IHIH" if isinstance(addresses[0], int) else ">16sH16sH", *addresses)


def _hash(secret, seed, addresses, seq):
    whole = secret + bytes((seed,)) + identity(addresses) + struct.pack(">I", seq & MASK)
    return struct.unpack_from(">I", hashlib.sha256(whole).digest(), 0)[0] & 0xFFFFFF


def make(secret, addresses, seq, mss, now):
    """Return the cookie for a SYN.

    Args: addresses: (local, port, remote, remote_port), of one family; seq, mss: the SYN's.
    """
    index = len(_SIZES) - 1
    while index and _SIZES[index] > mss:
        index -= 1
    seed = (now // _PERIOD & 31) << 3 | index
    return seed << 24 | _hash(secret, seed, addresses, seq)


def check(secret, addresses, seq, cookie, now):
    """Return the MSS of the SYN number `seq` that got `cookie`, or None: it got no such one."""
    seed = cookie >> 24
    if ((now // _PERIOD) - (seed >> 3) & 31) >= _LIFETIME:
        return None
    if _hash(secret, seed, addresses, seq) != cookie & 0xFFFFFF:
        return None
    return _SIZES[seed & 7]


def timestamp(clock, shift, sack):
    """Return our timestamp at `clock` with a SYN's options in its low bits, never later."""
    bits = (_NO_SHIFT if shift is None else shift) << 1 | (1 if sack else 0)
    return ((clock & ~_OPTION_BITS) | bits) & MASK


def options(mss, stamps):
    """Return what tcp.parse_syn_options() gave for the SYN.

    Args: mss: from check(); stamps: (TSval, TSecr) of the ACK, or None.
    """
    if stamps is None:
        return mss, None, False, None
    bits = stamps[1] & _OPTION_BITS
    shift = bits >> 1
    scale = None if shift == _NO_SHIFT else min(shift, MAX_SHIFT)
    return mss, scale, bool(bits & 1), stamps[0]
