"""Segments that arrive at a connection (RFC 9293 3.10.7).

Functions take the Connection `c`. Clauses without a document are of RFC 9293.
"""

from micropython import const
from net import buffers
from net.errors import ECONNREFUSED, ECONNRESET
from net.tcp.outbound import advertise, send_ack, start_timer, transmit
from net.tcp.reassembly import Reassembly
from net.tcp.round_trip import RTO_MAXIMUM
from net.tcp.sequence import HALF, MASK, unwrap
from net.tcp.states import (
    CLOSE_WAIT,
    CLOSED,
    CLOSING,
    ESTABLISHED,
    FIN_WAIT_1,
    FIN_WAIT_2,
    LAST_ACK,
    SYN_RECEIVED,
    SYN_SENT,
    TIME_WAIT,
)
from net.tcp.timer import LINGER, NONE, PERSIST, RETRANSMIT
from net.tcp.timestamps import Timestamps
from net.tcp.wire import ACK, FIN, PSH, RST, SYN, TIMESTAMPS_LENGTH

# Milliseconds.
_DELAYED_ACK = const(40)  # 3.8.6.3: below 500
TIME_WAIT_TIME = const(60000)  # 3.6.1: twice the MSL, which is 30 s here
_CHALLENGE_INTERVAL = const(500)  # RFC 5961 (7)

# Segments that one acknowledgement stands for at most, sent or received (RFC 5681 4.2 speaks of
# "stretch ACKs"): segments that the card delivers together are acknowledged together.
_STRETCH = const(8)
# A peer may not make segments so small that headers are all that is sent.
_MINIMUM_MSS = const(64)


def segment_arrives(c, seq, ack, flags, window, options, buf, start, end, now):
    """Take a segment.

    Args: seq, ack, window: as on the wire; options: wire.parse_syn_options() of a SYN,
    wire.parse_options() of another segment that has options, or None; buf, start, end: the payload
    is buf[start:end], and is copied if it is kept; now: in ms.
    """
    plain = c.state == ESTABLISHED and flags & ~PSH == ACK
    if c.waiter is not None and (end > start or c.awaits_room or not plain):
        c.stack.touch(c)
    rcv_nxt = c.rcv_nxt
    if (
        plain
        and (seq - rcv_nxt) & MASK == 0
        and _take_expected(c, ack, window, options, buf, start, end, now)
    ):
        return
    if c.state == SYN_SENT:
        _in_syn_sent(c, seq, ack, flags, window, options, now)
        return
    seq = unwrap(seq, rcv_nxt)
    length = end - start
    if c.state == SYN_RECEIVED and seq == c.irs and flags & (SYN | ACK) == SYN | ACK:
        # 3.5, figure 8: both sides opened, and the peer's SYN comes again with its ACK.
        seq += 1
        flags &= ~SYN
        # The echo of a SYN is not looked at: one from the future gives no sample.
        options = (options[3], now + c.clock_offset + 1, ())

    stamp = None
    if c.timestamps is not None and not flags & RST:
        # RFC 7323 3.2: a segment without the option is passed over.
        if options is None:
            return
        stamp = options[3 if flags & SYN else 0]
        if stamp is None:
            return
        if c.timestamps.is_old(stamp, now):
            _on_unacceptable(c, seq, flags, length, now)
            return

    # First, the sequence number (3.10.7.4). The table's tests say: part of the segment is in the
    # window. What starts exactly at RCV.NXT passes with a closed window too, for its ACK; its data
    # is cut off below.
    extent = length + (1 if flags & SYN else 0) + (1 if flags & FIN else 0)
    if seq != rcv_nxt and not (
        rcv_nxt <= seq < c.rcv_adv if extent == 0 else seq < c.rcv_adv and seq + extent > rcv_nxt
    ):
        _on_unacceptable(c, seq, flags, length, now)
        return

    # Second, RST. RFC 5961 3.2: only the exact number resets, others are asked to prove it.
    if flags & RST:
        if seq == rcv_nxt:
            _on_reset(c)
        else:
            _challenge(c, now)
        return

    if stamp is not None:
        c.timestamps.take(stamp, seq, now)

    # Fourth, SYN. RFC 5961 4.2: answer by a challenge in any synchronized state.
    if flags & SYN:
        _challenge(c, now)
        return

    # Fifth, ACK.
    if flags & ACK:
        _on_synchronized(c, seq, ack, flags, window, options, buf, start, end, now)


