"""Multicast DNS (RFC 6762) and service discovery (RFC 6763): this host is NAME.local.

A responder probes for its names, takes others where they are taken, announces them and answers.
Sections are RFC 6762's where they name no other.
"""

import struct

from micropython import const
from net import mdns_message as message
from net.dns_message import TYPE_A, TYPE_AAAA
from net.timers import Timed

# 8.1: three probes, 250 ms apart, the first within that time.
_PROBES = const(3)
_PROBE_INTERVAL = const(250)
# 8.2: after a lost tie.
_TIE_WAIT = const(1000)
# 8.1: after that many conflicts, a probe each five seconds.
_MOST_CONFLICTS = const(15)
_CONFLICT_WAIT = const(5000)
# 8.3
_ANNOUNCEMENTS = const(2)
_ANNOUNCE_INTERVAL = const(1000)
# 6: answers that others may give too wait 20 to 120 ms; 6, last part: once a second.
_SHARED_LEAST = const(20)
_SHARED_RANGE = const(100)
_RECORD_INTERVAL = const(1000)
# 10: names and addresses, all else; seconds.
_HOST_TTL = const(120)
_OTHER_TTL = const(4500)
# 11
_HOPS = const(255)

_SILENT = const(0)
_PROBING = const(1)
_ANNOUNCING = const(2)
_RUNNING = const(3)


