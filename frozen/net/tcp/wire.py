"""TCP segments on the wire (RFC 9293 3.1 and 3.2): parse and emit, no state."""

import struct

import _netbuf
from micropython import const
from net import ipv4
from net.tcp.sequence import MASK

HEADER = const(20)

FIN = const(0x01)
SYN = const(0x02)
RST = const(0x04)
PSH = const(0x08)
ACK = const(0x10)

# RFC 7323 2.3: a larger shift count is used as this one.
MAX_SHIFT = const(14)

_OPTION_END = const(0)
_OPTION_NOP = const(1)
_OPTION_MSS = const(2)
_OPTION_WINDOW_SCALE = const(3)
_OPTION_SACK_PERMITTED = const(4)
_OPTION_SACK = const(5)
_OPTION_TIMESTAMPS = const(8)

# RFC 7323 appendix A: how everybody lays the timestamps option out, as a 32-bit number.
_TIMESTAMPS_WORD = const(0x0101080A)
TIMESTAMPS_LENGTH = const(12)
# RFC 2018 3: 40 bytes of options hold four blocks, three beside timestamps.
MAX_SACK_BLOCKS = const(4)


def parse(buf, start, end, pseudo):
    """Check a segment in buf[start:end].

    Args: pseudo: pseudo_header_sum() of its addresses, see net.family.
    Returns (source_port, port, seq, ack, flags, window, payload_start), or None where the
    segment is malformed or its checksum wrong.
    """
    length = end - start
    if length < HEADER or _netbuf.checksum(buf, start, length, pseudo + length) != 0xFFFF:
        return None
    source_port, port, seq, ack, offset, flags, window = struct.unpack_from(">HHIIBBH", buf, start)
    offset = offset >> 4 << 2
    if offset < HEADER or offset > length:
        return None
    return source_port, port, seq, ack, flags, window, start + offset


def parse_syn_options(buf, start, end, mss=ipv4.TCP_MSS):
    """Return (mss, shift, sack, timestamp) of a SYN's options in buf[start:end].

    Args: mss: what is meant without the option. `shift` is None where the peer does not scale
    windows, `sack` says whether it permits SACK, `timestamp` is its TSval or None. Options that are
    unknown, cut short or wrong are passed over (RFC 9293 3.2: options must be handled without a
    crash).
    """
    shift, sack, timestamp = None, False, None
    for kind, at, length in _options(buf, start, end):
        if kind == _OPTION_MSS and length == 4:
            mss = buf[at + 2] << 8 | buf[at + 3]
        elif kind == _OPTION_WINDOW_SCALE and length == 3:
            shift = min(buf[at + 2], MAX_SHIFT)
        elif kind == _OPTION_SACK_PERMITTED and length == 2:
            sack = True
        elif kind == _OPTION_TIMESTAMPS and length == 10:
            timestamp = struct.unpack_from(">I", buf, at + 2)[0]
    return mss, shift, sack, timestamp


def parse_options(buf, start, end):
    """Return (TSval, TSecr, blocks) of the options of a segment without SYN.

    The first two are None without a timestamps option; `blocks` is a list of the SACK option's
    (start, end) pairs as on the wire, or an empty tuple.
    """
    if end - start == TIMESTAMPS_LENGTH:
        word, value, echo = struct.unpack_from(">III", buf, start)
        if word == _TIMESTAMPS_WORD:
            return value, echo, ()
    value = echo = None
    blocks = ()
    for kind, at, length in _options(buf, start, end):
        if kind == _OPTION_TIMESTAMPS and length == 10:
            value, echo = struct.unpack_from(">II", buf, at + 2)
        elif kind == _OPTION_SACK and length > 2 and (length - 2) & 7 == 0:
            blocks = [
                struct.unpack_from(">II", buf, block) for block in range(at + 2, at + length, 8)
            ]
    return value, echo, blocks


def _options(buf, start, end):
    """Return [(kind, where it starts, length)] of the options that are whole."""
    found = []
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
        found.append((kind, at, length))
        at += length
    return found


def emit_syn_options(mss, shift, sack=False, timestamps=None):
    """Return a SYN's options as bytes, a multiple of four.

    Args: shift: None for no window scaling; sack: permit SACK; timestamps: (TSval, TSecr) or None.
    """
    options = struct.pack(">BBH", _OPTION_MSS, 4, mss)
    if timestamps is not None:
        # RFC 7323 appendix A: SACK-permitted fits where the two NOPs are.
        first = (_OPTION_SACK_PERMITTED, 2) if sack else (_OPTION_NOP, _OPTION_NOP)
        options += bytes(first) + struct.pack(">BBII", _OPTION_TIMESTAMPS, 10, *timestamps)
    elif sack:
        options += struct.pack(">BBBB", _OPTION_NOP, _OPTION_NOP, _OPTION_SACK_PERMITTED, 2)
    if shift is not None:
        options += struct.pack(">BBBB", _OPTION_NOP, _OPTION_WINDOW_SCALE, 3, shift)
    return options


def emit_timestamps(buf, offset, value, echo):
    """Write the timestamps option, TIMESTAMPS_LENGTH bytes."""
    struct.pack_into(">III", buf, offset, _TIMESTAMPS_WORD, value, echo)


def emit_sack(buf, offset, blocks):
    """Write the SACK option of (start, end) pairs, any integers; return its length."""
    buf[offset] = buf[offset + 1] = _OPTION_NOP
    buf[offset + 2] = _OPTION_SACK
    buf[offset + 3] = 2 + 8 * len(blocks)
    at = offset + 4
    for start, end in blocks:
        struct.pack_into(">II", buf, at, start & MASK, end & MASK)
        at += 8
    return at - offset


def emit_large(buf, offset, source_port, port, seq, ack, flags, window, header, pseudo):
    """Write the fixed header of a segment that the link cuts up and sums.

    Args as for emit(). The checksum field gets `pseudo` folded, which has the pseudo header's
    length where the link wants whole headers.
    """
    pseudo = (pseudo & 0xFFFF) + (pseudo >> 16)
    pseudo = (pseudo & 0xFFFF) + (pseudo >> 16)
    struct.pack_into(
        ">HHIIBBHHH",
        buf,
        offset,
        source_port,
        port,
        seq & MASK,
        ack & MASK,
        header << 2,
        flags,
        window,
        pseudo,
        0,
    )


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
        seq & MASK,
        ack & MASK,
        header << 2,
        flags,
        window,
        0,
    )
    length += header
    checksum = ~_netbuf.checksum(buf, offset, length, pseudo + length) & 0xFFFF
    buf[offset + 16] = checksum >> 8
    buf[offset + 17] = checksum & 0xFF
