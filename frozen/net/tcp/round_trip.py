"""The round-trip estimator and the retransmission timeout that follows from it (RFC 6298)."""

from micropython import const

# Milliseconds.
_RTO_INITIAL = const(1000)  # (2.1)
_RTO_MINIMUM = const(1000)  # (2.4)
RTO_MAXIMUM = const(60000)  # (2.5)
_RTO_AFTER_LOST_SYN = const(3000)  # (5.7)


class RoundTrip:
    """SRTT, RTTVAR and RTO of a connection, and the segment that is being timed. Times in ms.

    `srtt8` is SRTT times 8 and `rttvar4` is RTTVAR times 4, so that integers keep the fractions,
    as in Jacobson and Karels' code.
    """

    rto = _RTO_INITIAL
    # None before the first sample.
    srtt8 = None
    rttvar4 = 0
    # An acknowledgement from this number on gives a sample; None: nothing is timed.
    timed_end = None
    timed_since = 0

    def sample(self, rtt):
        """Take a measured round-trip time."""
        if self.srtt8 is None:
            # (2.2)
            self.srtt8 = rtt * 8
            self.rttvar4 = rtt * 2
        else:
            # (2.3), alpha 1/8, beta 1/4
            srtt = self.srtt8 // 8
            self.rttvar4 += abs(srtt - rtt) - self.rttvar4 // 4
            self.srtt8 += rtt - srtt
        # (2.3) to (2.5); the clock's granularity is 1 ms.
        rto = (self.srtt8 >> 3) + (self.rttvar4 or 1)
        if rto < _RTO_MINIMUM:
            rto = _RTO_MINIMUM
        elif rto > RTO_MAXIMUM:
            rto = RTO_MAXIMUM
        self.rto = rto

    def end_backoff(self):
        """Set RTO from the averages again, as the peer answers."""
        if self.srtt8 is not None:
            rto = (self.srtt8 >> 3) + (self.rttvar4 or 1)
            self.rto = min(max(rto, _RTO_MINIMUM), RTO_MAXIMUM)

    def back_off(self):
        """Double RTO after a timeout (5.5) and time nothing that is sent twice (Karn, 3)."""
        rto = self.rto * 2
        self.rto = rto if rto < RTO_MAXIMUM else RTO_MAXIMUM
        self.timed_end = None

    def after_lost_syn(self):
        """Set RTO where the SYN was lost and the handshake gave no sample (5.7)."""
        self.rto = _RTO_AFTER_LOST_SYN
