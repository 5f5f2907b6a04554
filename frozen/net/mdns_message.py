"""Multicast DNS messages (RFC 6762 18): records, and what a message asks and answers."""

import struct

from micropython import const
from net.dns_message import CLASS_IN, RESPONSE, encode_name, parse_name

PORT = const(5353)
GROUP = const(0xE00000FB)  # 224.0.0.251
GROUP6 = b"\xff\2" + bytes(13) + b"\xfb"  # ff02::fb

TYPE_PTR = const(12)
TYPE_TXT = const(16)
TYPE_SRV = const(33)
TYPE_NSEC = const(47)
TYPE_ANY = const(255)
_CLASS_ANY = const(255)

_AUTHORITATIVE = const(0x0400)
_OPCODE_AND_CODE = const(0x780F)
# 10.2 and 5.4: the top bit of a class: flush the cache; a unicast answer is welcome.
_TOP = const(0x8000)
_MOST = const(64)  # questions, and records, that are read of a message


class Record:
    """A resource record.

    name: wire form in lower case; shown: the same as it was written; kind: its type; ttl: seconds;
    data: bytes, names in it not compressed; unique: no other host has records of this name and
    type.
    """

    def __init__(self, name, kind, ttl, data, unique=True):
        self.shown = name
        self.name = name.lower()
        self.kind = kind
        self.ttl = ttl
        self.data = data
        self.unique = unique
        # When it was multicast last, ms; None: never.
        self.sent_at = None

    def emit(self, ttl, flush=True):
        """Return the wire form with a TTL in seconds."""
        group = CLASS_IN | (_TOP if self.unique and flush else 0)
        return self.shown + struct.pack(">HHIH", self.kind, group, ttl, len(self.data)) + self.data

    def answers(self, question):
        """Return whether it answers (name, type)."""
        return self.name == question[0] and question[1] in (self.kind, TYPE_ANY)


def name(*labels):
    """Return the wire form of a name. ValueError for a label that is empty or too long.

    A label may have dots, so the labels come one by one.
    """
    return b"".join([bytes((len(_label(label)),)) + _label(label) for label in labels]) + b"\0"


def _label(label):
    octets = label.encode()
    if not 0 < len(octets) < 64:
        raise ValueError("not a label: " + label)
    return octets


def reverse_name(address):
    """Return the name below in-addr.arpa or ip6.arpa of an address (RFC 1035 3.5, RFC 3596 2.5)."""
    if isinstance(address, bytes):
        digits = ["%x.%x." % (octet & 15, octet >> 4) for octet in reversed(address)]
        return encode_name("".join(digits) + "ip6.arpa")
    parts = [str(address >> shift & 255) for shift in (0, 8, 16, 24)]
    return encode_name(".".join(parts) + ".in-addr.arpa")


def nsec(owner, *kinds):
    """Return the data of a record of the types below 256 that a name has (6.1, RFC 4034 4.1)."""
    bits = bytearray(max(kinds) // 8 + 1)
    for kind in kinds:
        bits[kind // 8] |= 0x80 >> kind % 8
    return owner + bytes((0, len(bits))) + bytes(bits)


def emit_probe(names, records):
    """Return a question for all records of each name, with those that are wanted (8.1, 8.2)."""
    message = struct.pack(">HHHHHH", 0, 0, len(names), 0, len(records), 0)
    for wanted in names:
        message += wanted + struct.pack(">HH", TYPE_ANY, CLASS_IN | _TOP)
    return message + b"".join([record.emit(record.ttl, False) for record in records])


def emit_answer(records, goodbye=False):
    """Return an answer for all (18.1: identifier 0; 10.1: a TTL of 0 takes records back)."""
    message = struct.pack(">HHHHHH", 0, RESPONSE | _AUTHORITATIVE, 0, len(records), 0, 0)
    return message + b"".join([record.emit(0 if goodbye else record.ttl) for record in records])


def emit_legacy_answer(identifier, questions, records):
    """Return an answer for a resolver of plain DNS (6.7): short TTLs, the question repeated."""
    message = struct.pack(
        ">HHHHHH", identifier, RESPONSE | _AUTHORITATIVE, len(questions), len(records), 0, 0
    )
    for asked, kind, _ in questions:
        message += asked + struct.pack(">HH", kind, CLASS_IN)
    return message + b"".join([record.emit(min(record.ttl, 10), False) for record in records])


class Message:
    """A message that arrived. ValueError: malformed, or of a kind that 18.3 has ignored.

    identifier; is_answer; questions: [(name, type, whether unicast is welcome)]; answers,
    authorities: [Record]. Of records that compress names inside, `data` is uncompressed.
    """

    def __init__(self, data):
        if len(data) < 12:
            raise ValueError("short")
        self.identifier, flags, questions, answers, authorities, _ = struct.unpack_from(
            ">HHHHHH", data, 0
        )
        if flags & _OPCODE_AND_CODE:
            raise ValueError("no standard message")
        self.is_answer = bool(flags & RESPONSE)
        self.questions = []
        try:
            at = self._read_questions(data, 12, min(questions, _MOST))
            self.answers, at = _read_records(data, at, min(answers, _MOST))
            self.authorities, at = _read_records(data, at, min(authorities, _MOST))
        except IndexError:
            raise ValueError("cut short")

    def _read_questions(self, data, at, count):
        for _ in range(count):
            asked, at = parse_name(data, at)
            kind, group = _unpack(">HH", data, at)
            at += 4
            if group & ~_TOP & 0xFFFF in (CLASS_IN, _CLASS_ANY):
                self.questions.append((asked, kind, bool(group & _TOP)))
        return at


def _unpack(form, data, at):
    if at + struct.calcsize(form) > len(data):
        raise ValueError("cut short")
    return struct.unpack_from(form, data, at)


def _read_records(data, at, count):
    found = []
    for _ in range(count):
        owner, at = parse_name(data, at)
        kind, group, ttl, length = _unpack(">HHIH", data, at)
        at += 10
        if at + length > len(data):
            raise ValueError("cut short")
        content = bytes(data[at : at + length])
        if kind == TYPE_PTR:
            content = parse_name(data, at)[0]
        elif kind == TYPE_SRV and length > 6:
            content = content[:6] + parse_name(data, at + 6)[0]
        if group & ~_TOP & 0xFFFF == CLASS_IN:
            found.append(Record(owner, kind, ttl, content, bool(group & _TOP)))
        at += length
    return found, at