def _on_synchronized(c, seq, ack, flags, window, options, buf, start, end, now):
    """Take an acceptable segment with an ACK, from its ACK on (3.10.7.4, fifth to eighth)."""
    ack = unwrap(ack, c.snd_una)
    send_window = c.window
    if c.state == SYN_RECEIVED:
        if not c.snd_una < ack <= c.snd_max:
            transmit(c, ack, RST, 0)
            return
        c.establish(now)
        send_window.update(window << send_window.shift, seq, ack)
        if c.state != ESTABLISHED:
            return
    # RFC 5961 5.2: neither of something not sent, nor older than any window.
    if ack > c.snd_max or ack < c.snd_una - send_window.largest:
        _challenge(c, now)
        return
    keepalive = c.keepalive
    if keepalive is not None:
        keepalive.heard = now
        keepalive.probes = 0
    extent = end - start + (1 if flags & FIN else 0)
    _on_ack(c, seq, ack, window << send_window.shift, extent, options, now)
    if c.state in (CLOSED, TIME_WAIT):
        return
    if extent:
        _on_text(c, seq, flags & FIN, buf, start, end, now)
    c.stack.mark(c)


def _take_expected(c, ack, window, options, buf, start, end, now):
    """Take the next plain segment of a connection to which nothing unusual happened.

    Does what the rest of segment_arrives() would, with fewer questions: most segments are of this
    kind. Returns whether the segment was one.
    """
    una = c.snd_una
    length = end - start
    acked = (ack - una) & MASK
    rcv_nxt = c.rcv_nxt
    recovery = c.recovery
    if (
        una + acked > c.snd_max
        or not (acked or length)
        or c.rcv_fin is not None
        or c.reassembly is not None
        or recovery.active
        or recovery.dup_acks
        or recovery.probe_end is not None
        or c.orphan_since is not None
        or c.timer.kind == PERSIST
        or una == c.iss
        or rcv_nxt + length > c.rcv_adv
    ):
        return False
    stamps = c.timestamps
    if stamps is not None:
        if options is None or options[0] is None or options[2]:
            return False
        # RFC 7323 5.3, R1 and R3
        stamp = options[0]
        if (stamp - stamps.recent) & MASK >= HALF:
            return False
        if rcv_nxt <= stamps.last_ack:
            stamps.recent = stamp
            stamps.recent_at = now
    elif options is not None and options[2]:
        return False
    if length:
        ring = c.rcv_ring
        if ring is None:
            ring = c.rcv_ring = c.stack.receive_pool.take()
            if ring is None:
                return False
        buffers.write(ring, rcv_nxt, buf, start, length)
        c.rcv_nxt = rcv_nxt + length
    keepalive = c.keepalive
    if keepalive is not None:
        keepalive.heard = now
        keepalive.probes = 0
    if acked:
        _acknowledge(c, una + acked, now, options)
    send_window = c.window
    send_window.size = window = window << send_window.shift
    send_window.wl1 = rcv_nxt
    send_window.wl2 = una + acked
    if window > send_window.largest:
        send_window.largest = window
    if length:
        _count_text(c, length, now)
    if c.ack_due or c.ack_count >= 2 or c.snd_nxt < c.snd_end or c.snd_fin:
        c.stack.mark(c)
    else:
        c.congestion.flight = c.snd_max - c.snd_una
    return True


def _count_text(c, length, now):
    """Acknowledge text that arrived in order, now or later (3.8.6.3)."""
    # The link may have made one of several segments.
    c.ack_count += 1 if length <= c.local_mss else length // c.mss
    if c.ack_count >= _STRETCH:
        send_ack(c)
    elif c.timer.ack_at is None:
        c.timer.ack_at = now + _DELAYED_ACK
        c.timer.schedule()


