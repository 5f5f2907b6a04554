"""DNS client: asks the stack's servers for addresses, and remembers a few."""

import struct

from micropython import const
from net import dns_message as message
from net.timers import Timed

# errno.h: what getaddrinfo() reports.
ENOENT = const(2)
EIO = const(5)
ETIMEDOUT = const(110)

_RETRY = const(2000)
_TRIES = const(4)
_CACHE_SIZE = const(16)
_MAX_TTL = const(3600)


class Query(Timed):
    """One question under way. `done` tells that `addresses` or `error` (an errno) is there."""

    def __init__(self, resolver, name):
        super().__init__()
        self.done = False
        self.addresses = []
        self.error = 0
        self.port = 0
        self._resolver = resolver
        self._name = name
        self._identifier = 0
        self._server = 0
        self._tries = 0

    def ask(self, now):
        """Send the question to the next server."""
        stack = self._resolver.stack
        servers = stack.dns_servers
        if not servers or self._tries >= _TRIES:
            self.answer([], ETIMEDOUT if servers else EIO)
            return
        # RFC 5452 9.2: each question has a random identifier and a random port.
        if self.port:
            stack.close_udp(self.port)
        stack.open_udp(0, self)
        self._identifier = struct.unpack(">H", stack.random(2))[0]
        self._server = servers[self._tries % len(servers)]
        self._tries += 1
        query = message.emit_query(self._identifier, self._name)
        try:
            stack.send_udp(self.port, self._server, message.PORT, query)
        except OSError:
            # No way or a full link now; the next try may find one.
            pass
        stack.timers.set(self, now + _RETRY)

    def on_deadline(self, now):
        """Called by Timers: no answer."""
        self.ask(now)

    def datagram(self, buf, start, end, source, source_port, now):
        """Take a datagram from the stack."""
        if source != self._server or source_port != message.PORT:
            return
        answer = message.parse_answer(bytes(buf[start:end]), self._identifier, self._name)
        if answer is None:
            return
        code, addresses, ttl = answer
        if addresses:
            self._resolver.remember(self._name, addresses, now + min(ttl, _MAX_TTL) * 1000)
            self.answer(addresses, 0)
        elif code in (message.NO_ERROR, message.NAME_ERROR):
            self.answer([], ENOENT)
        else:
            # This server cannot say; ask the next.
            self.ask(now)

    def unreachable(self, _remote, _remote_port, _error, now):
        """Take an ICMP error: nobody answers there, so ask the next."""
        self.ask(now)

    def cancel(self):
        """Give up."""
        if not self.done:
            self.answer([], ETIMEDOUT)

    def answer(self, addresses, error):
        """End with what was found."""
        stack = self._resolver.stack
        self.done = True
        self.addresses = addresses
        self.error = error
        if self.port:
            stack.close_udp(self.port)
            self.port = 0
        stack.timers.set(self, None)


class Resolver:
    """Asks for addresses on behalf of `stack`."""

    def __init__(self, stack):
        self.stack = stack
        # name in wire form: (addresses, end of life in ms)
        self._cache = {}

    def resolve(self, name, now):
        """Start to look a host name up; returns a Query. ValueError: no host name."""
        wire = message.encode_name(name.lower())
        query = Query(self, wire)
        known = self._cache.get(wire)
        if known is not None and known[1] > now:
            query.answer(known[0], 0)
        else:
            query.ask(now)
        return query

    def remember(self, name, addresses, expires):
        """Keep an answer for its time to live."""
        if len(self._cache) >= _CACHE_SIZE:
            del self._cache[next(iter(self._cache))]
        self._cache[name] = (addresses, expires)
