"""DHCP messages (RFC 2131 2, options of RFC 2132): parse and emit."""

import struct

from micropython import const

DISCOVER = const(1)
OFFER = const(2)
REQUEST = const(3)
ACK = const(5)
NAK = const(6)

SERVER_PORT = const(67)
CLIENT_PORT = const(68)

SUBNET_MASK = const(1)
ROUTER = const(3)
DNS_SERVER = const(6)
HOST_NAME = const(12)
NTP_SERVER = const(42)
REQUESTED_ADDRESS = const(50)
LEASE_TIME = const(51)
OVERLOAD = const(52)
MESSAGE_TYPE = const(53)
SERVER_ID = const(54)
PARAMETER_LIST = const(55)
MAX_SIZE = const(57)
RENEWAL_TIME = const(58)
REBINDING_TIME = const(59)
CLIENT_ID = const(61)

_PAD = const(0)
_END = const(255)

_FIXED = const(236)
_OPTIONS = const(240)
_COOKIE = b"\x63\x82\x53\x63"
# RFC 1542 2.1: relays may pass over messages that are shorter than a BOOTP one.
_MINIMUM = const(300)

_BROADCAST = const(0x8000)  # RFC 2131, figure 2

_BOOT_REQUEST = const(1)
_BOOT_REPLY = const(2)


def emit(kind, xid, seconds, client_address, mac, options, broadcast=False):
    """Return a client's message as bytes.

    Args: kind: MESSAGE_TYPE; seconds: since the exchange began; client_address: ciaddr, 0 unless
    it is in use; options: [(code, bytes), ...]; broadcast: ask for an answer to all.
    """
    message = bytearray(_FIXED)
    struct.pack_into(
        ">BBBBIHHIIII6s",
        message,
        0,
        _BOOT_REQUEST,
        1,
        6,
        0,
        xid,
        min(seconds, 0xFFFF),
        _BROADCAST if broadcast else 0,
        client_address,
        0,
        0,
        0,
        mac,
    )
    message.extend(_COOKIE)
    for code, value in [(MESSAGE_TYPE, bytes((kind,)))] + options:
        message.extend(bytes((code, len(value))) + value)
    message.append(_END)
    if len(message) < _MINIMUM:
        message.extend(bytes(_MINIMUM - len(message)))
    return bytes(message)


def parse(data):
    """Return (kind, xid, your_address, mac, options) of a server's message, or None.

    `options` maps codes to bytes, the parts of a split option joined (RFC 3396). Options that
    are cut short end the list.
    """
    if len(data) < _OPTIONS or data[_FIXED:_OPTIONS] != _COOKIE:
        return None
    op, kind, length, xid, address, mac = struct.unpack_from(">BBBxIxxxxxxxxI8x6s", data, 0)
    if op != _BOOT_REPLY or kind != 1 or length != 6:
        return None
    options = {}
    _parse_options(data, _OPTIONS, len(data), options)
    # RFC 2132 9.3: the file and server name fields may hold more options.
    overload = options.get(OVERLOAD, b"\0")
    if len(overload) == 1 and overload[0] & 1:
        _parse_options(data, 108, 236, options)
    if len(overload) == 1 and overload[0] & 2:
        _parse_options(data, 44, 108, options)
    kind = options.get(MESSAGE_TYPE, b"")
    if len(kind) != 1:
        return None
    return kind[0], xid, address, mac, options


def _parse_options(data, at, end, options):
    while at < end and data[at] != _END:
        code = data[at]
        at += 1
        if code == _PAD:
            continue
        if at >= end:
            return
        length = data[at]
        at += 1
        if at + length > end:
            return
        options[code] = options.get(code, b"") + data[at : at + length]
        at += length


def numbers(options, code):
    """Return the 32-bit numbers of an option: addresses or seconds; [] where it is absent."""
    value = options.get(code, b"")
    return [struct.unpack_from(">I", value, i)[0] for i in range(0, len(value) - 3, 4)]
