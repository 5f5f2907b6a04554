"""DNS messages (RFC 1035 4): emit a query for an address, parse the answer.

A and AAAA records (RFC 3596) are asked for alike.
"""

import struct

from micropython import const

PORT = const(53)
MAX_SIZE = const(512)  # RFC 1035 2.3.4, without EDNS

NO_ERROR = const(0)
NAME_ERROR = const(3)

TYPE_A = const(1)
TYPE_AAAA = const(28)
_TYPE_CNAME = const(5)
CLASS_IN = const(1)
RESPONSE = const(0x8000)
TRUNCATED = const(0x0200)
_RECURSION_DESIRED = const(0x0100)
# More records than resolvers send; limits the work that an answer can cause.
_MAX_RECORDS = const(128)
_MAX_JUMPS = const(16)


def encode_name(name):
    """Return the wire form of a host name. ValueError where a label is empty or too long."""
    wire = b""
    for label in name.rstrip(".").split("."):
        octets = label.encode()
        if not 0 < len(octets) < 64:
            raise ValueError("not a host name: " + name)
        wire += bytes((len(octets),)) + octets
    if len(wire) > 254:
        raise ValueError("host name too long")
    return wire + b"\0"


def emit_query(identifier, name, wanted=TYPE_A):
    """Return a query for records of `name`, as encode_name() gives it, of one type."""
    return (
        struct.pack(">HHHHHH", identifier, _RECURSION_DESIRED, 1, 0, 0, 0)
        + name
        + struct.pack(">HH", wanted, CLASS_IN)
    )


def parse_answer(data, identifier, name, wanted=TYPE_A):
    """Return (code, addresses, ttl) of the answer to emit_query(), or None for anything else.

    `addresses` are those of `name` and of the aliases that the same answer resolves it to; `ttl`
    is the least of the records used, in seconds. A truncated answer counts with what it has, and
    as none where it has no address: see is_truncated().
    """
    header = _parse_header(data, identifier, name, wanted)
    if header is None:
        return None
    flags, answers, asked, at = header
    try:
        records = _parse_records(data, at, min(answers, _MAX_RECORDS), wanted)
    except (ValueError, IndexError):
        return None
    addresses, least = _follow(records, asked)
    if flags & TRUNCATED and flags & 15 == NO_ERROR and not addresses:
        return None
    return flags & 15, addresses, least


def is_truncated(data, identifier, name, wanted=TYPE_A):
    """Return whether an answer to emit_query() had to leave records out (RFC 2181 9)."""
    header = _parse_header(data, identifier, name, wanted)
    return header is not None and bool(header[0] & TRUNCATED)


def _parse_header(data, identifier, name, wanted):
    """Return (flags, number of answers, name, where they start) of an answer, or None."""
    if len(data) < 12:
        return None
    number, flags, questions, answers = struct.unpack_from(">HHHH", data, 0)
    if number != identifier or not flags & RESPONSE or questions != 1:
        return None
    # The question must be ours: names compare without case (RFC 4343).
    try:
        asked, at = parse_name(data, 12)
    except (ValueError, IndexError):
        return None
    if at + 4 > len(data) or asked != name.lower():
        return None
    if struct.unpack_from(">HH", data, at) != (wanted, CLASS_IN):
        return None
    return flags, answers, asked, at + 4


def _parse_records(data, at, count, wanted):
    """Return {owner: [(ttl, address or None, alias or None), ...]} of the whole records."""
    records = {}
    for _ in range(count):
        if at >= len(data):
            break
        owner, at = parse_name(data, at)
        if at + 10 > len(data):
            break
        kind, group, ttl, length = struct.unpack_from(">HHIH", data, at)
        at += 10
        if at + length > len(data):
            break
        record = None
        if group == CLASS_IN and kind == wanted == TYPE_A and length == 4:
            record = (ttl, struct.unpack_from(">I", data, at)[0], None)
        elif group == CLASS_IN and kind == wanted == TYPE_AAAA and length == 16:
            record = (ttl, bytes(data[at : at + 16]), None)
        elif group == CLASS_IN and kind == _TYPE_CNAME:
            record = (ttl, None, parse_name(data, at)[0])
        if record is not None:
            if owner not in records:
                records[owner] = []
            records[owner].append(record)
        at += length
    return records


def _follow(records, name):
    """Return (addresses, least ttl) of a name and of what it is an alias of.

    Records have no order (RFC 1034 3.6), so aliases are followed once all are read. Each owner
    counts once, which ends loops.
    """
    addresses = []
    least = 0x7FFFFFFF
    names = [name]
    for owner in names:
        for ttl, address, alias in records.pop(owner, ()):
            least = min(least, ttl)
            if alias is None:
                addresses.append(address)
            else:
                names.append(alias)
    return addresses, least


def parse_name(data, at):
    """Return a name in wire form, without compression and in lower case, and where it ended."""
    wire = b""
    end = None
    for _ in range(128 + _MAX_JUMPS):
        length = data[at]
        if length >= 0xC0:
            # RFC 1035 4.1.4: a pointer. It must point backwards, so that following it ends.
            target = (length & 0x3F) << 8 | data[at + 1]
            if end is None:
                end = at + 2
            if target >= at:
                raise ValueError("pointer")
            at = target
            continue
        if length > 63:
            raise ValueError("label")
        if at + 1 + length > len(data):
            raise ValueError("cut short")
        wire += bytes(data[at : at + 1 + length]).lower()
        if len(wire) > 255:
            raise ValueError("name too long")
        at += 1 + length
        if length == 0:
            return wire, at if end is None else end
    raise ValueError("name")
