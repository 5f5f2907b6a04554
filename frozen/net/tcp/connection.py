"""One TCP connection: its variables, its user's calls, and how its states change (RFC 9293).

Names are the RFC's in lower case (SND.UNA is snd_una). Clauses without a document are of RFC 9293.
`inbound` takes segments, `outbound` sends them, `timeouts` acts when a timer fires; what travels
together is a type of its own: see the imports below.

Sequence numbers are unwrapped (see `sequence`). To send something again, snd_nxt goes back
(go-back-N) and snd_max does not: snd_max is the SND.NXT that acknowledgements are checked against.
"""

import struct

from micropython import const
from net import buffers, ipv4, ipv6
from net.errors import ENOTCONN, EPIPE
from net.tcp import inbound, outbound, timeouts, wire
from net.tcp.congestion import Congestion
from net.tcp.recovery import Recovery
from net.tcp.round_trip import RoundTrip
from net.tcp.sequence import MASK, is_later, unwrap
from net.tcp.states import (
    CLOSE_WAIT,
    CLOSED,
    ESTABLISHED,
    FIN_WAIT_1,
    FIN_WAIT_2,
    LAST_ACK,
    SYN_RECEIVED,
    SYN_SENT,
    TIME_WAIT,
)
from net.tcp.timer import KEEPALIVE, LINGER, NONE, Keepalive, Timer
from net.tcp.window import SendWindow

# A window of at least this much, all that a link makes of merged segments, needs no update.
_AMPLE_WINDOW = const(65535)


