"""Loss recovery of a TCP connection: what is sent again, and how much may be in flight meanwhile.

With SACK RFC 6675, lost retransmissions after RFC 8985 6.2, tail loss probes of RFC 8985 7;
without it NewReno (RFC 6582). The timeout itself is in tcp_connection. Functions take the
Connection, whose fields they share: `cwnd ssthresh recover in_recovery dup_acks board`.
"""

from micropython import const
from net.tcp import congestion as tcp_congestion

# RFC 8985 7.2: how long a peer may delay the acknowledgement of a single segment.
_WORST_DELAYED_ACK = const(200)
_LEAST_PROBE = const(10)


def enter(c):
    """Begin to recover from a loss (RFC 6675 5, step 4; RFC 5681 3.2, steps 2 and 3)."""
    c.in_recovery = True
    c.recover = c.snd_max
    c.probe_end = None
    tcp_congestion.on_congestion(c)
    c.cwnd = c.ssthresh
    una = c.snd_una
    if c.sack:
        board = c.board
        board.begin_recovery(una)
        c.lost_twice = False
        c.snd_nxt = c.snd_max
        end = min(una + c.mss, c.snd_max)
        if board.ranges and board.ranges[0][0] > una:
            end = min(end, board.ranges[0][0])
        board.note_sent_again(una, end, c.snd_max)
        c.retransmit(una, end)
    else:
        c.cwnd += 3 * c.mss
        c.retransmit(una, min(una + c.mss, c.snd_max))


def on_duplicate(c):
    """Take a duplicate acknowledgement (RFC 5681 2) of a peer without SACK."""
    c.dup_acks += 1
    if c.in_recovery:
        # RFC 5681 3.2, step 4
        c.cwnd += c.mss
    elif c.dup_acks == 3 and c.snd_una > c.recover:
        # RFC 6582 3.2, step 2: `recover` keeps out duplicates of what a timeout sent again.
        enter(c)


def on_sack(c, new):
    """Take an acknowledgement with SACK blocks, of which `new` bytes were not known."""
    board = c.board
    if c.in_recovery:
        if board.find_lost_again(c.snd_una, c.mss) and not c.lost_twice:
            # RFC 5681 4.3: a lost retransmission is a second sign of congestion.
            c.lost_twice = True
            tcp_congestion.on_congestion(c)
            c.cwnd = min(c.cwnd, c.ssthresh)
        return
    if new:
        c.dup_acks += 1
    # RFC 6675 5, steps 1 and 2, and 5.1: not again before RecoveryPoint.
    if c.snd_una >= c.recover and (
        c.dup_acks >= 3 or board.is_first_lost(c.snd_una, c.mss)
    ):
        enter(c)


def on_acknowledged(c, ack, acked):
    """Take an acknowledgement of new data in recovery; `acked` bytes up to `ack`."""
    mss = c.mss
    if ack >= c.recover:
        c.in_recovery = False
        c.dup_acks = 0
        if c.sack:
            c.board.end_recovery()
        else:
            # RFC 6582 3.2, step 3, full acknowledgement.
            c.cwnd = min(c.ssthresh, max(c.snd_max - ack, mss) + mss)
    elif not c.sack:
        # RFC 6582 3.2, step 3, partial acknowledgement: the next hole, deflated window.
        c.cwnd = max(c.cwnd - acked, mss) + (mss if acked >= mss else 0)
        c.retransmit(ack, min(ack + mss, c.snd_max))


def output(c, now):
    """Send what RFC 6675 5, step C, allows. False: the link is full."""
    board = c.board
    mss = c.mss
    una = c.snd_una
    below = board.lost_below(mss)
    pipe = board.pipe(una, c.snd_max, below)
    while c.cwnd - pipe >= mss:
        # RFC 6675 4, NextSeg(): (1) what is lost, (2) what is new, (3) what may be lost.
        hole = board.next_hole(una, below, mss)
        if hole is None:
            sent = c.output_new(now)
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
                board.rescue = c.recover
                return c.retransmit(start, c.snd_max)
            return True
        start, end = hole
        if not c.retransmit(start, end):
            return False
        board.note_sent_again(start, end, c.snd_max)
        pipe += end - start
    return True


def probe_timeout(c):
    """Return after how many ms without an acknowledgement to probe the tail (RFC 8985 7.2), or 0.

    0 where there is nothing to probe for: no SACK, a recovery or a probe under way, no round trip
    time known.
    """
    if c.sack and not c.in_recovery and c.probe_end is None and c.srtt8 is not None:
        timeout = max(c.srtt8 >> 2, _LEAST_PROBE)
        if c.snd_max - c.snd_una <= c.mss:
            timeout += _WORST_DELAYED_ACK
        if timeout < c.rto:
            return timeout
    return 0


def probe(c, now):
    """Send a tail loss probe (RFC 8985 7.3): new data if there is room, else the last segment."""
    c.probe_again = False
    if not c.output_new(now):
        c.probe_again = True
        c.retransmit(max(c.snd_una, c.snd_max - c.mss), c.snd_max)
    c.probe_end = c.snd_max


def on_probe_acknowledged(c):
    """The probe, or what it stood in for, is acknowledged."""
    c.probe_end = None
    if c.probe_again:
        # RFC 8985 7.4.2: the probe repaired a loss, which was a sign of congestion.
        tcp_congestion.on_congestion(c)
        c.cwnd = c.ssthresh
        c.recover = c.snd_max
