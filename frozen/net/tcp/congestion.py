"""Congestion control: RFC 5681's windows, and Westwood+ after a loss.

After a loss RENO halves what is in flight (RFC 5681 3.1, equation 4). WESTWOOD sets the window to
what the path carried lately, the measured rate times the least round-trip time ("Performance
evaluation of Westwood+ TCP congestion control", Grieco and Mascolo, 2004, section 2.1). Where a
full queue made the loss, the result is the same, because round trips were longer then; where
chance did, the window stays. Both grow by bytes acknowledged (RFC 5681 with RFC 3465).
"""

from micropython import const
from net.tcp.round_trip import RTO_MAXIMUM

RENO = const(0)
WESTWOOD = const(1)

# RFC 6928 2
_INITIAL_SEGMENTS = const(10)
_INITIAL_BYTES = const(14600)
_MAXIMUM = const(1 << 30)
# The shortest time that a rate is measured over, ms.
_LEAST_INTERVAL = const(50)


def initial_window(mss):
    """Return the bytes that a new connection may send at once (RFC 6928 2)."""
    return min(_INITIAL_SEGMENTS * mss, max(2 * mss, _INITIAL_BYTES))


class Congestion:
    """The congestion window of a connection, and the path's measured rate.

    Args: algorithm: RENO or WESTWOOD; limit: bytes up to which the window grows.
    """

    # RFC 5681 3.1
    cwnd = 0
    ssthresh = _MAXIMUM
    # Bytes in flight after the last output.
    flight = 0
    # Bytes that the peer has, by acknowledgements and SACK.
    delivered = 0
    # Bytes delivered per 1.024 s, and where its measurement began.
    _rate = 0
    _rate_since = 0
    _rate_delivered = 0
    _least_rtt = RTO_MAXIMUM

    def __init__(self, algorithm, limit):
        self._algorithm = algorithm
        # Growth that the send buffer can never use would only make a burst later.
        self.limit = limit

    def start(self, mss, syn_lost, now):
        """Open the window of a new connection, one segment if the SYN was lost (RFC 5681 3.1)."""
        self.cwnd = mss if syn_lost else initial_window(mss)
        self.ssthresh = _MAXIMUM
        self._rate_since = now

    def grow(self, acked, mss, most):
        """Grow after an acknowledgement of `acked` bytes, of which slow start counts `most`."""
        cwnd = self.cwnd
        if cwnd < self.ssthresh:
            # RFC 5681 3.1 by bytes (RFC 3465 2.2).
            cwnd += acked if acked < most else most
        else:
            # RFC 5681 3.1 (3), by bytes (RFC 3465 2.1).
            cwnd += mss * acked // cwnd or 1
        self.cwnd = cwnd if cwnd < self.limit else self.limit

    def on_loss(self, in_flight, mss):
        """Lower `ssthresh` after a loss with `in_flight` bytes sent; the caller sets `cwnd`."""
        # Acknowledgements that arrived together with the news of the loss do not lower FlightSize.
        in_flight = max(in_flight, self.flight)
        target = in_flight // 2
        if self._algorithm == WESTWOOD and self._rate:
            # At most what was in flight: that much was too much, or never proven.
            target = max(target, min(self._rate * self._least_rtt >> 10, in_flight))
        self.ssthresh = max(target, 2 * mss)

    def on_timeout(self, in_flight, mss, now):
        """Start again from one segment (RFC 5681 3.1, (4) and the paragraph after it)."""
        self.on_loss(in_flight, mss)
        self.cwnd = mss
        # The silence before the timeout says nothing about the path's rate.
        self._rate_since = now
        self._rate_delivered = self.delivered

    def measure_rate(self, rtt, now):
        """Measure the rate over the last round trip, which took `rtt` ms."""
        if rtt < self._least_rtt:
            self._least_rtt = rtt or 1
        elapsed = now - self._rate_since
        if elapsed < _LEAST_INTERVAL or elapsed < rtt:
            return
        sample = (self.delivered - self._rate_delivered << 10) // elapsed
        self._rate_since = now
        self._rate_delivered = self.delivered
        # Westwood+'s low-pass filter, for a falling rate only: slow, so that one lossy round trip
        # counts little. A rising rate is proven and taken at once.
        rate = self._rate
        self._rate = sample if sample > rate else (15 * rate + sample) >> 4
