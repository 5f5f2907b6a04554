"""The deadlines of a connection. What happens when one passes is in `timeouts`."""

from micropython import const
from net.tcp.states import CLOSED
from net.timers import Timed

# What a Timer is set for: at most one of these at a time.
NONE = const(0)
RETRANSMIT = const(1)  # RFC 6298
PERSIST = const(2)  # zero-window probes (RFC 9293 3.8.6.1)
KEEPALIVE = const(3)  # RFC 9293 3.8.4
LINGER = const(4)  # TIME-WAIT, and FIN-WAIT-2 of an orphan
PROBE = const(5)  # a tail loss probe (RFC 8985 7), before RETRANSMIT

# RFC 9293 3.8.4: at least two hours.
_KEEPALIVE_IDLE = const(7200000)
_KEEPALIVE_INTERVAL = const(75000)
_KEEPALIVE_LIMIT = const(9)


class Timer(Timed):
    """The timer of a connection beside that of its delayed acknowledgement. Times in ms.

    Timers, which holds the deadlines of the whole stack, gets the earlier of the two.
    """

    kind = NONE
    at = None
    # When a delayed acknowledgement is due.
    ack_at = None
    # Since when the peer acknowledged nothing of what was sent, and how many times the
    # retransmission timer fired since then.
    progress = 0
    timeouts = 0
    # When text, a SYN or a FIN was last sent.
    last_send = 0

    def __init__(self, connection):
        self._connection = connection
        self._timers = connection.stack.timers

    def set(self, kind, at):
        """Set the timer for one of the kinds above; NONE, None stops it."""
        self.kind = kind
        self.at = at
        ack_at = self.ack_at
        if ack_at is not None and (at is None or ack_at < at):
            at = ack_at
        if at != self.deadline:
            self._timers.set(self, at)

    def schedule(self):
        """Give Timers the earlier of `at` and `ack_at` after either changed."""
        self.set(self.kind, self.at)

    def stop(self):
        """End all timing, and let go of the connection."""
        self.kind = NONE
        self.at = None
        self.ack_at = None
        self._timers.forget(self)
        self._connection = None

    def on_deadline(self, now):
        """Called by Timers."""
        connection = self._connection
        if self.ack_at is not None and self.ack_at <= now:
            self.ack_at = None
            connection.ack_due = True
            connection.stack.mark(connection)
        if self.at is not None and self.at <= now:
            kind = self.kind
            self.kind = NONE
            self.at = None
            connection.on_timer(kind, now)
        if connection.state != CLOSED:
            self.schedule()


class Keepalive:
    """Probes of an idle peer (RFC 9293 3.8.4), and what a user may set of them. Times in ms."""

    idle = _KEEPALIVE_IDLE
    interval = _KEEPALIVE_INTERVAL
    # Probes without an answer before the connection ends.
    limit = _KEEPALIVE_LIMIT

    def __init__(self, now):
        # When the peer was last heard of, and the probes that were sent since then.
        self.heard = now
        self.probes = 0
