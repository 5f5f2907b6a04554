"""A listening TCP port: handshakes under way, and connections that wait for accept()."""

from micropython import const
from net import family

# Half-open connections kept; further SYNs get cookies (RFC 4987 3.6), so that a SYN flood keeps no
# client out.
_MAX_HALF_OPEN = const(128)
# How long after the last cookie an ACK without a connection may bring one back, ms.
_COOKIE_TIME = const(131072)
# The shortest accept queue: a smaller backlog would only make clients retry.
_MIN_BACKLOG = const(64)


class Listener:
    """A port in LISTEN.

    Args: address: 0 for every local one; only: the one family of addresses that it takes, or None.
    """

    def __init__(self, stack, address, port, backlog, only=None):
        self.stack = stack
        self.address = address
        self.port = port
        self._only = only
        self._backlog = max(backlog, _MIN_BACKLOG)
        self._half_open = []
        self._queue = []
        self._cookies_until = 0
        # What Stack.touch() appends to stack.touched when a connection is ready.
        self.waiter = None

    def takes(self, destination):
        """Return whether a segment to a local address is for this listener."""
        if self.address:
            return self.address == destination
        only = self._only
        return only is None or family.of(destination) is only

    def is_full(self):
        """Return whether the accept queue is full: drop a SYN, its peer will repeat it."""
        return len(self._queue) >= self._backlog

    def needs_cookie(self, now):
        """Return whether a new handshake is one too many to remember."""
        if len(self._half_open) < _MAX_HALF_OPEN:
            return False
        self._cookies_until = now + _COOKIE_TIME
        return True

    def expects_cookie(self, now):
        """Return whether an ACK without a connection may hold a cookie."""
        return now < self._cookies_until and not self.is_full()

    def opened(self, connection):
        """Note a handshake under way."""
        connection.listener = self
        self._half_open.append(connection)

    def established(self, connection):
        """Queue a connection for accept(); return False if it must be refused."""
        self._half_open.remove(connection)
        if self.is_full():
            connection.listener = None
            return False
        self._queue.append(connection)
        self.stack.touch(self)
        return True

    def forget(self, connection):
        """Forget a connection that ended before accept()."""
        if connection in self._half_open:
            self._half_open.remove(connection)
        elif connection in self._queue:
            self._queue.remove(connection)

    def ready(self):
        """Return whether accept() has a connection."""
        return bool(self._queue)

    def accept(self):
        """Return the oldest established connection, or None."""
        if not self._queue:
            return None
        connection = self._queue.pop(0)
        connection.listener = None
        return connection

    def close(self):
        """Leave LISTEN; connections that were not accepted are reset (RFC 9293 3.10.4)."""
        self.stack.tcp.close_listener(self)
        for connection in self._half_open + self._queue:
            connection.abort()
