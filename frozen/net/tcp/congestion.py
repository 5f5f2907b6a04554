"""How much a TCP connection may have in flight: RFC 5681's windows, and Westwood+ after a loss.

RENO halves what is in flight at each loss (RFC 5681 3.1, equation 4). WESTWOOD goes down to what
the path carried lately, the measured rate times the least round trip time ("Performance
evaluation of Westwood+ TCP congestion control", Grieco and Mascolo, 2004, section 2.1): the same
where a full queue made the loss, for the round trips were longer then, but a loss that was chance
costs nothing. Both grow as RFC 5681 has it, by bytes (RFC 3465).
"""

from micropython import const

RENO = const(0)
WESTWOOD = const(1)

# RFC 6928 2
_INITIAL_SEGMENTS = const(10)
_INITIAL_BYTES = const(14600)
# The least time that a rate is measured over, ms.
_LEAST_INTERVAL = const(50)


def initial_window(mss):
    """Return the bytes that a new connection may send at once (RFC 6928 2)."""
    return min(_INITIAL_SEGMENTS * mss, max(2 * mss, _INITIAL_BYTES))


def on_congestion(c):
    """Lower `ssthresh` after a loss; the caller sets `cwnd`."""
    least = 2 * c.mss
    # Acknowledgements in one batch with the news of the loss do not make FlightSize less.
    in_flight = max(c.snd_max - c.snd_una, c.flight)
    half = in_flight // 2
    if c.stack.congestion == WESTWOOD and c.rate:
        # Never above what was in flight: the window was proven too large, or not proven at all.
        half = max(half, min(c.rate * c.rtt_least >> 10, in_flight))
    c.ssthresh = max(half, least)


def measure_rate(c, rtt, now):
    """Take a round trip time, which comes once a round trip: measure the rate over the last."""
    if rtt < c.rtt_least:
        c.rtt_least = max(rtt, 1)
    elapsed = now - c.rate_time
    if elapsed < _LEAST_INTERVAL or elapsed < rtt:
        return
    sample = (c.delivered - c.rate_delivered << 10) // elapsed
    c.rate_time = now
    c.rate_delivered = c.delivered
    # Westwood+'s low pass filter for a rate that falls, slow as the loss of a single
    # round trip should be; one that rises is proven.
    c.rate = max(sample, (15 * c.rate + sample) >> 4)