class Connection:
    """A connection and its buffers.

    Args:
        stack: what it lives in: gives `begin commit mark touch timers send_pool receive_pool tcp`,
        see net.stack.
        local, port, remote, remote_port: addresses of one family, see net.family.
        mss: the largest segment that the link takes.
        iss: initial send sequence number.
        clock_offset: ms by which the timestamps' clock is ahead of the stack's.
    """

    # What seldom changes; a default of the class costs a new connection nothing.

    # Set while the connection waits in a listener for accept().
    listener = None
    # The errno that ended the connection, 0 once it was reported.
    error = 0
    # What ICMP reported of the way to the peer, as an errno.
    soft_error = 0
    # The user's limit for silence of the peer, in ms (RFC 5482).
    user_timeout = timeouts.USER_TIMEOUT
    # Text that the link takes at once and cuts up into segments; 0: none.
    large = 0
    # A segment of full size got through once: the path has no black hole (RFC 2923 2.1).
    large_arrived = False
    # The peer's initial sequence number.
    irs = 0
    # Rcv.Wind.Shift (RFC 7323 2.3); None: no scaling.
    rcv_shift = None
    # Text was lost because the user closed before reading it.
    text_lost = False
    # No challenge is sent before (RFC 5961 7).
    challenge_at = 0

    def __init__(self, stack, local, port, remote, remote_port, mss, iss, clock_offset=0):
        self.stack = stack
        self.local = local
        self.port = port
        self.remote = remote
        self.remote_port = remote_port
        self.family = ip = ipv4 if isinstance(remote, int) else ipv6
        self.state = CLOSED
        # What Stack.touch() appends to stack.touched when something happens.
        self.waiter = None
        # Whether the waiter wants to send: acknowledgements are news to no other.
        self.awaits_room = False
        # Waits in the stack's list of connections to output.
        self.marked = False

        # TCP_NODELAY
        self.nodelay = False
        # None: off.
        self.keepalive = None

        # What all segments share from the IP header on, see _netbuf.emit().
        self.header = bytearray(ip.HEADER + wire.HEADER)
        ip.emit_large(self.header, 0, ip.TCP, local, remote)
        struct.pack_into(">HH8xB", self.header, ip.HEADER, port, remote_port, wire.HEADER << 2)
        # The text of a whole segment without options: the most that the link takes, and what is
        # sent.
        self.local_mss = mss
        self.mss = ip.TCP_MSS

        # 3.3.1, send variables.
        self.iss = iss
        self.snd_una = iss
        self.snd_nxt = iss
        self.snd_max = iss
        # Where the user's next byte goes; the FIN's number once the user closed (snd_fin).
        self.snd_end = iss + 1
        self.snd_fin = False
        # None while there is nothing to send.
        self.snd_ring = None
        self.window = SendWindow()

        # 3.3.1, receive variables. rcv_adv is the window's right edge as advertised.
        self.rcv_nxt = 0
        self.rcv_adv = 0
        # The number of the user's next byte, and of the peer's FIN when it is known.
        self.rcv_user = 0
        self.rcv_fin = None
        # None while there is nothing to hold.
        self.rcv_ring = None
        # What arrived out of order, None for nothing.
        self.reassembly = None
        # When the user closed, None before.
        self.orphan_since = None

        # RFC 7323 3: None unless both sides send timestamps.
        self.timestamps = None
        self.clock_offset = clock_offset
        # An acknowledgement is due at once; segments received since the last one.
        self.ack_due = False
        self.ack_count = 0

        self.timer = Timer(self)
        self.rtt = RoundTrip()
        self.congestion = Congestion(stack.congestion, 2 * stack.send_pool.size)
        self.recovery = Recovery(iss)

    # Segments that arrive, segments that leave, and timers have files of their own.
    input = inbound.segment_arrives
    output = outbound.output
    on_timer = timeouts.on_timer

    # -- The user's calls (3.9.1) -----------------------------------------------------------

    def connect(self, now):
        """Open actively: send a SYN at the next output()."""
        self.state = SYN_SENT
        self.rcv_shift = self.stack.receive_pool.window_shift()
        self.timer.progress = now
        self.stack.mark(self)

    def open_passively(self, seq, window, options, now):
        """Answer a peer's SYN (3.10.7.2), whose wire.parse_syn_options() are `options`."""
        self.state = SYN_RECEIVED
        inbound.take_syn(self, seq, options)
        # RFC 7323 2.2: the window of a SYN is never scaled.
        self.window.update(window, seq, 0)
        self.timer.progress = now
        self.stack.mark(self)

    def open_by_cookie(self, seq, options):
        """Become what the SYN before `seq` would have made, had it been remembered.

        Args: options: the SYN's. The connection's `iss` is the cookie; input() takes the ACK next.
        """
        self.state = SYN_RECEIVED
        inbound.take_syn(self, (seq - 1) & MASK, options)
        # What the SYN with our ACK advertised.
        self.rcv_adv += min(self.stack.receive_pool.size, 0xFFFF)
        self.snd_nxt = self.snd_max = self.iss + 1

    def can_send(self):
        """Return whether send() would take a byte, or fail at once."""
        state = self.state
        if state in (SYN_SENT, SYN_RECEIVED):
            return False
        if self.snd_fin or state not in (ESTABLISHED, CLOSE_WAIT):
            return True
        return self._send_room() > 0

    def _send_room(self):
        ring = self.snd_ring
        if ring is None:
            pool = self.stack.send_pool
            return pool.size if pool.available() else 0
        return len(ring) - (self.snd_end - max(self.snd_una, self.iss + 1))

    def send(self, buf, offset, count):
        """Queue bytes of buf[offset:offset + count]; return how many were taken, 0 for full.

        Raises OSError: EPIPE after shutdown(), ENOTCONN, or what ended the connection.
        """
        if self.snd_fin:
            raise OSError(EPIPE)
        if self.state not in (ESTABLISHED, CLOSE_WAIT):
            if self.state in (SYN_SENT, SYN_RECEIVED):
                return 0
            self._raise_error(EPIPE if self.rcv_nxt else ENOTCONN)
        count = min(count, self._send_room())
        if count > 0:
            if self.snd_ring is None:
                self.snd_ring = self.stack.send_pool.take()
                if self.snd_ring is None:
                    return 0
            buffers.write(self.snd_ring, self.snd_end, buf, offset, count)
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
        if self.rcv_fin is not None and end > self.rcv_fin:
            end -= 1
        return end - self.rcv_user

    def readable(self):
        """Return whether receive() would not return None: text, the peer's end, or an error."""
        return (
            self.rcv_nxt > self.rcv_user
            or self.state == CLOSED
            or self.state == TIME_WAIT
            or self.error != 0
        )

    def at_end(self):
        """Return whether nothing will be readable beyond available(): the peer is done."""
        if self.state in (SYN_SENT, SYN_RECEIVED):
            return False
        return self.state in (CLOSED, TIME_WAIT) or (
            self.rcv_fin is not None and self.rcv_nxt > self.rcv_fin
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
        buffers.read(self.rcv_ring, self.rcv_user, buf, offset, count)
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
        data = buffers.read_bytes(self.rcv_ring, self.rcv_user, count)
        self._consumed(count)
        return data

    def _nothing(self, end):
        if self.error and self.state == CLOSED:
            self._raise_error(0)
        return end if self.at_end() else None

    def _consumed(self, count):
        self.rcv_user += count
        if self.reassembly is None and self.available() <= 0:
            self._release_receive()
        # 3.8.6.2.2: advertise the space when it is worth a segment. While the peer may still send
        # much, the acknowledgement of what it sends will do.
        size = self.stack.receive_pool.size
        half = size // 2
        if self.rcv_adv - self.rcv_nxt <= max(_AMPLE_WINDOW, half) and (
            self.rcv_user + size - self.rcv_adv >= min(half, 2 * self.local_mss)
        ):
            if self.state in (ESTABLISHED, FIN_WAIT_1, FIN_WAIT_2):
                self.ack_due = True
                self.stack.mark(self)

    def find(self, byte):
        """Return how many readable bytes come before the first `byte`, or -1."""
        ready = self.available()
        if ready <= 0:
            return -1
        return buffers.find(self.rcv_ring, self.rcv_user, ready, byte)

    def shutdown(self):
        """Close the sending direction: a FIN follows what was queued (3.10.4)."""
        if self.state == ESTABLISHED:
            self.state = FIN_WAIT_1
        elif self.state == CLOSE_WAIT:
            self.state = LAST_ACK
        else:
            return
        self.snd_fin = True
        self.stack.mark(self)
        self.stack.touch(self)

    def close(self, now):
        """Close both directions; the connection ends by itself and is not the user's any more.

        Data that the user did not read is lost, and the peer learns of it by a reset (3.6.1,
        RFC 1122 4.2.2.13), but only after it acknowledged what the user had sent.
        """
        self.orphan_since = now
        if self.available() > 0:
            self.text_lost = True
        self.rcv_user = self.rcv_nxt
        reassembly = self.reassembly
        if reassembly is not None:
            if reassembly.ranges:
                self.text_lost = True
                reassembly.ranges = []
            if reassembly.is_empty():
                self.reassembly = None
        self._release_receive()
        if self.state == SYN_SENT:
            self.end(0)
        elif self.state == SYN_RECEIVED:
            self.abort()
        elif self.state == FIN_WAIT_2:
            self.enter_fin_wait_2(now)
        else:
            self.shutdown()

    def abort(self):
        """End the connection at once, with a reset where the peer knows of it (3.10.5)."""
        if self.state not in (CLOSED, SYN_SENT, TIME_WAIT):
            outbound.send_reset(self)
        self.end(0)

    def set_keepalive(self, on, now, options=None):
        """Probe an idle peer (3.8.4), or stop to.

        Args: options: {name: value} of Keepalive's fields that differ from their defaults.
        """
        self.keepalive = Keepalive(now) if on else None
        if on and options:
            for name, value in options.items():
                setattr(self.keepalive, name, value)
        if self.timer.kind in (NONE, KEEPALIVE):
            self.timer.set(NONE, None)
            self.await_idle(now)

    # -- What the stack asks and reports ----------------------------------------------------

    def may_be_replaced(self, seq, options):
        """Return whether a SYN may open a new connection in the place of this one in TIME-WAIT.

        3.10.7.4, MAY-2: by a higher number; RFC 6191 2: or by a later timestamp, or by one where
        there was none.
        """
        stamp = options[3] if self.stack.timestamps else None
        if stamp is not None:
            if self.timestamps is None:
                return True
            if stamp != self.timestamps.recent:
                return is_later(stamp, self.timestamps.recent)
        return is_later(seq, self.rcv_nxt)

    def unreachable(self, seq, error, hard):
        """Take an ICMP error about the segment with number `seq` (RFC 1122 4.2.3.9).

        RFC 5927 4.1 and 5.2: only a number in flight is believed, and once the handshake is done
        no message ends a connection; it is kept as the reason of a timeout to come.
        """
        if not self._is_in_flight(seq):
            return
        if hard and self.state == SYN_SENT:
            self.end(error)
        else:
            self.soft_error = error

    def path_mtu(self, seq, mtu):
        """Take an ICMP report of the path's MTU about segment `seq` (RFC 1191 6.5).

        Returns whether it was believed.
        """
        mss = mtu - self.family.HEADER - wire.HEADER
        if self.timestamps is not None:
            mss -= wire.TIMESTAMPS_LENGTH
        if self.state <= SYN_RECEIVED or mss >= self.mss or not self._is_in_flight(seq):
            return False
        self.mss = mss
        # RFC 1191 6.5: sent again at once, and not a sign of congestion.
        if self.snd_max > self.snd_una:
            self.snd_nxt = self.snd_una
            self.recovery.restart(self)
            self.rtt.timed_end = None
            self.stack.mark(self)
        return True

    def _is_in_flight(self, seq):
        return self.snd_una <= unwrap(seq, self.snd_una) < self.snd_max

    # -- Changes of state -------------------------------------------------------------------

    def add_timestamps_to_header(self):
        """Make room for timestamps in all segments from now on (RFC 7323 3.2)."""
        header = self.header + bytes(wire.TIMESTAMPS_LENGTH)
        ip = self.family.HEADER
        header[ip + 12] = wire.HEADER + wire.TIMESTAMPS_LENGTH << 2
        wire.emit_timestamps(header, ip + wire.HEADER, 0, 0)
        self.header = header

    def establish(self, now):
        """Enter ESTABLISHED, or end where the listener has no room."""
        self.state = ESTABLISHED
        self.congestion.start(self.mss, self.timer.timeouts > 0, now)
        self.recovery.point = self.iss
        if self.keepalive is not None:
            self.keepalive.heard = now
        self.timer.last_send = now
        listener = self.listener
        if listener is not None and not listener.established(self):
            self.abort()

    def await_idle(self, now):
        """Start the keepalive timer, if it is on: nothing is in flight."""
        if self.keepalive is not None and self.state in (ESTABLISHED, CLOSE_WAIT):
            self.timer.set(KEEPALIVE, now + self.keepalive.idle)

    def enter_fin_wait_2(self, now):
        """Wait for the peer's FIN, without a user for a limited time: ours is acknowledged."""
        self.state = FIN_WAIT_2
        if self.orphan_since is not None:
            if self.text_lost:
                self.abort()
            else:
                self.timer.set(LINGER, now + timeouts.ORPHAN_TIMEOUT)

    def enter_time_wait(self, now):
        """Both FINs are acknowledged: wait for late segments (3.6.1)."""
        self.state = TIME_WAIT
        self.timer.set(LINGER, now + inbound.TIME_WAIT_TIME)
        self._release_send()
        self.stack.tcp.enter_time_wait(self)

    def end(self, error):
        """Leave the stack without a word to the peer; the user gets `error`, 0 for none.

        What was received stays readable until the user closes.
        """
        has_user = self.listener is None
        self.stack.tcp.forget(self)
        self.state = CLOSED
        self.error = error
        self.timer.stop()
        self._release_send()
        if not has_user or self.available() <= 0:
            self._release_receive()
        self.stack.touch(self)

    def _release_receive(self):
        if self.rcv_ring is not None:
            self.stack.receive_pool.give(self.rcv_ring)
            self.rcv_ring = None

    def _release_send(self):
        if self.snd_ring is not None:
            self.stack.send_pool.give(self.snd_ring)
            self.snd_ring = None