def _in_syn_sent(c, seq, ack, flags, window, options, now):
    # 3.10.7.3
    acceptable = False
    if flags & ACK:
        ack = unwrap(ack, c.snd_una)
        if not c.iss < ack <= c.snd_max:
            if not flags & RST:
                transmit(c, ack, RST, 0)
            return
        acceptable = True
    if flags & RST:
        if acceptable:
            c.end(ECONNREFUSED)
        return
    if not flags & SYN:
        return
    take_syn(c, seq, options)
    if acceptable:
        c.establish(now)
        _on_ack_of_syn(c, ack, now, None)
        c.ack_due = True
    else:
        # Both sides opened: the SYN goes out again, now with an ACK.
        c.state = SYN_RECEIVED
        c.snd_nxt = c.iss
    c.window.update(window, seq, c.snd_una)
    c.stack.mark(c)


def take_syn(c, seq, options):
    """Take the peer's SYN with number `seq`; options: its wire.parse_syn_options()."""
    mss, shift, sack, stamp = options
    stack = c.stack
    c.irs = seq
    c.rcv_nxt = c.rcv_user = c.rcv_adv = seq + 1
    if c.state == SYN_SENT:
        # What our own SYN advertised.
        c.rcv_adv += advertise(c, SYN)
    # 3.7.1: what the peer offers and the link takes, whichever is less.
    c.mss = max(min(mss, c.local_mss), _MINIMUM_MSS)
    # RFC 7323 3.2 and RFC 2018 2: used where both sides offer it.
    if stamp is not None and stack.timestamps:
        c.timestamps = Timestamps(stamp, stack.now, seq)
        c.add_timestamps_to_header()
        # RFC 6691 3.1: options come out of the segment.
        c.mss -= TIMESTAMPS_LENGTH
    if sack and stack.sack:
        c.recovery.permit_sack()
    # RFC 7323 2.2: windows are scaled only where both sides offer it.
    if shift is None:
        c.window.shift = 0
        c.rcv_shift = None
    else:
        c.window.shift = shift
        c.rcv_shift = stack.receive_pool.window_shift()


def _on_ack_of_syn(c, ack, now, options):
    _measure(c, ack, now, options)
    c.snd_una = ack
    c.snd_nxt = max(c.snd_nxt, ack)
    timer = c.timer
    if timer.timeouts:
        c.rtt.after_lost_syn()
        timer.timeouts = 0
    timer.progress = now
    timer.set(NONE, None)
    c.await_idle(now)


def _on_unacceptable(c, seq, flags, length, now):
    if flags & RST:
        return
    if c.state == SYN_RECEIVED and flags & SYN and seq == c.irs:
        # The peer did not get the SYN with our ACK; do not wait for the timer.
        c.snd_nxt = c.iss
        c.stack.mark(c)
        return
    if c.state == TIME_WAIT and flags & FIN:
        # 3.10.7.4: acknowledge the repeated FIN and start the 2 MSL anew.
        c.timer.set(LINGER, now + TIME_WAIT_TIME)
    if length and seq < c.rcv_nxt and c.recovery.board is not None:
        # RFC 2883 4
        if c.reassembly is None:
            c.reassembly = Reassembly()
        c.reassembly.duplicate = (seq, min(seq + length, c.rcv_nxt))
    if length or flags & FIN:
        send_ack(c)
    else:
        # Answers to empty segments can go on forever between two confused peers.
        _challenge(c, now)


def _on_reset(c):
    state = c.state
    if state == SYN_RECEIVED:
        c.end(ECONNREFUSED)
    elif state in (CLOSING, LAST_ACK, TIME_WAIT):
        # 3.10.7.4, second. RFC 1337 3 would have TIME-WAIT ignore it. But a peer that opens anew
        # from the same port answers our acknowledgement of its SYN this way (3.10.7.3), and would
        # be kept out for a minute. Linux does the same (tcp_rfc1337).
        c.end(0)
    else:
        c.end(ECONNRESET)


def _challenge(c, now):
    # RFC 5961 7: a bounded rate, counted per connection so that it shows nothing of others.
    if now >= c.challenge_at:
        c.challenge_at = now + _CHALLENGE_INTERVAL
        send_ack(c)


