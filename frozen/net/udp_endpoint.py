"""A UDP port and the datagrams that wait for its user."""

from micropython import const
from net.errors import EINVAL

# Datagrams beyond either limit are dropped, as UDP may.
_MAX_DATAGRAMS = const(64)
_MAX_BYTES = const(65536)


class Endpoint:
    """One port of a Stack.

    `address`, unless it is 0, is the local address that datagrams must be for and are sent from.
    `remote` (address, port), when set, is the only peer that is heard.
    """

    def __init__(self, stack, port):
        self.stack = stack
        self.port = port
        self.address = 0
        self.remote = None
        # What goes to stack.touched when there is something to receive, see Stack.touch().
        self.waiter = None
        # The errno that the network reported; receive() and send() raise it once.
        self.error = 0
        self._queue = []
        self._bytes = 0

    def datagram(self, buf, start, end, source, source_port, _now):
        """Take a datagram from the stack; it is copied."""
        if self.remote is not None and self.remote != (source, source_port):
            return
        if len(self._queue) < _MAX_DATAGRAMS and self._bytes + end - start <= _MAX_BYTES:
            self._queue.append((bytes(buf[start:end]), source, source_port))
            self._bytes += end - start
            self.stack.touch(self)

    def unreachable(self, remote, remote_port, error, _now):
        """Take an ICMP error about a datagram sent from here (RFC 1122 4.1.3.3).

        Only a connected endpoint gets it: its peer is the one that the next call is about.
        """
        if self.remote == (remote, remote_port):
            self.error = error
            self.stack.touch(self)

    def ready(self):
        """Return whether receive() has a datagram or an error."""
        return bool(self._queue or self.error)

    def _raise_error(self):
        if self.error:
            error, self.error = self.error, 0
            raise OSError(error)

    def receive(self):
        """Return the oldest (data, address, port), or None."""
        if not self._queue:
            self._raise_error()
            return None
        item = self._queue.pop(0)
        self._bytes -= len(item[0])
        return item

    def send(self, data, address, port):
        """Send one datagram; see Stack.send_udp(). OSError EINVAL: `address` cannot be reached."""
        self._raise_error()
        source = self.address or None
        if source is not None and not self.stack.can_send(source, address):
            raise OSError(EINVAL)
        return self.stack.send_udp(self.port, address, port, data, source)

    def close(self):
        """Give the port back."""
        self.stack.close_udp(self.port)
