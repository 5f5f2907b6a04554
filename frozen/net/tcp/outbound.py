"""Segments that leave a connection: what may be sent now (RFC 9293 3.7.4, 3.8.6), and emitting it.

Functions take the Connection `c`. Clauses without a document are of RFC 9293. Headers lie at
offsets in a frame that its family fixes: no IP header has options.
"""

import _netbuf
from micropython import const
from net import buffers
from net.tcp import wire
from net.tcp.sequence import MASK
from net.tcp.states import CLOSED, SYN_RECEIVED, SYN_SENT
from net.tcp.timer import KEEPALIVE, NONE, PERSIST, PROBE, RETRANSMIT
from net.tcp.wire import ACK, FIN, PSH, RST, SYN

_IP = const(14)  # where the IP header starts in a frame

# RFC 5681 4.1 with RFC 6928: segments that may be sent at once after an idle time.
_RESTART_SEGMENTS = const(10)
# RFC 3042: new segments that the first duplicate acknowledgements let out.
_LIMITED_TRANSMIT = const(2)


def output(c, now):
    """Send what may be sent now. False: the link is full, call again soon."""
    state = c.state
    if state == CLOSED:
        return True
    if state <= SYN_RECEIVED:
        return c.snd_nxt > c.iss or _output_syn(c, now)
    recovery = c.recovery
    board = recovery.board
    if board is not None and recovery.active:
        return recovery.output(c, now) and _output_rest(c, now)
    mss = c.mss
    congestion = c.congestion
    if c.snd_una == c.snd_max and now - c.timer.last_send > c.rtt.rto:
        # RFC 5681 4.1: after an idle time the acknowledgements' clock is gone.
        congestion.cwnd = min(congestion.cwnd, _RESTART_SEGMENTS * mss)
    ranges = board.ranges if board is not None else None
    window = c.window
    while True:
        gap = mss
        if ranges and c.snd_nxt < c.snd_max:
            # RFC 6675 5.1: after a timeout, what arrived is not sent again.
            c.snd_nxt, start = board.skip(c.snd_nxt)
            if start:
                gap = min(mss, start - c.snd_nxt)
        snd_nxt = c.snd_nxt
        left = c.snd_end - snd_nxt
        fin = c.snd_fin and left >= 0
        if left <= 0 and not fin:
            break
        in_flight = snd_nxt - c.snd_una
        room = congestion.cwnd - in_flight
        if ranges:
            # RFC 6675 5.1, RFC 3042: what arrived is not in flight.
            room += board.sacked_below(snd_nxt)
        elif recovery.dup_acks and not recovery.active:
            room += min(recovery.dup_acks, _LIMITED_TRANSMIT) * mss
        room = min(room, window.size - in_flight)
        length = min(left, room, gap)
        if length < 0 or room < 1:
            break
        if length < left or room == length:
            # The FIN follows the last byte, and takes a number of the window.
            fin = False
            if length == 0:
                break
        # 3.8.6.2.1, sender's silly window avoidance, with 3.7.4, Nagle.
        if not (
            length == mss
            or fin
            or snd_nxt < c.snd_max
            or (length == left and (c.nodelay or in_flight == 0))
            or (length < left and 2 * length >= window.largest)
        ):
            break
        if length == mss and c.large and snd_nxt == c.snd_max:
            size = min(left, room, c.large)
            if size < left or not c.nodelay:
                # Whole segments. The rest of all text may go with them, unless Nagle holds it.
                size -= size % mss
            if size > length and _transmit_large(
                c, snd_nxt, ACK | PSH if size == left else ACK, size
            ):
                _sent(c, size, now)
                continue
        flags = ACK | PSH if length == left else ACK
        if fin:
            flags |= FIN
        if not transmit(c, snd_nxt, flags, length):
            return False
        _sent(c, length + (1 if fin else 0), now)

    congestion.flight = c.snd_max - c.snd_una
    return _output_rest(c, now)


