"""One TCP connection: the state machine of RFC 9293, without input or output of its own.

Names are the RFC's in lower case (SND.UNA is snd_una). Clauses without a document are of RFC
9293. Also built in: RFC 6298 (retransmission timer), 5681, 6582 and 6928 (congestion control),
3042 (limited transmit), 7323 section 2 (window scaling), 5961 (blind attacks), 1122.

Sequence numbers are unwrapped: plain integers that start at the initial sequence number and
only grow, and are cut to 32 bits on the wire. A received number is the one of its residue that
is nearest to what was expected, so the rest of the code compares with `<`.

Where a number is sent twice, snd_nxt goes back (go-back-N) and snd_max does not: snd_max is the
SND.NXT that acknowledgements are checked against.
"""

import struct

import _netbuf
from micropython import const
from net import buffers, ipv4
from net.tcp import congestion as tcp_congestion, recovery as tcp_recovery, wire as tcp
from net.tcp.sack import Scoreboard, blocks_to_report
from net.timers import Timed

# 3.3.2
CLOSED = const(0)
SYN_SENT = const(1)
SYN_RECEIVED = const(2)
ESTABLISHED = const(3)
FIN_WAIT_1 = const(4)
FIN_WAIT_2 = const(5)
CLOSE_WAIT = const(6)
CLOSING = const(7)
LAST_ACK = const(8)
TIME_WAIT = const(9)

STATE_NAMES = (
    "CLOSED",
    "SYN-SENT",
    "SYN-RECEIVED",
    "ESTABLISHED",
    "FIN-WAIT-1",
    "FIN-WAIT-2",
    "CLOSE-WAIT",
    "CLOSING",
    "LAST-ACK",
    "TIME-WAIT",
)

# Errors that a user of the connection gets: the numbers of errno.h.
EPIPE = const(32)
ECONNRESET = const(104)
ENOTCONN = const(107)
ETIMEDOUT = const(110)
ECONNREFUSED = const(111)
EHOSTUNREACH = const(113)

# Milliseconds.
RTO_INITIAL = const(1000)  # RFC 6298 (2.1)
RTO_MINIMUM = const(1000)  # RFC 6298 (2.4)
RTO_MAXIMUM = const(60000)  # RFC 6298 (2.5)
RTO_AFTER_LOST_SYN = const(3000)  # RFC 6298 (5.7)
DELAYED_ACK = const(40)  # 3.8.6.3: below 500
TIME_WAIT_TIME = const(60000)  # 3.6.1: twice the MSL, which is 30 s here
USER_TIMEOUT = const(120000)  # 3.8.3 (R2): at least 100 s
# 3.8.3: R1 is at least so many retransmissions at the current timeout, and R2 is more than R1. After
# Karn's backoff, which a path without timestamps keeps, 120 s would be two.
RETRANSMISSIONS = const(3)
SYN_TIMEOUT = const(180000)  # 3.8.3 (R2 of a SYN): at least 3 minutes
HALF_OPEN_TIMEOUT = const(60000)
ORPHAN_TIMEOUT = const(60000)  # how long a closed socket's connection may wait for its peer
CHALLENGE_INTERVAL = const(500)  # RFC 5961 (7)
KEEPALIVE_IDLE = const(7200000)  # 3.8.4: at least two hours
KEEPALIVE_INTERVAL = const(75000)
KEEPALIVE_PROBES = const(9)

# RFC 7323 5.5: after 24 days without a segment, TS.Recent tells nothing.
_TIMESTAMP_LIFETIME = const(24 * 24 * 3600 * 1000)
# RFC 2923 2.1: timeouts in a row after which a large segment may have met a link too small for it
# whose complaint was lost.
_BLACK_HOLE_TIMEOUTS = const(3)
# A peer may not make segments so small that headers are all that is sent.
_MINIMUM_MSS = const(64)
# Segments that one acknowledgement stands for at most, sent or received (RFC 5681 4.2 speaks of
# "stretch ACKs"): segments that the card delivers together are acknowledged together.
_STRETCH = const(8)
# A window that needs no update: what one packet of the driver's merging holds.
_AMPLE_WINDOW = const(65535)
# Islands of data that arrived out of order.
_MAX_RANGES = const(32)

_WRAP = const(0xFFFFFFFF)
_HALF = const(0x80000000)

# What `_timer_at` is for.
_NONE = const(0)
_RETRANSMIT = const(1)
_PERSIST = const(2)
_KEEPALIVE = const(3)
_LINGER = const(4)  # TIME-WAIT, and FIN-WAIT-2 of an orphan
_PROBE = const(5)  # a tail loss probe, before _RETRANSMIT