def _on_ack(c, seq, ack, window, extent, options, now):
    una = c.snd_una
    recovery = c.recovery
    new = None
    if recovery.board is not None and options is not None and options[2]:
        new = _on_sack(c, ack, options[2])
    if ack > una:
        if una == c.iss:
            _on_ack_of_syn(c, ack, now, options)
            una = c.iss + 1
        if ack > una:
            _acknowledge(c, ack, now, options)
    elif (
        # RFC 5681 2: what a duplicate acknowledgement is.
        ack == una
        and recovery.board is None
        and extent == 0
        and c.snd_max > una
        and window == c.window.size
        and c.timer.kind == RETRANSMIT
    ):
        recovery.on_duplicate(c)
    if new is not None and c.snd_una < c.snd_max:
        recovery.on_sack(c, new)
    if ack >= una:
        c.window.update(window, seq, ack)
        if c.timer.kind == PERSIST:
            # The peer answers its probes, so it lives (3.8.6.1).
            c.timer.progress = now
            if c.window.size:
                c.timer.set(NONE, None)
                c.rtt.end_backoff()


def _on_sack(c, ack, blocks):
    """Note SACK blocks; return how many bytes they report for the first time."""
    una = c.snd_una
    unwrapped = []
    for start, end in blocks:
        length = (end - start) & MASK
        start = unwrap(start, una)
        unwrapped.append((start, start + length))
    recovery = c.recovery
    if recovery.probe_end is not None and unwrapped[0][0] < ack:
        # RFC 8985 7.4.2, by RFC 2883: the probe was not needed.
        recovery.probe_is_copy = False
    new = recovery.board.update(unwrapped, max(ack, una), c.snd_max)
    c.congestion.delivered += new
    return new


def _acknowledge(c, ack, now, options):
    """Take an acknowledgement of new data up to `ack`."""
    acked = ack - c.snd_una
    c.snd_una = ack
    congestion = c.congestion
    recovery = c.recovery
    board = recovery.board
    congestion.delivered += acked
    if board is not None and board.ranges:
        congestion.delivered -= board.acknowledge(ack)
    end = c.rtt.timed_end
    if end is None or ack >= end:
        _measure(c, ack, now, options)
    if c.snd_nxt < ack:
        c.snd_nxt = ack
    timer = c.timer
    timer.progress = now
    timer.timeouts = 0
    mss = c.mss
    if acked >= mss:
        c.large_arrived = True
    if recovery.active:
        recovery.on_acknowledged(c, ack, acked)
    else:
        recovery.dup_acks = 0
        if congestion.cwnd != congestion.limit:
            # Peers acknowledge several segments at a time. After a timeout an ACK covers what had
            # arrived before, and counts for one segment (RFC 3465 2.3).
            congestion.grow(acked, mss, mss if ack <= recovery.point else _STRETCH * mss)
    if recovery.probe_end is not None and ack >= recovery.probe_end:
        recovery.on_probe_acknowledged(c)

    if ack == c.snd_max:
        # RFC 6298 (5.2)
        timer.kind = NONE
        timer.at = None
        if c.keepalive is not None:
            c.await_idle(now)
        if timer.deadline != timer.ack_at:
            timer.schedule()
        if c.snd_end <= ack and c.snd_ring is not None:
            c.stack.send_pool.give(c.snd_ring)
            c.snd_ring = None
    else:
        # RFC 6298 (5.3); in recovery too, the slow but steady variant of RFC 6582 4: the least
        # retransmission time is long here beside most round-trip times.
        start_timer(c, now)

    # 3.10.7.4, fifth: our FIN is acknowledged.
    if c.snd_fin and ack > c.snd_end:
        if c.state == FIN_WAIT_1:
            c.enter_fin_wait_2(now)
        elif c.state == CLOSING:
            c.enter_time_wait(now)
        elif c.state == LAST_ACK:
            c.end(0)


