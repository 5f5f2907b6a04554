"""TCP segments on the wire (RFC 9293 3.1 and 3.2): parse and emit, no state."""

import struct

import _netbuf
from micropython import const

HEADER = const(20)

FIN = const(0x01)
SYN = const(0x02)
RST = const(0x04)
PSH = const(0x08)
ACK = const(0x10)

# RFC 9293 3.7.1: what a peer that sends no option can take.
DEFAULT_MSS = const(536)
# RFC 7323 2.3: a larger shift count is used as this one.
MAX_SHIFT = const(14)

_OPTION_END = const(0)
_OPTION_NOP = const(1)
_OPTION_MSS = const(2)
_OPTION_WINDOW_SCALE = const(3)


def parse(buf, start, end, pseudo):
    """Check a segment in buf[start:end].

    Args: pseudo: ipv4.pseudo_header_sum() of its addresses.
    Returns (source_port, port, seq, ack, flags, window, payload_start), or None where the
    segment is malformed or its checksum wrong.
    """
    length = end - start
    if length < HEADER or _netbuf.checksum(buf, start, length, pseudo + length) != 0xFFFF:
        return None
    source_port, port, seq, ack, offset, flags, window = struct.unpack_from(
        ">HHIIBBH", buf, start
    )
    offset = offset >> 4 << 2
    if offset < HEADER or offset > length:
        return None
    return source_port, port, seq, ack, flags, window, start + offset


def parse_options(buf, start, end):
    """Return (mss, shift) of a SYN's options in buf[start:end].

    `shift` is None where the peer does not scale windows. Options that are unknown, cut short or
    wrong are passed over (RFC 9293 3.2: options must be handled without a crash).
    """
    mss, shift = DEFAULT_MSS, None
    at = start
    while at < end:
        kind = buf[at]
        if kind == _OPTION_END:
            break
        if kind == _OPTION_NOP:
            at += 1
            continue
        if at + 1 >= end:
            break
        length = buf[at + 1]
        if length < 2 or at + length > end:
            break
        if kind == _OPTION_MSS and length == 4:
            mss = buf[at + 2] << 8 | buf[at + 3]
        elif kind == _OPTION_WINDOW_SCALE and length == 3:
            shift = min(buf[at + 2], MAX_SHIFT)
        at += length
    return mss, shift


def emit_options(mss, shift):
    """Return a SYN's options as bytes, a multiple of four. `shift` None: no window scaling."""
    options = struct.pack(">BBH", _OPTION_MSS, 4, mss)
    if shift is not None:
        options += struct.pack(">BBBB", _OPTION_NOP, _OPTION_WINDOW_SCALE, 3, shift)
    return options


def emit(buf, offset, source_port, port, seq, ack, flags, window, header, length, pseudo):
    """Write the fixed header and the checksum.

    Args: seq, ack: any integers, taken modulo 2^32; header: its length with the options;
    length: payload bytes. Options and payload already stand in `buf`. pseudo: as for parse().
    """
    struct.pack_into(
        ">HHIIBBHI",
        buf,
        offset,
        source_port,
        port,
        seq & 0xFFFFFFFF,
        ack & 0xFFFFFFFF,
        header << 2,
        flags,
        window,
        0,
    )
    length += header
    checksum = ~_netbuf.checksum(buf, offset, length, pseudo + length) & 0xFFFF
    buf[offset + 16] = checksum >> 8
    buf[offset + 17] = checksum & 0xFF
