"""DNS client: asks the stack's servers for addresses, and caches a few."""

import struct

from micropython import const
from net import dns_message as message
from net.errors import EIO, ENOENT, ETIMEDOUT
from net.timers import Timed

_RETRY = const(2000)
_TRIES = const(4)
# How many rounds to ask all servers while they answer without a result.
_ROUNDS = const(2)
# TCP: time for one server and interval of checks of the connection, in ms; longest message
# (RFC 1035 4.2.2).
_TCP_TIME = const(5000)
_TCP_LOOK = const(20)
_MAX_TCP = const(65535)
_CACHE_SIZE = const(16)
_MAX_TTL = const(3600)


class Query(Timed):
    """One question. When `done` is true, `addresses` or `error` (an errno) is set."""

    def __init__(self, resolver, name, kind):
        self.done = False
        self.addresses = []
        self.error = 0
        self.port = 0
        self._resolver = resolver
        self._name = name
        self._kind = kind
        self._identifier = 0
        # The server that was asked last; 0 if it answered without a result.
        self._server = 0
        self._tries = 0
        self._failures = 0
        # A question by TCP: the connection, bytes to send, bytes received, and its deadline in ms.
        self._connection = None
        self._query = b""
        self._received = b""
        self._until = 0

    def ask(self, now):
        """Send the question to the next server."""
        stack = self._resolver.stack
        servers = stack.name_servers()
        self._hang_up(now)
        if not servers or self._tries >= _TRIES:
            # No server had a result, or none answered.
            self.answer([], ETIMEDOUT if servers and self._server else EIO)
            return
        # RFC 5452 9.2: each question has a random identifier and a random port.
        if self.port:
            stack.close_udp(self.port)
        stack.open_udp(0, self)
        self._identifier = struct.unpack(">H", stack.random(2))[0]
        self._server = servers[self._tries % len(servers)]
        self._tries += 1
        query = message.emit_query(self._identifier, self._name, self._kind)
        try:
            stack.send_udp(self.port, self._server, message.PORT, query)
        except OSError:
            # No route, or a full link; the next try may succeed.
            pass
        stack.timers.set(self, now + _RETRY)

    def on_deadline(self, now):
        """Called by Timers: no answer, or time to look at the connection."""
        if self._connection is None:
            self.ask(now)
        elif now >= self._until:
            self._fail(now)
        else:
            self._converse(now)

    def datagram(self, buf, start, end, source, source_port, now):
        """Take a datagram from the stack."""
        if source != self._server or source_port != message.PORT or self._connection is not None:
            return
        data = bytes(buf[start:end])
        if self._take(data, now):
            return
        if message.is_truncated(data, self._identifier, self._name, self._kind):
            # The answer exceeds a datagram, or the server wants to verify the client's address
            # (RFC 7766 5). TCP is used when no other server is left.
            if (self._failures + 1) % self._servers():
                self._fail(now)
            else:
                self._ask_by_tcp(now)

    def unreachable(self, remote, _remote_port, _error, now):
        """Take an ICMP error: ask the next server."""
        if remote == self._server and self._connection is None:
            self._fail(now)

    def cancel(self):
        """Give up."""
        if not self.done:
            self.answer([], ETIMEDOUT)

    def answer(self, addresses, error):
        """End the query with a result."""
        stack = self._resolver.stack
        self._hang_up(stack.now)
        self.done = True
        self.addresses = addresses
        self.error = error
        if self.port:
            stack.close_udp(self.port)
            self.port = 0
        stack.timers.set(self, None)

    def _servers(self):
        return len(self._resolver.stack.name_servers()) or 1

    def _take(self, data, now):
        """Use a message if it answers the question; return whether it does."""
        answer = message.parse_answer(data, self._identifier, self._name, self._kind)
        if answer is None:
            return False
        code, addresses, ttl = answer
        if addresses:
            self._resolver.remember(
                (self._name, self._kind), addresses, now + min(ttl, _MAX_TTL) * 1000
            )
            self.answer(addresses, 0)
        elif code in (message.NO_ERROR, message.NAME_ERROR):
            self.answer([], ENOENT)
        else:
            self._fail(now)
        return True

    def _fail(self, now):
        """Ask the next server at once: this one has no result. Pause before asking one again."""
        self._hang_up(now)
        self._server = 0
        self._failures += 1
        servers = self._servers()
        if self._failures >= _ROUNDS * servers:
            self.answer([], EIO)
        elif self._failures % servers:
            self.ask(now)
        else:
            self._resolver.stack.timers.set(self, now + _RETRY)

    def _ask_by_tcp(self, now):
        stack = self._resolver.stack
        try:
            self._connection = stack.tcp.connect(self._server, message.PORT, 0, now)
        except OSError:
            self._fail(now)
            return
        query = message.emit_query(self._identifier, self._name, self._kind)
        # RFC 1035 4.2.2: a length comes first.
        self._query = struct.pack(">H", len(query)) + query
        self._received = b""
        self._until = now + _TCP_TIME
        stack.timers.set(self, now + _TCP_LOOK)

    def _converse(self, now):
        """Send the question by TCP, and read what arrived of the answer."""
        connection = self._connection
        try:
            if self._query and connection.can_send():
                self._query = self._query[connection.send(self._query, 0, len(self._query)) :]
            data = connection.receive_bytes(_MAX_TCP)
        except OSError:
            data = b""
        if data == b"":
            # Refused, reset, or closed before the whole answer.
            self._fail(now)
            return
        if data:
            self._received += data
        received = self._received
        length = struct.unpack_from(">H", received, 0)[0] if len(received) >= 2 else _MAX_TCP
        if len(received) < 2 + length:
            self._resolver.stack.timers.set(self, now + _TCP_LOOK)
        elif not self._take(received[2 : 2 + length], now):
            self._fail(now)

    def _hang_up(self, now):
        if self._connection is not None:
            self._connection.close(now)
            self._connection = None


class Resolver:
    """Asks for addresses on behalf of `stack`."""

    def __init__(self, stack):
        self.stack = stack
        # (name in wire form, type): (addresses, end of life in ms)
        self._cache = {}

    def resolve(self, name, now, kind=message.TYPE_A):
        """Start to look up a host name's addresses of one type; return a Query.

        ValueError: not a host name.
        """
        wire = message.encode_name(name.lower())
        query = Query(self, wire, kind)
        known = self._cache.get((wire, kind))
        if known is not None and known[1] > now:
            query.answer(known[0], 0)
        else:
            query.ask(now)
        return query

    def remember(self, key, addresses, expires):
        """Keep an answer for its time to live."""
        if len(self._cache) >= _CACHE_SIZE:
            del self._cache[next(iter(self._cache))]
        self._cache[key] = (addresses, expires)
