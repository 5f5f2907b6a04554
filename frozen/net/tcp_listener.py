"""A listening TCP port: handshakes under way, and connections that wait for accept()."""

from micropython import const

# Handshakes at a time. One more pushes the oldest out, so that a flood of SYNs without ACKs
# cannot keep clients out for long (RFC 4987 3.4, "Recycling the oldest half-open TCB").
_MAX_HALF_OPEN = const(128)
# The least length of the accept queue: a smaller backlog would only make clients retry.
_MIN_BACKLOG = const(64)


class Listener:
    """A port in LISTEN. `address` 0 takes every local address."""

    def __init__(self, stack, address, port, backlog):
        self.stack = stack
        self.address = address
        self.port = port
        self._backlog = max(backlog, _MIN_BACKLOG)
        self._half_open = []
        self._queue = []

    def may_open(self):
        """Make room for one more handshake; False where its SYN should be passed over."""
        if len(self._queue) >= self._backlog:
            return False
        if len(self._half_open) >= _MAX_HALF_OPEN:
            self._half_open[0].abort()
        return True

    def opened(self, connection):
        """Note a handshake under way."""
        connection.listener = self
        self._half_open.append(connection)

    def established(self, connection):
        """Queue a connection for accept(); False where it must be refused."""
        self._half_open.remove(connection)
        if len(self._queue) >= self._backlog:
            connection.listener = None
            return False
        self._queue.append(connection)
        return True

    def forget(self, connection):
        """Called when a connection ended before accept()."""
        if connection in self._half_open:
            self._half_open.remove(connection)
        elif connection in self._queue:
            self._queue.remove(connection)

    def ready(self):
        """Tell whether accept() has a connection."""
        return bool(self._queue)

    def accept(self):
        """Return the oldest established connection, or None."""
        if not self._queue:
            return None
        connection = self._queue.pop(0)
        connection.listener = None
        return connection

    def close(self):
        """Leave LISTEN; connections that nobody accepted are reset (RFC 9293 3.10.4)."""
        self.stack.close_listener(self)
        for connection in self._half_open + self._queue:
            connection.abort()