def _output_rest(c, now):
    # 3.8.6.3: every second segment is acknowledged without delay, or all of a batch at once.
    if (c.ack_due or c.ack_count >= 2) and not send_ack(c):
        return False
    if (
        c.snd_una == c.snd_nxt
        and (c.snd_nxt < c.snd_end or (c.snd_fin and c.snd_nxt == c.snd_end))
        and c.timer.kind in (NONE, KEEPALIVE)
    ):
        # 3.8.6.1: data waits, nothing is in flight: only the window can hold it.
        c.timer.progress = now
        c.timer.set(PERSIST, now + c.rtt.rto)
    return True


def send_new(c, now):
    """Send one segment of new data, whatever the congestion window.

    Returns how many sequence numbers it took, 0 where there is nothing to send or no window,
    None while the link is full.
    """
    left = c.snd_end - c.snd_max
    room = c.snd_una + c.window.size - c.snd_max
    length = min(left, room, c.mss)
    fin = c.snd_fin and length == left < room
    if length < 0 or not (fin or (length and (length == c.mss or (length == left and c.nodelay)))):
        return 0
    flags = ACK | PSH if length == left else ACK
    if fin:
        flags |= FIN
    if not transmit(c, c.snd_max, flags, length):
        return None
    c.snd_nxt = c.snd_max
    length += 1 if fin else 0
    _sent(c, length, now)
    return length


def retransmit(c, start, end):
    """Send [start, end) again, which may hold the FIN; False where the link is full."""
    # Karn: a segment that was sent twice gives no round-trip time (RFC 6298 3).
    c.rtt.timed_end = None
    flags = ACK
    if end > c.snd_end:
        flags |= FIN
        end = c.snd_end
    return transmit(c, start, flags, end - start)


def send_ack(c):
    """Acknowledge at once what arrived; False where the link is full."""
    # The peer would pass over a segment with a number beyond its window (3.10.7.4).
    edge = c.snd_una + c.window.size
    return transmit(c, c.snd_max if c.snd_max < edge else edge, ACK, 0)


def send_reset(c):
    """Send a reset: the connection is gone."""
    transmit(c, c.snd_max, RST | ACK, 0)


def start_timer(c, now):
    """Start the timer of what is in flight: a tail loss probe's or the retransmission timer."""
    timeout = c.recovery.probe_timeout(c)
    if timeout:
        c.timer.set(PROBE, now + timeout)
    else:
        c.timer.set(RETRANSMIT, now + c.rtt.rto)


def _output_syn(c, now):
    stamps = None
    if c.state == SYN_SENT:
        flags = SYN
        sack = c.stack.sack
        if c.stack.timestamps:
            stamps = ((now + c.clock_offset) & MASK, 0)
    else:
        flags = SYN | ACK
        sack = c.recovery.board is not None
        if c.timestamps is not None:
            stamps = ((now + c.clock_offset) & MASK, c.timestamps.recent)
    options = wire.emit_syn_options(c.local_mss, c.rcv_shift, sack, stamps)
    if not transmit(c, c.iss, flags, 0, options):
        return False
    _sent(c, 1, now)
    return True


def _sent(c, extent, now):
    """Account for `extent` sequence numbers sent at snd_nxt."""
    timer = c.timer
    snd_max = c.snd_max
    c.snd_nxt = snd_nxt = c.snd_nxt + extent
    if snd_nxt > snd_max:
        # Karn's algorithm (RFC 6298 3): only what is sent for the first time is timed.
        rtt = c.rtt
        if rtt.timed_end is None and snd_nxt - extent == snd_max:
            rtt.timed_end = snd_nxt
            rtt.timed_since = now
        if c.snd_una == snd_max:
            timer.progress = now
        c.snd_max = snd_nxt
    timer.last_send = now
    # RFC 6298 (5.1)
    if timer.kind != RETRANSMIT and timer.kind != PROBE:
        start_timer(c, now)


def transmit(c, seq, flags, length, options=b""):
    """Emit one segment with `length` queued bytes from `seq`; False where the link is full.

    Args: options: those of a SYN.
    """
    stack = c.stack
    frame = stack.begin(c.remote)
    if frame is None:
        return False
    if length == 0 and (options or (c.reassembly is not None and c.recovery.board is not None)):
        stack.commit(_emit_options(c, frame, seq, flags, options))
        return True
    stamps = c.timestamps
    ack = ring = at = 0
    if flags & ACK:
        ack = c.rcv_nxt
        if stamps is not None:
            stamps.last_ack = ack
        c.ack_due = False
        c.ack_count = 0
        c.timer.ack_at = None
    if length:
        ring = c.snd_ring
        at = seq & (len(ring) - 1)
    stack.commit(
        _netbuf.emit(
            frame,
            c.header,
            seq,
            ack,
            flags,
            advertise(c, flags),
            stack.now + c.clock_offset,
            stamps.recent if stamps is not None else 0,
            ring,
            at,
            length,
        )
    )
    return True