class Connection(Timed):
    """A connection and its buffers.

    Args:
        stack: gives `begin commit mark forget timers send_pool receive_pool`, see net.stack.
        local, port, remote, remote_port: addresses as 32-bit integers.
        mss: the largest segment that the link takes.
        iss: initial send sequence number; clock_offset: what the timestamps' clock is ahead of
        the stack's.
    """

    def __init__(self, stack, local, port, remote, remote_port, mss, iss, clock_offset=0):
        super().__init__()
        self.stack = stack
        self.local = local
        self.port = port
        self.remote = remote
        self.remote_port = remote_port
        self.state = CLOSED
        # Set while the connection waits in a listener for accept().
        self.listener = None
        # What goes to stack.touched when something happens, see Stack.touch().
        self.waiter = None
        # Whether the one behind `waiter` waits to send: an acknowledgement is news to no other.
        self.awaits_room = False
        # The errno that ended the connection; whoever reports it sets it to 0.
        self.error = 0
        self.nodelay = False
        # Waits in the stack's list of connections to output.
        self.marked = False
        self._keepalive = False
        # What the user may set (RFC 1122 4.2.3.6, RFC 5482 for the last), in ms.
        self.keepalive_idle = KEEPALIVE_IDLE
        self.keepalive_interval = KEEPALIVE_INTERVAL
        self.keepalive_probes = KEEPALIVE_PROBES
        self.user_timeout = USER_TIMEOUT
        # What all segments share from the IPv4 header on, see _netbuf.emit().
        self._header = bytearray(ipv4.HEADER + tcp.HEADER)
        ipv4.emit(self._header, 0, ipv4.TCP, local, remote, tcp.HEADER)
        struct.pack_into(">HH8xB", self._header, ipv4.HEADER, port, remote_port, tcp.HEADER << 2)
        self._header[10] = self._header[11] = 0
        self._local_mss = mss

        # 3.3.1, send variables.
        self.snd_una = iss
        self.snd_nxt = iss
        self.snd_max = iss
        self.snd_wnd = 0
        self.snd_wl1 = 0
        self.snd_wl2 = 0
        self.iss = iss
        # Where the user's next byte goes; the FIN's number once the user closed.
        self.snd_end = iss + 1
        self._snd_fin = False
        self._snd_ring = None
        self._snd_shift = 0
        self._snd_wnd_max = 0
        # Text that the link takes at once and cuts up into segments; 0: none.
        self.large = 0
        # The text of a whole segment, without options.
        self.mss = tcp.DEFAULT_MSS

        # RFC 7323 3 to 5: both sides send timestamps; TS.Recent and when it came.
        self.timestamps = False
        self._clock_offset = clock_offset
        self._ts_recent = 0
        self._ts_recent_at = 0
        self._last_ack_sent = 0

        # 3.3.1, receive variables. rcv_adv is the window's right edge as advertised.
        self.rcv_nxt = 0
        self.rcv_adv = 0
        self.irs = 0
        # The number of the user's next byte, and of the peer's FIN when it is known.
        self._rcv_user = 0
        self._rcv_fin = None
        self._rcv_ring = None
        self._rcv_shift = None
        # Out-of-order data in the ring: sorted, disjoint [start, end) pairs.
        self._ranges = []
        # RFC 2018 4: numbers in the islands that grew last, the newest first; RFC 2883: what came
        # twice and was not reported yet.
        self._recent = []
        self._duplicate = None
        # The user closed: what arrives is of no use. `_lost` says that something did.
        self._orphan_since = None
        self._lost = False

        # RFC 5681 3.1
        self.cwnd = 0
        self.ssthresh = 1 << 30
        self.dup_acks = 0
        self.in_recovery = False
        self.recover = iss
        self._last_send = 0
        # See tcp_congestion: what was in flight after the last output(), bytes that arrived by
        # acknowledgements and SACK, their rate per 1.024 s, and since when it is measured.
        self.flight = 0
        self.delivered = 0
        self.rate = 0
        self.rate_time = 0
        self.rate_delivered = 0
        self.rtt_least = RTO_MAXIMUM
        # RFC 2018 2: both sides permit SACK. What the peer reported, and tail loss probes: see
        # tcp_recovery.
        self.sack = False
        self.board = None
        self.lost_twice = False
        self.probe_end = None
        self.probe_again = False

        # RFC 6298; times are kept times 8 and 4 as in its Jacobson and Karels reference.
        self.rto = RTO_INITIAL
        self.srtt8 = None
        self.rttvar4 = 0
        self._rtt_end = None
        self._rtt_start = 0
        self._syn_lost = False
        # Retransmission timeouts in a row, and what the network said of the way to the peer.
        self._timeouts = 0
        self.soft_error = 0
        # A segment of full size got through once: the path has no black hole (RFC 2923 2.1).
        self._large_arrived = False

        # Since when the peer acknowledged nothing of what was sent.
        self._progress = 0
        self._heard = 0
        self._probes = 0
        self._challenge_at = 0

        self._timer = _NONE
        self._timer_at = None
        self._ack_at = None
        # Segments received since the last acknowledgement, and whether one is due at once.
        self._ack_count = 0
        self._ack_now = False

    # -- The user's calls (3.9.1) -----------------------------------------------------------

    def connect(self, now):
        """Open actively: send a SYN at the next output()."""
        self.state = SYN_SENT
        self._rcv_shift = self.stack.receive_pool.window_shift()
        self._progress = now
        self.stack.mark(self)

    def open_passively(self, seq, window, options, now):
        """Answer a peer's SYN (3.10.7.2), whose tcp.parse_syn_options() are `options`."""
        self.state = SYN_RECEIVED
        self._take_syn(seq, options)
        # RFC 7323 2.2: the window of a SYN is never scaled.
        self._set_window(window, seq, 0)
        self._progress = now
        self.stack.mark(self)

    def open_by_cookie(self, seq, options):
        """Become what the SYN before `seq` would have made, had it been remembered.

        `options` are the SYN's; the connection's `iss` is the cookie. input() takes the ACK next.
        """
        self.state = SYN_RECEIVED
        self._take_syn((seq - 1) & _WRAP, options)
        # What the SYN with our ACK advertised.
        self.rcv_adv += min(self.stack.receive_pool.size, 0xFFFF)
        self.snd_nxt = self.snd_max = self.iss + 1

    def can_send(self):
        """Tell whether send() would take a byte, or fail at once."""
        state = self.state
        if state in (SYN_SENT, SYN_RECEIVED):
            return False
        if self._snd_fin or state not in (ESTABLISHED, CLOSE_WAIT):
            return True
        return self._send_room() > 0

    def _send_room(self):
        ring = self._snd_ring
        if ring is None:
            pool = self.stack.send_pool
            return pool.size if pool.available() else 0
        return len(ring) - (self.snd_end - max(self.snd_una, self.iss + 1))

    def send(self, buf, offset, count):
        """Queue bytes of buf[offset:offset + count]; return how many were taken, 0 for full.

        Raises OSError: EPIPE after shutdown(), ENOTCONN, or what ended the connection.
        """
        if self._snd_fin:
            raise OSError(EPIPE)
        if self.state not in (ESTABLISHED, CLOSE_WAIT):
            if self.state in (SYN_SENT, SYN_RECEIVED):
                return 0
            self._raise_error(EPIPE if self.rcv_nxt else ENOTCONN)
        count = min(count, self._send_room())
        if count > 0:
            if self._snd_ring is None:
                self._snd_ring = self.stack.send_pool.take()
                if self._snd_ring is None:
                    return 0
            buffers.write(self._snd_ring, self.snd_end, buf, offset, count)
            self.snd_end += count
            self.stack.mark(self)
        return count

    def _raise_error(self, otherwise):
        error = self.error or otherwise
        self.error = 0
        raise OSError(error)

    def available(self):
        """Return how many bytes the user can read."""
        end = self.rcv_nxt
        if self._rcv_fin is not None and end > self._rcv_fin:
            end -= 1
        return end - self._rcv_user

    def readable(self):
        """Tell whether receive() would not return None: for text, the peer's end, or an error."""
        return (
            self.rcv_nxt > self._rcv_user
            or self.state == CLOSED
            or self.state == TIME_WAIT
            or self.error != 0
        )

    def at_end(self):
        """Tell whether nothing will be readable beyond available(): the peer is done."""
        if self.state in (SYN_SENT, SYN_RECEIVED):
            return False
        return self.state in (CLOSED, TIME_WAIT) or (
            self._rcv_fin is not None and self.rcv_nxt > self._rcv_fin
        )

    def receive(self, buf, offset, count):
        """Move received bytes to buf[offset:offset + count].

        Returns their number; 0 at the peer's end; None where the user must wait. Raises OSError
        with what ended the connection, once, and after the data that came before; ValueError:
        `count` below 0.
        """
        if count < 0:
            raise ValueError("negative size")
        ready = self.available()
        if ready <= 0:
            return self._nothing(0)
        count = min(count, ready)
        buffers.read(self._rcv_ring, self._rcv_user, buf, offset, count)
        self._consumed(count)
        return count

    def receive_bytes(self, count):
        """Return at most `count` received bytes; b"", None and errors as receive()."""
        if count < 0:
            raise ValueError("negative size")
        ready = self.available()
        if ready <= 0:
            return self._nothing(b"")
        count = min(count, ready)
        data = buffers.read_bytes(self._rcv_ring, self._rcv_user, count)
        self._consumed(count)
        return data

    def _nothing(self, end):
        if self.error and self.state == CLOSED:
            self._raise_error(0)
        return end if self.at_end() else None

    def _consumed(self, count):
        self._rcv_user += count
        if not self._ranges and self.available() <= 0:
            self._release_receive()
        # 3.8.6.2.2: tell of the space when it is worth a segment. While the peer may still send
        # much, the acknowledgement of what it sends will do.
        half = self.stack.receive_pool.size // 2
        if self.rcv_adv - self.rcv_nxt <= max(_AMPLE_WINDOW, half) and (
            self._window_step() >= min(half, 2 * self._local_mss)
        ):
            if self.state in (ESTABLISHED, FIN_WAIT_1, FIN_WAIT_2):
                self._ack_now = True
                self.stack.mark(self)

    def find(self, byte):
        """Return how many readable bytes come before the first `byte`, or -1."""
        ready = self.available()
        if ready <= 0:
            return -1
        return buffers.find(self._rcv_ring, self._rcv_user, ready, byte)

    def shutdown(self):
        """Close the sending direction: a FIN follows what was queued (3.10.4)."""
        if self.state == ESTABLISHED:
            self.state = FIN_WAIT_1
        elif self.state == CLOSE_WAIT:
            self.state = LAST_ACK
        else:
            return
        self._snd_fin = True
        self.stack.mark(self)
        self.stack.touch(self)

    def close(self, now):
        """Close both directions; the connection ends by itself and is not the user's any more.

        Data that the user did not read is lost, and the peer learns of it by a reset (3.6.1,
        RFC 1122 4.2.2.13), but only after it acknowledged what the user had sent.
        """
        self._orphan_since = now
        if self.available() > 0 or self._ranges:
            self._lost = True
        self._rcv_user = self.rcv_nxt
        self._ranges = []
        self._release_receive()
        if self.state == SYN_SENT:
            self._end(0)
        elif self.state == SYN_RECEIVED:
            self.abort()
        elif self.state == FIN_WAIT_2:
            self._enter_fin_wait_2(now)
        else:
            self.shutdown()

    def abort(self):
        """End the connection at once, with a reset where the peer knows of it (3.10.5)."""
        if self.state not in (CLOSED, SYN_SENT, TIME_WAIT):
            self._transmit(self.snd_max, tcp.RST | tcp.ACK, 0)
        self._end(0)

    def fail(self, error):
        """End the connection without a word to the peer; its user gets `error`."""
        self._end(error)

    def set_keepalive(self, on, now):
        """Probe an idle peer (3.8.4), or stop to."""
        self._keepalive = on
        self._heard = now
        if self._timer in (_NONE, _KEEPALIVE):
            self._set_timer(_NONE, None)
            self._idle(now)

    def may_be_replaced(self, seq, options):
        """Return whether a SYN may open a new connection in the place of this one in TIME-WAIT.

        RFC 9293 3.10.7.4, MAY-2: by a higher number; RFC 6191 2: or by a later timestamp, or by
        one where there was none.
        """
        stamp = options[3] if self.stack.timestamps else None
        if stamp is not None:
            if not self.timestamps:
                return True
            later = (stamp - self._ts_recent) & _WRAP
            if later:
                return later < _HALF
        return 0 < (seq - self.rcv_nxt) & _WRAP < _HALF

    def unreachable(self, seq, error, hard):
        """Take an ICMP error about the segment with number `seq` (RFC 1122 4.2.3.9).

        RFC 5927 4.1 and 5.2: only a number in flight is believed, and once the handshake is done
        no message ends a connection; it is kept as the reason of a timeout to come.
        """
        if not self._is_in_flight(seq):
            return
        if hard and self.state == SYN_SENT:
            self._end(error)
        else:
            self.soft_error = error

    def path_mtu(self, seq, mtu):
        """Take what ICMP tells of the path's MTU about segment `seq` (RFC 1191 6.5).

        Returns whether it was believed.
        """
        mss = mtu - ipv4.HEADER - tcp.HEADER - (tcp.TIMESTAMPS_LENGTH if self.timestamps else 0)
        if self.state <= SYN_RECEIVED or mss >= self.mss or not self._is_in_flight(seq):
            return False
        self.mss = mss
        # RFC 1191 6.5: sent again at once, and not a sign of congestion.
        if self.snd_max > self.snd_una:
            self.snd_nxt = self.snd_una
            self.in_recovery = False
            self.recover = self.snd_max
            self._rtt_end = None
            if self.sack:
                self.board.clear()
            self.stack.mark(self)
        return True

    def _is_in_flight(self, seq):
        seq = self.snd_una + ((seq - self.snd_una + _HALF) & _WRAP) - _HALF
        return self.snd_una <= seq < self.snd_max

    # -- Segments that arrive (3.10.7) ------------------------------------------------------

    def input(self, seq, ack, flags, window, options, buf, start, end, now):
        """Take a segment.

        Args: seq, ack, window: as on the wire; options: tcp.parse_syn_options() of a SYN,
        tcp.parse_options() of another segment that has options, or None;
        buf, start, end: the payload is buf[start:end], and is copied if it is kept.
        """
        plain = self.state == ESTABLISHED and flags & ~tcp.PSH == tcp.ACK
        if self.waiter is not None and (end > start or self.awaits_room or not plain):
            self.stack.touch(self)
        if (
            plain
            and (seq - self.rcv_nxt) & _WRAP == 0
            and self._input_expected(ack, window, options, buf, start, end, now)
        ):
            return
        if self.state == SYN_SENT:
            self._input_syn_sent(seq, ack, flags, window, options, now)
            return
        rcv_nxt = self.rcv_nxt
        seq = rcv_nxt + ((seq - rcv_nxt + _HALF) & _WRAP) - _HALF
        length = end - start
        if self.state == SYN_RECEIVED and flags & (tcp.SYN | tcp.ACK) == tcp.SYN | tcp.ACK:
            # 3.5, figure 8: both sides opened, and the peer's SYN comes again with its ACK.
            if seq == self.irs:
                seq += 1
                flags &= ~tcp.SYN
                # The echo of a SYN is not looked at: one from the future gives no sample.
                options = (options[3], now + self._clock_offset + 1, ())

        if self.timestamps and not flags & tcp.RST:
            # RFC 7323 5.3, R1 (PAWS) and 3.2: a segment without the option is passed over.
            if options is None:
                return
            stamp = options[3 if flags & tcp.SYN else 0]
            if stamp is None:
                return
            older = (self._ts_recent - stamp) & _WRAP
            if 0 < older < _HALF and now - self._ts_recent_at < _TIMESTAMP_LIFETIME:
                self._input_unacceptable(seq, flags, length, now)
                return

        # First, the sequence number (3.10.7.4). The table's tests say: part of the segment is in
        # the window. What starts exactly at RCV.NXT passes with a closed window too, for its
        # ACK; its data is cut off below.
        extent = length + (1 if flags & tcp.SYN else 0) + (1 if flags & tcp.FIN else 0)
        if seq != rcv_nxt and not (
            rcv_nxt <= seq < self.rcv_adv
            if extent == 0
            else seq < self.rcv_adv and seq + extent > rcv_nxt
        ):
            self._input_unacceptable(seq, flags, length, now)
            return

        # Second, RST. RFC 5961 3.2: only the exact number resets, others are asked to prove it.
        if flags & tcp.RST:
            if seq == rcv_nxt:
                self._input_reset()
            else:
                self._challenge(now)
            return

        if self.timestamps and seq <= self._last_ack_sent:
            # RFC 7323 5.3, R3
            self._ts_recent = stamp
            self._ts_recent_at = now

        # Fourth, SYN. RFC 5961 4.2: answer by a challenge in any synchronized state.
        if flags & tcp.SYN:
            self._challenge(now)
            return

        # Fifth, ACK.
        if not flags & tcp.ACK:
            return
        ack = self.snd_una + ((ack - self.snd_una + _HALF) & _WRAP) - _HALF
        if self.state == SYN_RECEIVED:
            if not self.snd_una < ack <= self.snd_max:
                self._transmit(ack, tcp.RST, 0)
                return
            self._establish(now)
            self._set_window(window << self._snd_shift, seq, ack)
            if self.state != ESTABLISHED:
                return
        # RFC 5961 5.2: neither of something not sent, nor older than any window.
        if ack > self.snd_max or ack < self.snd_una - self._snd_wnd_max:
            self._challenge(now)
            return
        self._heard = now
        self._probes = 0
        self._input_ack(seq, ack, window << self._snd_shift, extent, options, now)
        if self.state in (CLOSED, TIME_WAIT):
            return

        # Seventh, the text; eighth, FIN.
        if extent:
            self._input_text(seq, flags & tcp.FIN, buf, start, end, now)
        self.stack.mark(self)

    def _input_expected(self, ack, window, options, buf, start, end, now):
        """Take the next plain segment of a connection to which nothing unusual happened.

        Does what the rest of input() would, with fewer questions: most segments are of this kind.
        Returns whether the segment was one.
        """
        una = self.snd_una
        length = end - start
        acked = (ack - una) & _WRAP
        if (
            una + acked > self.snd_max
            or not (acked or length)
            or self._rcv_fin is not None
            or self._ranges
            or self.in_recovery
            or self.dup_acks
            or self.probe_end is not None
            or self._orphan_since is not None
            or self._timer == _PERSIST
            or una == self.iss
            or self.rcv_nxt + length > self.rcv_adv
        ):
            return False
        if self.timestamps:
            if options is None or options[0] is None or options[2]:
                return False
            # RFC 7323 5.3, R1 and R3
            stamp = options[0]
            if (stamp - self._ts_recent) & _WRAP >= _HALF:
                return False
            if self.rcv_nxt <= self._last_ack_sent:
                self._ts_recent = stamp
                self._ts_recent_at = now
        elif options is not None and options[2]:
            return False
        rcv_nxt = self.rcv_nxt
        if length:
            ring = self._rcv_ring
            if ring is None:
                ring = self._rcv_ring = self.stack.receive_pool.take()
                if ring is None:
                    return False
            buffers.write(ring, rcv_nxt, buf, start, length)
            self.rcv_nxt = rcv_nxt + length
        self._heard = now
        self._probes = 0
        if acked:
            self._acknowledge(una + acked, now, options)
        self.snd_wnd = window = window << self._snd_shift
        self.snd_wl1 = rcv_nxt
        self.snd_wl2 = una + acked
        if window > self._snd_wnd_max:
            self._snd_wnd_max = window
        if length:
            self._count_text(length, now)
        if (
            self._ack_now
            or self._ack_count >= 2
            or self.snd_nxt < self.snd_end
            or self._snd_fin
        ):
            self.stack.mark(self)
        else:
            self.flight = self.snd_max - self.snd_una
        return True

    def _count_text(self, length, now):
        """Acknowledge text that arrived in order, now or later (3.8.6.3)."""
        # The link may have made one of several segments.
        self._ack_count += 1 if length <= self._local_mss else length // self.mss
        if self._ack_count >= _STRETCH:
            self._send_ack()
        elif self._ack_at is None:
            self._ack_at = now + DELAYED_ACK
            self._schedule()

    def _input_syn_sent(self, seq, ack, flags, window, options, now):
        # 3.10.7.3
        acceptable = False
        if flags & tcp.ACK:
            ack = self.snd_una + ((ack - self.snd_una + _HALF) & _WRAP) - _HALF
            if not self.iss < ack <= self.snd_max:
                if not flags & tcp.RST:
                    self._transmit(ack, tcp.RST, 0)
                return
            acceptable = True
        if flags & tcp.RST:
            if acceptable:
                self._end(ECONNREFUSED)
            return
        if not flags & tcp.SYN:
            return
        self._take_syn(seq, options)
        if acceptable:
            self._establish(now)
            self._input_ack_of_syn(ack, now, None)
            self._ack_now = True
        else:
            # Both sides opened: the SYN goes out again, now with an ACK.
            self.state = SYN_RECEIVED
            self.snd_nxt = self.iss
        self._set_window(window, seq, self.snd_una)
        self.stack.mark(self)

    def _take_syn(self, seq, options):
        mss, shift, sack, stamp = options
        self.irs = seq
        self._last_ack_sent = seq
        self.rcv_nxt = self._rcv_user = self.rcv_adv = seq + 1
        if self.state == SYN_SENT:
            # What our own SYN advertised.
            self.rcv_adv += self._advertise(tcp.SYN)
        # 3.7.1: what the peer offers and the link takes, whichever is less.
        self.mss = max(min(mss, self._local_mss), _MINIMUM_MSS)
        # RFC 7323 3.2 and RFC 2018 2: used where both sides offer it.
        if stamp is not None and self.stack.timestamps:
            self.timestamps = True
            self._ts_recent = stamp
            self._ts_recent_at = self.stack.now
            self._share_timestamps()
            # RFC 6691 3.1: options come out of the segment.
            self.mss -= tcp.TIMESTAMPS_LENGTH
        if sack and self.stack.sack:
            self.sack = True
            self.board = Scoreboard()
        # RFC 7323 2.2: windows are scaled only where both sides offer it.
        if shift is None:
            self._snd_shift = 0
            self._rcv_shift = None
        else:
            self._snd_shift = shift
            self._rcv_shift = self.stack.receive_pool.window_shift()

    def _establish(self, now):
        self.state = ESTABLISHED
        # RFC 6928 2; RFC 5681 3.1: one segment where the SYN was lost.
        if self._syn_lost:
            self.cwnd = self.mss
        else:
            self.cwnd = tcp_congestion.initial_window(self.mss)
        self.recover = self.iss
        self._heard = now
        self._last_send = now
        self.rate_time = now
        listener = self.listener
        if listener is not None and not listener.established(self):
            self.abort()

    def _input_ack_of_syn(self, ack, now, options):
        self._measure(ack, now, options)
        self.snd_una = ack
        self.snd_nxt = max(self.snd_nxt, ack)
        # RFC 6298 (5.7)
        if self._syn_lost:
            self.rto = RTO_AFTER_LOST_SYN
        self._progress = now
        self._set_timer(_NONE, None)
        self._idle(now)

    def _input_unacceptable(self, seq, flags, length, now):
        if flags & tcp.RST:
            return
        if self.state == SYN_RECEIVED and flags & tcp.SYN and seq == self.irs:
            # The peer did not get the SYN with our ACK; do not wait for the timer.
            self.snd_nxt = self.iss
            self.stack.mark(self)
            return
        if self.state == TIME_WAIT and flags & tcp.FIN:
            # 3.10.7.4: acknowledge the repeated FIN and start the 2 MSL anew.
            self._set_timer(_LINGER, now + TIME_WAIT_TIME)
        if self.sack and length and seq < self.rcv_nxt:
            # RFC 2883 4
            self._duplicate = (seq, min(seq + length, self.rcv_nxt))
        if length or flags & tcp.FIN:
            self._send_ack()
        else:
            # Answers to empty segments can go on forever between two confused peers.
            self._challenge(now)

    def _input_reset(self):
        state = self.state
        if state == SYN_RECEIVED:
            self._end(ECONNREFUSED)
        elif state in (CLOSING, LAST_ACK, TIME_WAIT):
            # 3.10.7.4, second. RFC 1337 3 would have TIME-WAIT ignore it, but this is how a peer
            # that opens anew from the same port answers our acknowledgement of its SYN (3.10.7.3),
            # and it would be kept out for a minute. Linux does the same (tcp_rfc1337).
            self._end(0)
        else:
            self._end(ECONNRESET)

    def _challenge(self, now):
        # RFC 5961 7: a bounded rate, counted per connection so that it tells nothing of others.
        if now >= self._challenge_at:
            self._challenge_at = now + CHALLENGE_INTERVAL
            self._send_ack()

    def _set_window(self, window, seq, ack):
        # 3.10.7.4, fifth: only segments not older than the last update move the window.
        if self.snd_wl1 < seq or (self.snd_wl1 == seq and self.snd_wl2 <= ack):
            self.snd_wnd = window
            self.snd_wl1 = seq
            self.snd_wl2 = ack
            if window > self._snd_wnd_max:
                self._snd_wnd_max = window

    def _input_ack(self, seq, ack, window, extent, options, now):
        una = self.snd_una
        new = None
        if options is not None and options[2] and self.sack:
            new = self._input_sack(ack, options[2])
        if ack > una:
            if una == self.iss:
                self._input_ack_of_syn(ack, now, options)
                una = self.iss + 1
            if ack > una:
                self._acknowledge(ack, now, options)
        elif (
            # RFC 5681 2: what a duplicate acknowledgement is.
            ack == una
            and not self.sack
            and extent == 0
            and self.snd_max > una
            and window == self.snd_wnd
            and self._timer == _RETRANSMIT
        ):
            tcp_recovery.on_duplicate(self)
        if new is not None and self.snd_una < self.snd_max:
            tcp_recovery.on_sack(self, new)
        if ack >= una:
            self._set_window(window, seq, ack)
            if self._timer == _PERSIST:
                # The peer answers its probes, so it lives (3.8.6.1).
                self._progress = now
                if self.snd_wnd:
                    self._set_timer(_NONE, None)
                    if self.srtt8 is not None:
                        self._reset_rto()

    def _input_sack(self, ack, blocks):
        """Note SACK blocks; returns how many bytes they report for the first time."""
        una = self.snd_una
        unwrapped = []
        for start, end in blocks:
            start = una + ((start - una + _HALF) & _WRAP) - _HALF
            unwrapped.append((start, start + ((end - start) & _WRAP)))
        if self.probe_end is not None and unwrapped[0][0] < ack:
            # RFC 8985 7.4.2, by RFC 2883: the probe was not needed.
            self.probe_again = False
        new = self.board.update(unwrapped, max(ack, una), self.snd_max)
        self.delivered += new
        return new

    def _acknowledge(self, ack, now, options):
        acked = ack - self.snd_una
        self.snd_una = ack
        self.delivered += acked
        board = self.board
        if board is not None and board.ranges:
            self.delivered -= board.acknowledge(ack)
        self._measure(ack, now, options)
        if self.snd_nxt < ack:
            self.snd_nxt = ack
        self._progress = now
        self._timeouts = 0
        if acked >= self.mss:
            self._large_arrived = True
        if self.in_recovery:
            tcp_recovery.on_acknowledged(self, ack, acked)
        else:
            self.dup_acks = 0
            mss = self.mss
            if self.cwnd < self.ssthresh:
                # RFC 5681 3.1 by bytes (RFC 3465 2.2), because peers acknowledge several segments
                # at a time. After a timeout an ACK covers what had arrived before, and counts for
                # one segment (RFC 3465 2.3).
                self.cwnd += min(acked, mss if ack <= self.recover else _STRETCH * mss)
            else:
                # RFC 5681 3.1 (3), by bytes (RFC 3465 2.1).
                self.cwnd += max(1, mss * acked // self.cwnd)
            # Growth that the buffer can never use would only make a burst later.
            self.cwnd = min(self.cwnd, 2 * self.stack.send_pool.size)
        if self.probe_end is not None and ack >= self.probe_end:
            tcp_recovery.on_probe_acknowledged(self)

        if ack == self.snd_max:
            # RFC 6298 (5.2)
            self._timer = _NONE
            self._timer_at = None
            if self._keepalive:
                self._idle(now)
            if self.deadline != self._ack_at:
                self._schedule()
            if self.snd_end <= ack and self._snd_ring is not None:
                self.stack.send_pool.give(self._snd_ring)
                self._snd_ring = None
        else:
            # RFC 6298 (5.3); in recovery too, the slow but steady variant of RFC 6582 4: the
            # least retransmission time is long here beside most round trip times.
            self._await(now)

        # 3.10.7.4, fifth: our FIN is acknowledged.
        if self._snd_fin and ack > self.snd_end:
            if self.state == FIN_WAIT_1:
                self._enter_fin_wait_2(now)
            elif self.state == CLOSING:
                self._enter_time_wait(now)
            elif self.state == LAST_ACK:
                self._end(0)

    def _await(self, now):
        """Start the timer of what is in flight: a tail loss probe's, then retransmission's."""
        timeout = tcp_recovery.probe_timeout(self) if self.sack else 0
        if timeout:
            self._set_timer(_PROBE, now + timeout)
        else:
            self._set_timer(_RETRANSMIT, now + self.rto)

    def retransmit(self, start, end):
        """Send [start, end) again, which may hold the FIN; False where the link is full."""
        # Karn: a segment that was sent twice gives no round trip time (RFC 6298 3).
        self._rtt_end = None
        flags = tcp.ACK
        if end > self.snd_end:
            flags |= tcp.FIN
            end = self.snd_end
        return self._transmit(start, flags, end - start)

    def _measure(self, ack, now, options):
        if self.timestamps and options is not None:
            # RFC 7323 4: the echo tells when the segment left, of retransmissions too. One sample
            # a round trip keeps RFC 6298's averages as they are meant (RFC 7323 4.3).
            if self._rtt_end is not None and ack < self._rtt_end:
                return
            self._rtt_end = self.snd_max
            sample = (now + self._clock_offset - options[1]) & _WRAP
            if sample > RTO_MAXIMUM:
                return
        else:
            if self._rtt_end is None or ack < self._rtt_end:
                return
            self._rtt_end = None
            sample = now - self._rtt_start
        tcp_congestion.measure_rate(self, sample, now)
        if self.srtt8 is None:
            # RFC 6298 (2.2)
            self.srtt8 = sample * 8
            self.rttvar4 = sample * 2
        else:
            # RFC 6298 (2.3), alpha 1/8, beta 1/4
            self.rttvar4 += abs(self.srtt8 // 8 - sample) - self.rttvar4 // 4
            self.srtt8 += sample - self.srtt8 // 8
        self._reset_rto()

    def _reset_rto(self):
        # RFC 6298 (2.3), (2.4), (2.5), clock granularity 1 ms
        rto = self.srtt8 // 8 + max(1, self.rttvar4)
        self.rto = min(max(rto, RTO_MINIMUM), RTO_MAXIMUM)

    def _input_text(self, seq, fin, buf, start, end, now):
        if self.state not in (ESTABLISHED, FIN_WAIT_1, FIN_WAIT_2):
            # The peer's FIN is behind: what comes after it is not text (3.10.7.4, seventh).
            self._ack_now = True
            return
        rcv_nxt = self.rcv_nxt
        if fin:
            fin_at = seq + end - start
            newest = self._ranges[-1][1] if self._ranges else rcv_nxt
            if self._rcv_fin is None and newest <= fin_at <= self.rcv_adv:
                self._rcv_fin = fin_at

        # 3.10.7.4, first: cut to the window.
        if seq < rcv_nxt:
            start += rcv_nxt - seq
            seq = rcv_nxt
        limit = self.rcv_adv if self._rcv_fin is None else min(self.rcv_adv, self._rcv_fin)
        if seq + end - start > limit:
            end = start + limit - seq
        length = end - start
        if length > 0:
            if self._orphan_since is not None:
                self._discard(seq, length)
                if self.state == CLOSED:
                    return
            elif not self._store(seq, buf, start, length):
                return
            if seq > rcv_nxt:
                # RFC 5681 4.2: tell of a hole at once, once for each segment.
                if self.sack:
                    self._note_recent(seq)
                self._send_ack()
            else:
                if self._ranges or self.rcv_nxt > seq + length:
                    # RFC 5681 4.2: a hole was filled.
                    self._ack_now = True
                else:
                    self._count_text(length, now)
        elif not fin:
            # Beyond a closed window: a probe, which gets the window as an answer (3.8.6.1).
            self._ack_now = True
        if fin:
            self._ack_now = True
        if self._rcv_fin is not None and self.rcv_nxt == self._rcv_fin:
            self._input_fin(now)

    def _store(self, seq, buf, start, length):
        """Keep text for the user; False where there is no memory for it now."""
        if self._rcv_ring is None:
            self._rcv_ring = self.stack.receive_pool.take()
            if self._rcv_ring is None:
                return False
        ranges = self._ranges
        if seq == self.rcv_nxt:
            buffers.write(self._rcv_ring, seq, buf, start, length)
            self.rcv_nxt = seq + length
            while ranges and ranges[0][0] <= self.rcv_nxt:
                self.rcv_nxt = max(self.rcv_nxt, ranges.pop(0)[1])
            return True
        end = seq + length
        first = 0
        while first < len(ranges) and ranges[first][1] < seq:
            first += 1
        last = first
        while last < len(ranges) and ranges[last][0] <= end:
            last += 1
        if first == last and len(ranges) >= _MAX_RANGES:
            return True
        buffers.write(self._rcv_ring, seq, buf, start, length)
        if first < last:
            if ranges[first][0] <= seq and end <= ranges[first][1]:
                self._duplicate = (seq, end)
            seq = min(seq, ranges[first][0])
            end = max(end, ranges[last - 1][1])
        ranges[first:last] = [(seq, end)]
        return True

    def _note_recent(self, seq):
        """Remember which islands grew last, for the order of SACK blocks (RFC 2018 4)."""
        recent = self._recent
        recent.insert(0, seq)
        if len(recent) > tcp.MAX_SACK_BLOCKS:
            recent.pop()

    def _discard(self, seq, length):
        # Text for a closed socket (RFC 1122 4.2.2.13).
        if self.state == FIN_WAIT_2:
            self.abort()
            return
        self._lost = True
        if seq == self.rcv_nxt:
            self.rcv_nxt = self._rcv_user = seq + length

    def _input_fin(self, now):
        # 3.10.7.4, eighth
        self.rcv_nxt += 1
        self._ack_now = True
        if self.state == ESTABLISHED:
            self.state = CLOSE_WAIT
        elif self.state == FIN_WAIT_1:
            # Our FIN is not acknowledged, or the state would be FIN-WAIT-2.
            self.state = CLOSING
        elif self.state == FIN_WAIT_2:
            self._enter_time_wait(now)

    def _enter_fin_wait_2(self, now):
        self.state = FIN_WAIT_2
        if self._orphan_since is not None:
            if self._lost:
                self.abort()
            else:
                # Nobody reads any more: the peer's FIN is awaited for a while only.
                self._set_timer(_LINGER, now + ORPHAN_TIMEOUT)

    def _enter_time_wait(self, now):
        self.state = TIME_WAIT
        self._set_timer(_LINGER, now + TIME_WAIT_TIME)
        self._release_send()
        self.stack.enter_time_wait(self)

    # -- Segments that leave ----------------------------------------------------------------

    def output(self, now):
        """Send what may be sent now. False: the link is full, call again soon."""
        state = self.state
        if state == CLOSED:
            return True
        if state <= SYN_RECEIVED:
            return self.snd_nxt > self.iss or self._output_syn(now)
        if self.in_recovery and self.sack:
            return tcp_recovery.output(self, now) and self._output_rest(now)
        mss = self.mss
        if self.snd_una == self.snd_max and now - self._last_send > self.rto:
            # RFC 5681 4.1: after an idle time the acknowledgements' clock is gone.
            self.cwnd = min(self.cwnd, 10 * mss)
        ranges = self.board.ranges if self.sack else None
        while True:
            gap = mss
            if ranges and self.snd_nxt < self.snd_max:
                # RFC 6675 5.1: after a timeout, what arrived is not sent again.
                self.snd_nxt, start = self.board.skip(self.snd_nxt)
                if start:
                    gap = min(mss, start - self.snd_nxt)
            left = self.snd_end - self.snd_nxt
            fin = self._snd_fin and left >= 0
            if left <= 0 and not fin:
                break
            in_flight = self.snd_nxt - self.snd_una
            room = self.cwnd - in_flight
            if ranges:
                # RFC 6675 5.1, RFC 3042: what arrived is not in flight.
                room += self.board.sacked_below(self.snd_nxt)
            elif self.dup_acks and not self.in_recovery:
                # RFC 3042: a new segment for each of the first two duplicates.
                room += min(self.dup_acks, 2) * mss
            room = min(room, self.snd_wnd - in_flight)
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
                or self.snd_nxt < self.snd_max
                or (length == left and (self.nodelay or in_flight == 0))
                or (length < left and 2 * length >= self._snd_wnd_max)
            ):
                break
            flags = tcp.ACK
            if length == left:
                flags |= tcp.PSH
            if fin:
                flags |= tcp.FIN
            if length == mss and self.large and self.snd_nxt == self.snd_max:
                many = min(left, room, self.large)
                if many < left or not self.nodelay:
                    # Whole segments; the rest of all text may go with them, unless Nagle holds it.
                    many -= many % mss
                if many > length and self._transmit_large(
                    self.snd_nxt, tcp.ACK | tcp.PSH if many == left else tcp.ACK, many
                ):
                    self._sent(many, now)
                    continue
            if not self._transmit(self.snd_nxt, flags, length):
                return False
            self._sent(length + (1 if fin else 0), now)

        self.flight = self.snd_max - self.snd_una
        return self._output_rest(now)

    def output_new(self, now):
        """Send one segment of new data, whatever the congestion window.

        Returns how many sequence numbers it took, 0 where there is nothing to send or no window,
        None while the link is full.
        """
        left = self.snd_end - self.snd_max
        room = self.snd_una + self.snd_wnd - self.snd_max
        length = min(left, room, self.mss)
        fin = self._snd_fin and length == left < room
        if length < 0 or not (
            fin or (length and (length == self.mss or (length == left and self.nodelay)))
        ):
            return 0
        flags = tcp.ACK | tcp.PSH if length == left else tcp.ACK
        if fin:
            flags |= tcp.FIN
        if not self._transmit(self.snd_max, flags, length):
            return None
        self.snd_nxt = self.snd_max
        length += 1 if fin else 0
        self._sent(length, now)
        return length

    def _output_rest(self, now):
        # 3.8.6.3: every second segment is acknowledged without delay, or all of a batch at once.
        if (self._ack_now or self._ack_count >= 2) and not self._send_ack():
            return False
        if (
            self._timer in (_NONE, _KEEPALIVE)
            and self.snd_una == self.snd_nxt
            and (self.snd_nxt < self.snd_end or (self._snd_fin and self.snd_nxt == self.snd_end))
        ):
            # 3.8.6.1: data waits, nothing is in flight: only the window can hold it.
            self._progress = now
            self._set_timer(_PERSIST, now + self.rto)
        return True

    def _send_ack(self):
        # A number beyond the peer's window would make it pass over the segment (3.10.7.4).
        edge = self.snd_una + self.snd_wnd
        return self._transmit(min(self.snd_max, edge), tcp.ACK, 0)

    def _output_syn(self, now):
        flags = tcp.SYN if self.state == SYN_SENT else tcp.SYN | tcp.ACK
        stamps = None
        sack = self.sack
        if self.state == SYN_SENT:
            sack = self.stack.sack
            if self.stack.timestamps:
                stamps = (now + self._clock_offset & _WRAP, 0)
        elif self.timestamps:
            stamps = (now + self._clock_offset & _WRAP, self._ts_recent)
        options = tcp.emit_syn_options(self._local_mss, self._rcv_shift, sack, stamps)
        if not self._transmit(self.iss, flags, 0, options):
            return False
        self._sent(1, now)
        return True

    def _sent(self, extent, now):
        """Account for `extent` sequence numbers sent at snd_nxt."""
        self.snd_nxt += extent
        if self.snd_nxt > self.snd_max:
            # Karn's algorithm (RFC 6298 3): only what is sent for the first time is timed.
            if self._rtt_end is None and self.snd_nxt - extent == self.snd_max:
                self._rtt_end = self.snd_nxt
                self._rtt_start = now
            if self.snd_una == self.snd_max:
                self._progress = now
            self.snd_max = self.snd_nxt
        self._last_send = now
        # RFC 6298 (5.1)
        if self._timer != _RETRANSMIT and self._timer != _PROBE:
            self._await(now)

    def _share_timestamps(self):
        """All segments from now on have room for timestamps (RFC 7323 3.2)."""
        header = self._header + bytes(tcp.TIMESTAMPS_LENGTH)
        header[ipv4.HEADER + 12] = tcp.HEADER + tcp.TIMESTAMPS_LENGTH << 2
        tcp.emit_timestamps(header, ipv4.HEADER + tcp.HEADER, 0, 0)
        self._header = header

    def _transmit(self, seq, flags, length, options=b""):
        """Emit one segment with `length` queued bytes from `seq`; False where the link is full."""
        stack = self.stack
        frame = stack.begin(self.remote)
        if frame is None:
            return False
        if options or (self.sack and length == 0 and (self._ranges or self._duplicate)):
            stack.commit(self._emit_options(frame, seq, flags, options))
            return True
        ack = ring = at = 0
        if flags & tcp.ACK:
            ack = self.rcv_nxt
            self._last_ack_sent = ack
            self._ack_now = False
            self._ack_count = 0
            self._ack_at = None
        if length:
            ring = self._snd_ring
            at = seq & (len(ring) - 1)
        stack.commit(
            _netbuf.emit(
                frame,
                self._header,
                seq,
                ack,
                flags,
                self._advertise(flags),
                stack.now + self._clock_offset,
                self._ts_recent,
                ring,
                at,
                length,
            )
        )
        return True

    def _emit_options(self, frame, seq, flags, options):
        """Write a segment without text whose options are its own; returns the frame's length.

        Args: options: a SYN's, or none for the SACK option.
        """
        header = tcp.HEADER
        if options:
            end = 54 + len(options)
            frame[54:end] = options
            header += len(options)
        else:
            if self.timestamps:
                tcp.emit_timestamps(
                    frame, 54, (self.stack.now + self._clock_offset) & _WRAP, self._ts_recent
                )
                header += tcp.TIMESTAMPS_LENGTH
            header += self._emit_sack(frame, header)
        ack = 0
        if flags & tcp.ACK:
            ack = self.rcv_nxt
            self._acknowledged()
        tcp.emit(
            frame,
            34,
            self.port,
            self.remote_port,
            seq,
            ack,
            flags,
            self._advertise(flags),
            header,
            0,
            ipv4.pseudo_header_sum(ipv4.TCP, self.local, self.remote),
        )
        ipv4.emit(frame, 14, ipv4.TCP, self.local, self.remote, header)
        return 34 + header

    def _transmit_large(self, seq, flags, length):
        """Emit several whole segments as one, to be cut up; False where the link cannot now."""
        stack = self.stack
        frame = stack.begin_large(self.remote)
        if frame is None:
            return False
        header = tcp.HEADER
        if self.timestamps:
            tcp.emit_timestamps(
                frame, 54, (stack.now + self._clock_offset) & _WRAP, self._ts_recent
            )
            header += tcp.TIMESTAMPS_LENGTH
        buffers.read(self._snd_ring, seq, frame, 34 + header, length)
        self._acknowledged()
        tcp.emit_large(
            frame,
            34,
            self.port,
            self.remote_port,
            seq,
            self.rcv_nxt,
            flags,
            self._advertise(flags),
            header,
            ipv4.pseudo_header_sum(ipv4.TCP, self.local, self.remote),
        )
        ipv4.emit_large(frame, 14, ipv4.TCP, self.local, self.remote)
        stack.commit_large(34 + header + length, 34 + header, self.mss)
        return True

    def _acknowledged(self):
        """A segment that leaves acknowledges all that arrived."""
        self._last_ack_sent = self.rcv_nxt
        self._ack_now = False
        self._ack_count = 0
        self._ack_at = None

    def _emit_sack(self, frame, header):
        """Write the SACK option behind `header` bytes; returns its length (RFC 2018 3 and 4)."""
        limit = tcp.MAX_SACK_BLOCKS - (1 if self.timestamps else 0)
        blocks = blocks_to_report(self._ranges, self._recent, limit)
        if self._duplicate is not None:
            # RFC 2883 4: the duplicate comes first, and is reported once.
            blocks.insert(0, self._duplicate)
            self._duplicate = None
        return tcp.emit_sack(frame, 34 + header, blocks[:limit])

    def _window_step(self):
        """Return by how much the advertised window could grow."""
        return self._rcv_user + self.stack.receive_pool.size - self.rcv_adv

    def _advertise(self, flags):
        """Return the window field of a segment, and move rcv_adv to what it says."""
        if self.state == SYN_SENT:
            return min(self.stack.receive_pool.size, 0xFFFF)
        # 3.8.6.2.2: the right edge moves in steps worth a segment, and never back.
        edge = self.rcv_adv
        size = self.stack.receive_pool.size
        step = self._rcv_user + size - edge
        if step >= self._local_mss or step >= size // 2:
            edge += step
        shift = 0 if flags & tcp.SYN else self._rcv_shift or 0
        field = min(max(edge - self.rcv_nxt, 0) >> shift, 0xFFFF)
        self.rcv_adv = max(self.rcv_adv, self.rcv_nxt + (field << shift))
        return field

    # -- Timers -----------------------------------------------------------------------------

    def _set_timer(self, kind, at):
        self._timer = kind
        self._timer_at = at
        self._schedule()

    def _schedule(self):
        deadline = self._timer_at
        if self._ack_at is not None and (deadline is None or self._ack_at < deadline):
            deadline = self._ack_at
        if deadline != self.deadline:
            self.stack.timers.set(self, deadline)

    def _idle(self, now):
        """Nothing is in flight: only keepalive needs a timer."""
        if self._keepalive and self.state in (ESTABLISHED, CLOSE_WAIT):
            self._set_timer(_KEEPALIVE, now + self.keepalive_idle)

    def on_deadline(self, now):
        """Called by Timers."""
        if self._ack_at is not None and self._ack_at <= now:
            self._ack_at = None
            self._ack_now = True
            self.stack.mark(self)
        if self._timer_at is not None and self._timer_at <= now:
            kind = self._timer
            self._timer = _NONE
            self._timer_at = None
            if kind == _RETRANSMIT:
                self._on_retransmit(now)
            elif kind == _PROBE:
                self._on_probe(now)
            elif kind == _PERSIST:
                self._on_persist(now)
            elif kind == _KEEPALIVE:
                self._on_keepalive(now)
            else:
                self._end(0)
        if self.state != CLOSED:
            self._schedule()

    def _gave_up(self, now, waits=False):
        """End the connection where its peer was silent for too long (3.8.3) and nothing `waits`."""
        if self.state == SYN_SENT:
            limit = SYN_TIMEOUT
        elif self.state == SYN_RECEIVED:
            limit = HALF_OPEN_TIMEOUT
        else:
            limit = self.user_timeout
        if now - self._progress < limit or waits:
            return False
        if self.state > SYN_RECEIVED:
            self._transmit(self.snd_max, tcp.RST | tcp.ACK, 0)
        # RFC 1122 4.2.3.9: what ICMP told of the way may be the reason.
        self._end(self.soft_error or ETIMEDOUT)
        return True

    def _on_probe(self, now):
        timeout = tcp_recovery.probe_timeout(self)
        if timeout and self._last_send + timeout > now:
            # RFC 8985 7.2: counted from the newest segment.
            self._timer = _PROBE
            self._timer_at = self._last_send + timeout
            return
        if timeout and self.snd_wnd:
            tcp_recovery.probe(self, now)
        self._timer = _RETRANSMIT
        self._timer_at = now + self.rto

    def _on_retransmit(self, now):
        # Who set a limit of their own means that one (RFC 5482).
        few = self.state > SYN_RECEIVED and self.user_timeout == USER_TIMEOUT
        if self._gave_up(now, few and self._timeouts < RETRANSMISSIONS):
            return
        # RFC 6298 (5.5) and (5.6)
        self.rto = min(self.rto * 2, RTO_MAXIMUM)
        self._timer = _RETRANSMIT
        self._timer_at = now + self.rto
        self._rtt_end = None
        if self.state <= SYN_RECEIVED:
            self._syn_lost = True
        else:
            # RFC 5681 3.1 (4) and the paragraph after: from one segment on, slowly.
            tcp_congestion.on_congestion(self)
            # The silence until now says nothing of the path's rate.
            self.rate_time = now
            self.rate_delivered = self.delivered
            self._timeouts += 1
            if self._timeouts >= _BLACK_HOLE_TIMEOUTS and not self._large_arrived:
                self.mss = min(self.mss, tcp.DEFAULT_MSS)
            self.cwnd = self.mss
            self.in_recovery = False
            self.dup_acks = 0
            self.probe_end = None
            if self.sack:
                self.board.clear()
            # RFC 6582 4: duplicates of what is sent again do not start fast retransmit.
            self.recover = self.snd_max
        self.snd_nxt = self.snd_una
        if self.snd_wnd == 0 and self.state > SYN_RECEIVED:
            # The window was closed over what is in flight: probe, do not resend.
            self._timer = _NONE
            self._timer_at = None
        self.stack.mark(self)

    def _on_persist(self, now):
        # 3.8.6.1: one byte beyond the window, with backoff. snd_nxt stays: when the window
        # opens, the byte is sent again with the rest.
        orphan = self._orphan_since
        if self._gave_up(now):
            return
        if orphan is not None and now - orphan >= ORPHAN_TIMEOUT:
            self.abort()
            return
        self.rto = min(self.rto * 2, RTO_MAXIMUM)
        self._rtt_end = None
        length = min(max(self.snd_wnd, 1), self.snd_end - self.snd_una, self.mss)
        flags = tcp.ACK | tcp.PSH if length else tcp.ACK | tcp.FIN
        if self._transmit(self.snd_una, flags, length):
            self.snd_max = max(self.snd_max, self.snd_una + max(length, 1))
        self._timer = _PERSIST
        self._timer_at = now + self.rto

    def _on_keepalive(self, now):
        # 3.8.4: an old number gets an answer from any live peer.
        idle = now - self._heard
        if idle < self.keepalive_idle:
            self._timer_at = self._heard + self.keepalive_idle
        elif self._probes >= self.keepalive_probes:
            self._transmit(self.snd_max, tcp.RST | tcp.ACK, 0)
            self._end(ETIMEDOUT)
            return
        else:
            self._probes += 1
            self._transmit(self.snd_max - 1, tcp.ACK, 0)
            self._timer_at = now + self.keepalive_interval
        self._timer = _KEEPALIVE

    # -- The end ----------------------------------------------------------------------------

    def _release_receive(self):
        if self._rcv_ring is not None:
            self.stack.receive_pool.give(self._rcv_ring)
            self._rcv_ring = None

    def _release_send(self):
        if self._snd_ring is not None:
            self.stack.send_pool.give(self._snd_ring)
            self._snd_ring = None

    def _end(self, error):
        """Leave the stack. What was received stays readable until the user closes."""
        nobodys = self.listener is not None
        self.stack.forget(self)
        self.state = CLOSED
        self.error = error
        self._timer = _NONE
        self._timer_at = None
        self._ack_at = None
        self.stack.timers.forget(self)
        self._release_send()
        if nobodys or self.available() <= 0:
            self._release_receive()
        self.stack.touch(self)