class Responder(Timed):
    """Answers for a Stack.

    Args: service: of the form "_http._tcp"; port: where it is served; text: [str], what RFC 6763 6
    wants in its TXT record. Raises OSError: EADDRINUSE.
    """

    def __init__(self, stack, service, port, text=()):
        self._stack = stack
        self._service = service.split(".")
        self._service_port = port
        self._text = b"".join([bytes((len(t),)) + t.encode() for t in text]) or b"\0"
        self._state = _SILENT
        self._left = 0
        self._conflicts = 0
        self._hostname = ""
        self.name = ""  # the label before .local
        self._records = []
        # Those of them that no other host may have, and the names that are probed for.
        self._unique = []
        self._names = []
        # Records of the next multicast answer.
        self._due = []
        self.port = 0
        stack.open_udp(message.PORT, self)
        stack.groups.join(message.GROUP, stack.now)
        stack.six.groups.join(message.GROUP6, stack.now)
        stack.responder = self

    def close(self):
        """Take the names back (10.1), and stop."""
        stack = self._stack
        if self._state in (_ANNOUNCING, _RUNNING):
            self._multicast(message.emit_answer(self._records, True))
        self._state = _SILENT
        stack.timers.forget(self)
        stack.responder = None
        stack.groups.leave(message.GROUP, stack.now)
        stack.six.groups.leave(message.GROUP6, stack.now)
        stack.close_udp(message.PORT)

    def start(self, now):
        """Begin anew: the host's address or name has changed."""
        stack = self._stack
        self._due = []
        if stack.hostname != self._hostname:
            self._hostname = stack.hostname
            self._conflicts = 0
            self.name = _label(stack.hostname, 0)
        self._state = _SILENT
        stack.timers.set(self, None)
        if stack.address or stack.six.own:
            self._probe(self._random(_PROBE_INTERVAL), now)

    def changed(self, now):
        """The host has other addresses of IPv6: announce them under the same names (8.4)."""
        if self._state == _SILENT:
            self.start(now)
            return
        self._make_records()
        self._due = []
        if self._state != _PROBING:
            self._state = _ANNOUNCING
            self._left = _ANNOUNCEMENTS
            self._stack.timers.set(self, now)

    def on_deadline(self, now):
        """Called by Timers: probe, announce, or send what is due."""
        stack = self._stack
        if self._state == _PROBING:
            if self._left:
                self._left -= 1
                self._multicast(message.emit_probe(self._names, self._unique))
                stack.timers.set(self, now + _PROBE_INTERVAL)
                return
            self._state = _ANNOUNCING
            self._left = _ANNOUNCEMENTS
        if self._state == _ANNOUNCING:
            self._send(self._records, now)
            self._left -= 1
            if not self._left:
                self._state = _RUNNING
                self._conflicts = 0
            stack.timers.set(self, now + _ANNOUNCE_INTERVAL)
        elif self._due:
            due, self._due = self._due, []
            self._send(due, now)

    def datagram(self, buf, start, end, source, source_port, now):
        """Take a datagram from the stack."""
        # 11: from this link only.
        if self._state == _SILENT or not self._is_neighbour(source):
            return
        try:
            arrived = message.Message(bytes(buf[start:end]))
        except ValueError:
            return
        if arrived.is_answer:
            if source_port == message.PORT:
                self._look_for_conflicts(arrived.answers, now)
        elif self._state == _PROBING:
            self._look_for_ties(arrived, now)
        else:
            self._answer(arrived, source, source_port, now)

    def _is_neighbour(self, source):
        stack = self._stack
        if isinstance(source, bytes):
            return stack.six.autoconf.is_on_link(source)
        return not (source ^ stack.address) & stack.netmask

    def unreachable(self, _remote, _remote_port, _error, _now):
        """Take an ICMP error: nobody listens for an answer any more."""

    # -- The names --------------------------------------------------------------------------

    def _probe(self, delay, now):
        self._make_records()
        self._state = _PROBING
        self._left = _PROBES
        if self._conflicts >= _MOST_CONFLICTS:
            delay = _CONFLICT_WAIT
        self._stack.timers.set(self, now + delay)

    def _make_records(self):
        host = message.name(self.name, "local")
        service = message.name(*self._service, "local")
        instance = message.name(self.name, *self._service, "local")
        everything = message.name("_services", "_dns-sd", "_udp", "local")  # RFC 6763 9
        address = self._stack.address
        own = sorted(self._stack.six.own)
        record = message.Record
        self._names = [host, instance]
        self._unique = []
        if address:
            self._unique.append(record(host, TYPE_A, _HOST_TTL, struct.pack(">I", address)))
        self._unique += [record(host, TYPE_AAAA, _HOST_TTL, value) for value in own]
        self._unique += [
            record(
                instance,
                message.TYPE_SRV,
                _HOST_TTL,
                struct.pack(">HHH", 0, 0, self._service_port) + host,
            ),
            record(instance, message.TYPE_TXT, _OTHER_TTL, self._text),
        ]
        kinds = [TYPE_A] * bool(address) + [TYPE_AAAA] * bool(own)
        self._records = self._unique + [
            record(message.reverse_name(value), message.TYPE_PTR, _HOST_TTL, host)
            for value in [address] * bool(address) + own
        ]
        self._records += [
            # 6.1: what there is not need not be waited for.
            record(host, message.TYPE_NSEC, _HOST_TTL, message.nsec(host, *kinds)),
            record(
                instance,
                message.TYPE_NSEC,
                _OTHER_TTL,
                message.nsec(instance, message.TYPE_TXT, message.TYPE_SRV),
            ),
            record(service, message.TYPE_PTR, _OTHER_TTL, instance, False),
            record(everything, message.TYPE_PTR, _OTHER_TTL, service, False),
        ]

    def _conflicting(self, theirs):
        """Return whether a record of another host says otherwise than this one's (9)."""
        mine = [record for record in self._unique if record.name == theirs.name]
        if not mine:
            return False
        same = [record for record in mine if record.kind == theirs.kind]
        return (
            bool(same)
            and theirs.data not in [_folded(record) for record in same]
            or (
                # While probing, any record of the name counts (8.1).
                self._state == _PROBING and not same and theirs.kind != message.TYPE_NSEC
            )
        )

    def _look_for_conflicts(self, records, now):
        # A goodbye of another host is no conflict.
        if not any([record.ttl and self._conflicting(record) for record in records]):
            return
        if self._state == _PROBING:
            self._conflicts += 1
            self.name = _label(self._hostname, self._conflicts)
            self._probe(self._random(_PROBE_INTERVAL), now)
        else:
            # 9: is it still this host's?
            self._probe(0, now)

    def _look_for_ties(self, arrived, now):
        """Give way to a host that probes for the same name and comes later in order (8.2)."""
        for wanted in {record.name for record in self._unique}:
            theirs = sorted([_order(r) for r in arrived.authorities if r.name == wanted])
            mine = sorted([_order(r) for r in self._unique if r.name == wanted])
            if theirs and theirs > mine:
                self._probe(_TIE_WAIT, now)
                return

    # -- Answers ----------------------------------------------------------------------------

    def _answer(self, arrived, source, source_port, now):
        found = []
        for question in arrived.questions:
            matching = [record for record in self._records if record.answers(question)]
            if not matching:
                # A type that a name of this host does not have (6.1).
                matching = [
                    record
                    for record in self._records
                    if record.kind == message.TYPE_NSEC and record.name == question[0]
                ]
            found += [record for record in matching if record not in found]
        # 7.1: what the asker knows, for at least half of its time.
        found = [r for r in found if not any([_knows(known, r) for known in arrived.answers])]
        if not found:
            return
        if any([record.kind == message.TYPE_PTR for record in found]):
            # RFC 6763 12.1: what is asked next.
            found += [record for record in self._unique if record not in found]
        if source_port != message.PORT:
            data = message.emit_legacy_answer(arrived.identifier, arrived.questions, found)
            self._send_to(source, source_port, data)
        elif all([unicast for _, _, unicast in arrived.questions]):
            self._send_to(source, source_port, message.emit_answer(found))
        else:
            self._due += [record for record in found if record not in self._due]
            shared = any([not record.unique for record in found])
            delay = _SHARED_LEAST + self._random(_SHARED_RANGE) if shared else 0
            if self.deadline is None or self.deadline > now + delay:
                self._stack.timers.set(self, now + delay)

    def _send(self, records, now):
        records = [
            record
            for record in records
            if record.sent_at is None or now - record.sent_at >= _RECORD_INTERVAL
        ]
        if records:
            for record in records:
                record.sent_at = now
            self._multicast(message.emit_answer(records))

    def _multicast(self, data):
        if self._stack.address:
            self._send_to(message.GROUP, message.PORT, data)
        if self._stack.six.own:
            self._send_to(message.GROUP6, message.PORT, data)

    def _send_to(self, address, port, data):
        try:
            self._stack.send_udp(message.PORT, address, port, data, ttl=_HOPS)
        except OSError:
            pass  # no way, or a full link: whoever wants to know asks again

    def _random(self, limit):
        return struct.unpack(">H", self._stack.random(2))[0] * limit // 65536


def _label(hostname, conflicts):
    # A host name's first label; "-2", "-3" after conflicts (9).
    label = hostname.split(".")[0][:59] or "cllm"
    return label if not conflicts else "%s-%d" % (label, conflicts + 1)


def _folded(record):
    """Return the data as records that arrive have it: names in lower case."""
    if record.kind == message.TYPE_SRV:
        return record.data[:6] + record.data[6:].lower()
    return record.data.lower() if record.kind == message.TYPE_PTR else record.data


def _order(record):
    # 8.2.1: class, type, data; the class is always the same.
    return record.kind, _folded(record)


def _knows(known, record):
    return (
        known.name == record.name
        and known.kind == record.kind
        and known.ttl * 2 >= record.ttl
        and known.data == _folded(record)
    )
