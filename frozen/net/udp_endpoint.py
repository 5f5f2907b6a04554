"""A UDP port and the datagrams that wait for its user."""

from micropython import const

# Datagrams that find neither number nor bytes left are dropped, as UDP may.
_MAX_DATAGRAMS = const(64)
_MAX_BYTES = const(65536)


class Endpoint:
    """One port of a Stack. `remote` (address, port), when set, is the only peer heard."""

    def __init__(self, stack, port):
        self.stack = stack
        self.port = port
        self.remote = None
        self._queue = []
        self._bytes = 0

    def datagram(self, buf, start, end, source, source_port, _now):
        """Take a datagram from the stack; it is copied."""
        if self.remote is not None and self.remote != (source, source_port):
            return
        if len(self._queue) < _MAX_DATAGRAMS and self._bytes + end - start <= _MAX_BYTES:
            self._queue.append((bytes(buf[start:end]), source, source_port))
            self._bytes += end - start

    def ready(self):
        """Tell whether receive() has a datagram."""
        return bool(self._queue)

    def receive(self):
        """Return the oldest (data, address, port), or None."""
        if not self._queue:
            return None
        item = self._queue.pop(0)
        self._bytes -= len(item[0])
        return item

    def send(self, data, address, port):
        """Send one datagram; see Stack.send_udp()."""
        return self.stack.send_udp(self.port, address, port, data)

    def close(self):
        """Give the port back."""
        self.stack.close_udp(self.port)