def _measure(c, ack, now, options):
    rtt = c.rtt
    if c.timestamps is not None and options is not None:
        # RFC 7323 4: the echo says when the segment left, of retransmissions too. One sample a
        # round trip keeps RFC 6298's averages as they are meant (RFC 7323 4.3).
        if rtt.timed_end is not None and ack < rtt.timed_end:
            return
        rtt.timed_end = c.snd_max
        sample = (now + c.clock_offset - options[1]) & MASK
        if sample > RTO_MAXIMUM:
            return
    else:
        if rtt.timed_end is None or ack < rtt.timed_end:
            return
        rtt.timed_end = None
        sample = now - rtt.timed_since
    c.congestion.measure_rate(sample, now)
    rtt.sample(sample)


def _on_text(c, seq, fin, buf, start, end, now):
    if c.state not in (ESTABLISHED, FIN_WAIT_1, FIN_WAIT_2):
        # The peer's FIN is behind: what comes after it is not text (3.10.7.4, seventh).
        c.ack_due = True
        return
    rcv_nxt = c.rcv_nxt
    if fin:
        fin_at = seq + end - start
        newest = rcv_nxt
        if c.reassembly is not None and c.reassembly.ranges:
            newest = c.reassembly.ranges[-1][1]
        if c.rcv_fin is None and newest <= fin_at <= c.rcv_adv:
            c.rcv_fin = fin_at

    # 3.10.7.4, first: cut to the window.
    if seq < rcv_nxt:
        start += rcv_nxt - seq
        seq = rcv_nxt
    limit = c.rcv_adv if c.rcv_fin is None else min(c.rcv_adv, c.rcv_fin)
    if seq + end - start > limit:
        end = start + limit - seq
    length = end - start
    if length > 0:
        if c.orphan_since is not None:
            _discard(c, seq, length)
            if c.state == CLOSED:
                return
        elif not _store(c, seq, buf, start, length):
            return
        if seq > rcv_nxt:
            # RFC 5681 4.2: report a gap at once, once for each segment.
            if c.recovery.board is not None and c.reassembly is not None:
                c.reassembly.note_recent(seq)
            send_ack(c)
        elif c.rcv_nxt > seq + length or (c.reassembly is not None and c.reassembly.ranges):
            # RFC 5681 4.2: a gap was filled, in part at least.
            c.ack_due = True
        else:
            _count_text(c, length, now)
    elif not fin:
        # Beyond a closed window: a probe, which gets the window as an answer (3.8.6.1).
        c.ack_due = True
    if fin:
        c.ack_due = True
    if c.rcv_fin is not None and c.rcv_nxt == c.rcv_fin:
        _on_fin(c, now)


def _store(c, seq, buf, start, length):
    """Keep text for the user; False where there is no memory for it now."""
    ring = c.rcv_ring
    if ring is None:
        ring = c.rcv_ring = c.stack.receive_pool.take()
        if ring is None:
            return False
    end = seq + length
    reassembly = c.reassembly
    if seq == c.rcv_nxt:
        if reassembly is None:
            c.rcv_nxt = end
        else:
            c.rcv_nxt = reassembly.take_next(end)
            if reassembly.is_empty():
                c.reassembly = None
    else:
        if reassembly is None:
            reassembly = c.reassembly = Reassembly()
        if not reassembly.add(seq, end):
            if not reassembly.has(seq):
                # One range too many; the peer sends it again.
                return True
            if c.recovery.board is not None:
                reassembly.duplicate = (seq, end)
    buffers.write(ring, seq, buf, start, length)
    return True


def _discard(c, seq, length):
    # Text for a closed socket (RFC 1122 4.2.2.13).
    if c.state == FIN_WAIT_2:
        c.abort()
        return
    c.text_lost = True
    if seq == c.rcv_nxt:
        c.rcv_nxt = c.rcv_user = seq + length


def _on_fin(c, now):
    # 3.10.7.4, eighth
    c.rcv_nxt += 1
    c.ack_due = True
    if c.state == ESTABLISHED:
        c.state = CLOSE_WAIT
    elif c.state == FIN_WAIT_1:
        # Our FIN is not acknowledged, or the state would be FIN-WAIT-2.
        c.state = CLOSING
    elif c.state == FIN_WAIT_2:
        c.enter_time_wait(now)
