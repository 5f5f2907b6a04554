"""The timestamps that a peer sends (RFC 7323 3 to 5)."""

from micropython import const
from net.tcp.sequence import is_later

# 5.5: after 24 days without a segment, TS.Recent is invalid.
_LIFETIME = const(24 * 24 * 3600 * 1000)


class Timestamps:
    """RFC 7323's variables of a connection on which both sides send timestamps.

    Args: recent: the TSval of the peer's SYN; now: when it came, ms; last_ack: its number.
    """

    def __init__(self, recent, now, last_ack):
        # TS.Recent, and when it came.
        self.recent = recent
        self.recent_at = now
        # Last.ACK.sent
        self.last_ack = last_ack

    def is_old(self, value, now):
        """Return whether a segment with this TSval is an old duplicate (5.3, R1: PAWS)."""
        return is_later(self.recent, value) and now - self.recent_at < _LIFETIME

    def take(self, value, seq, now):
        """Update TS.Recent from an acceptable segment that starts at `seq` (5.3, R3)."""
        if seq <= self.last_ack:
            self.recent = value
            self.recent_at = now