def _emit_options(c, frame, seq, flags, options):
    """Write a segment without text whose options are its own; return the frame's length.

    Args: options: a SYN's, or none for the SACK option.
    """
    ip = c.family
    header = wire.HEADER
    tcp = _IP + ip.HEADER
    at = tcp + header
    if options:
        frame[at : at + len(options)] = options
        header += len(options)
    else:
        stamps = c.timestamps
        limit = wire.MAX_SACK_BLOCKS
        if stamps is not None:
            limit -= 1
            clock = (c.stack.now + c.clock_offset) & MASK
            wire.emit_timestamps(frame, at, clock, stamps.recent)
            header += wire.TIMESTAMPS_LENGTH
        header += wire.emit_sack(frame, tcp + header, c.reassembly.take_blocks(limit))
        if c.reassembly.is_empty():
            c.reassembly = None
    ack = 0
    if flags & ACK:
        ack = c.rcv_nxt
        _acknowledged(c)
    wire.emit(
        frame,
        tcp,
        c.port,
        c.remote_port,
        seq,
        ack,
        flags,
        advertise(c, flags),
        header,
        0,
        ip.pseudo_header_sum(ip.TCP, c.local, c.remote),
    )
    ip.emit(frame, _IP, ip.TCP, c.local, c.remote, header)
    return tcp + header


def _transmit_large(c, seq, flags, length):
    """Emit several whole segments as one, to be cut up; False where the link cannot now."""
    stack = c.stack
    frame = stack.begin_large(c.remote)
    if frame is None:
        return False
    ip = c.family
    tcp = _IP + ip.HEADER
    header = wire.HEADER
    stamps = c.timestamps
    if stamps is not None:
        clock = (stack.now + c.clock_offset) & MASK
        wire.emit_timestamps(frame, tcp + header, clock, stamps.recent)
        header += wire.TIMESTAMPS_LENGTH
    buffers.read(c.snd_ring, seq, frame, tcp + header, length)
    _acknowledged(c)
    pseudo = ip.pseudo_header_sum(ip.TCP, c.local, c.remote)
    whole = stack.link.whole_headers
    wire.emit_large(
        frame,
        tcp,
        c.port,
        c.remote_port,
        seq,
        c.rcv_nxt,
        flags,
        advertise(c, flags),
        header,
        pseudo + header + length if whole else pseudo,
    )
    if whole:
        ip.emit(frame, _IP, ip.TCP, c.local, c.remote, header + length)
    else:
        ip.emit_large(frame, _IP, ip.TCP, c.local, c.remote)
    stack.commit_large(tcp + header + length, tcp + header, c.mss)
    return True


def _acknowledged(c):
    """Note that a segment with an acknowledgement of all that arrived leaves."""
    if c.timestamps is not None:
        c.timestamps.last_ack = c.rcv_nxt
    c.ack_due = False
    c.ack_count = 0
    c.timer.ack_at = None


def advertise(c, flags):
    """Return the window field of a segment, and move rcv_adv to what it says."""
    size = c.stack.receive_pool.size
    if c.state == SYN_SENT:
        return min(size, 0xFFFF)
    # 3.8.6.2.2: the right edge moves in steps worth a segment, and never back.
    edge = c.rcv_adv
    step = c.rcv_user + size - edge
    if step >= c.local_mss or step >= size // 2:
        edge += step
    # RFC 7323 2.2: the window of a SYN is never scaled.
    shift = 0 if flags & SYN else c.rcv_shift or 0
    rcv_nxt = c.rcv_nxt
    field = (edge - rcv_nxt) >> shift
    if field < 0:
        field = 0
    elif field > 0xFFFF:
        field = 0xFFFF
    edge = rcv_nxt + (field << shift)
    if edge > c.rcv_adv:
        c.rcv_adv = edge
    return field
