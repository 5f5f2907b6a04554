"""Loss recovery: what is sent again, and how much may be in flight meanwhile.

With SACK: RFC 6675, lost retransmissions by RFC 8985 6.2, tail loss probes by RFC 8985 7. Without
it: NewReno (RFC 6582). The retransmission timeout itself is in `timeouts`.
"""

from micropython import const
from net.tcp.outbound import retransmit, send_new
from net.tcp.sack import DUP_THRESH, Scoreboard

# RFC 8985 7.2: how long a peer may delay the acknowledgement of a single segment, ms.
_WORST_DELAYED_ACK = const(200)
_LEAST_PROBE_TIMEOUT = const(10)


class Recovery:
    """The state of a connection's recovery; its methods take the connection `c`.

    Args: iss: the connection's initial sequence number.
    """

    # A retransmission was lost in this recovery.
    _lost_again = False
    # Whether the last tail loss probe sent again what had been sent before.
    probe_is_copy = False

    def __init__(self, iss):
        self.active = False
        # `recover` of RFC 6582, RecoveryPoint of RFC 6675: SND.MAX when the recovery began.
        self.point = iss
        # Duplicate acknowledgements in a row (RFC 5681 2).
        self.dup_acks = 0
        # What the peer reported, None unless both sides permit SACK (RFC 2018 2).
        self.board = None
        # SND.MAX after a tail loss probe, None where none is under way.
        self.probe_end = None

    def permit_sack(self):
        """Keep a scoreboard from now on: both sides permit SACK."""
        self.board = Scoreboard()

    def restart(self, c):
        """Leave recovery to send everything from SND.UNA on again, as after a timeout.

        RFC 6582 4: duplicates of what is sent again do not start another recovery.
        """
        self.active = False
        self.point = c.snd_max
        if self.board is not None:
            self.board.clear()

    def _enter(self, c):
        # RFC 6675 5, step 4; RFC 5681 3.2, steps 2 and 3.
        self.active = True
        self.point = c.snd_max
        self.probe_end = None
        una = c.snd_una
        congestion = c.congestion
        congestion.on_loss(c.snd_max - una, c.mss)
        congestion.cwnd = congestion.ssthresh
        end = min(una + c.mss, c.snd_max)
        board = self.board
        if board is None:
            congestion.cwnd += DUP_THRESH * c.mss
        else:
            board.begin_recovery(una)
            self._lost_again = False
            c.snd_nxt = c.snd_max
            if board.ranges and board.ranges[0][0] > una:
                end = min(end, board.ranges[0][0])
            board.note_sent_again(una, end, c.snd_max)
        retransmit(c, una, end)

    def on_duplicate(self, c):
        """Take a duplicate acknowledgement (RFC 5681 2) from a peer without SACK."""
        self.dup_acks += 1
        if self.active:
            # RFC 5681 3.2, step 4
            c.congestion.cwnd += c.mss
        elif self.dup_acks == DUP_THRESH and c.snd_una > self.point:
            # RFC 6582 3.2, step 2: not for duplicates of what a timeout sent again.
            self._enter(c)

    def on_sack(self, c, new):
        """Take an acknowledgement with SACK blocks that report `new` bytes for the first time."""
        board = self.board
        if self.active:
            if board.find_lost_again(c.snd_una, c.mss) and not self._lost_again:
                # RFC 5681 4.3: a lost retransmission is a second sign of congestion.
                self._lost_again = True
                congestion = c.congestion
                congestion.on_loss(c.snd_max - c.snd_una, c.mss)
                congestion.cwnd = min(congestion.cwnd, congestion.ssthresh)
            return
        if new:
            self.dup_acks += 1
        # RFC 6675 5, steps 1 and 2, and 5.1: not again before RecoveryPoint.
        if c.snd_una >= self.point and (
            self.dup_acks >= DUP_THRESH or board.is_first_lost(c.snd_una, c.mss)
        ):
            self._enter(c)

    def on_acknowledged(self, c, ack, acked):
        """Take an acknowledgement of new data, `acked` bytes up to `ack`, in recovery."""
        mss = c.mss
        congestion = c.congestion
        if ack >= self.point:
            self.active = False
            self.dup_acks = 0
            if self.board is not None:
                self.board.end_recovery()
            else:
                # RFC 6582 3.2, step 3, full acknowledgement.
                congestion.cwnd = min(congestion.ssthresh, max(c.snd_max - ack, mss) + mss)
        elif self.board is None:
            # RFC 6582 3.2, step 3, partial acknowledgement: the next hole, and a deflated window.
            congestion.cwnd = max(congestion.cwnd - acked, mss) + (mss if acked >= mss else 0)
            retransmit(c, ack, min(ack + mss, c.snd_max))

    def output(self, c, now):
        """Send what RFC 6675 5, step C, allows; False while the link is full."""
        board = self.board
        mss = c.mss
        una = c.snd_una
        below = board.lost_below(mss)
        pipe = board.pipe(una, c.snd_max, below)
        while c.congestion.cwnd - pipe >= mss:
            # RFC 6675 4, NextSeg(): (1) what is lost, (2) what is new, (3) what may be lost.
            hole = board.next_hole(una, below, mss)
            if hole is None:
                sent = send_new(c, now)
                if sent is None:
                    return False
                if sent:
                    pipe += sent
                    continue
                hole = board.next_hole(una, board.highest(), mss)
            if hole is None:
                # (4), once in a recovery: the last segment, if nothing above it was reported.
                start = max(board.highest(), una, c.snd_max - mss)
                if board.rescue is None and start < c.snd_max and start >= board.high_rxt:
                    board.rescue = self.point
                    return retransmit(c, start, c.snd_max)
                return True
            start, end = hole
            if not retransmit(c, start, end):
                return False
            board.note_sent_again(start, end, c.snd_max)
            pipe += end - start
        return True

    def probe_timeout(self, c):
        """Return the ms without an acknowledgement before a tail loss probe (RFC 8985 7.2).

        0 for no probe: no SACK, a recovery or a probe under way, or no round-trip time known.
        """
        if self.board is None or self.active or self.probe_end is not None:
            return 0
        rtt = c.rtt
        timeout = rtt.srtt8
        if timeout is None:
            return 0
        timeout >>= 2
        if timeout < _LEAST_PROBE_TIMEOUT:
            timeout = _LEAST_PROBE_TIMEOUT
        if c.snd_max - c.snd_una <= c.mss:
            timeout += _WORST_DELAYED_ACK
        return timeout if timeout < rtt.rto else 0

    def probe(self, c, now):
        """Send a tail loss probe (RFC 8985 7.3): new data if possible, else the last segment."""
        self.probe_is_copy = False
        if not send_new(c, now):
            self.probe_is_copy = True
            retransmit(c, max(c.snd_una, c.snd_max - c.mss), c.snd_max)
        self.probe_end = c.snd_max

    def on_probe_acknowledged(self, c):
        """Take the acknowledgement of a probe, or of what it stood in for."""
        self.probe_end = None
        if self.probe_is_copy:
            # RFC 8985 7.4.2: the probe repaired a loss, which is a sign of congestion.
            congestion = c.congestion
            congestion.on_loss(c.snd_max - c.snd_una, c.mss)
            congestion.cwnd = congestion.ssthresh
            self.point = c.snd_max
