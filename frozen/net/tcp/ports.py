"""A stack's TCP ports: give segments to connections and listeners, and answer unknown ones.

Clauses without a document are of RFC 9293.
"""

import hashlib
import struct

from micropython import const
from net import family, ipv4, ipv6
from net.errors import EADDRINUSE, EINVAL, ENETUNREACH
from net.tcp import cookies, wire
from net.tcp.connection import Connection
from net.tcp.listener import Listener
from net.tcp.sequence import HALF, MASK
from net.tcp.states import TIME_WAIT
from net.tcp.wire import ACK, FIN, RST, SYN

_IP = const(14)  # where the IP header starts in a frame

_MAX_TIME_WAIT = const(512)
# How far a connection's numbers start beyond those of the one in TIME-WAIT that it replaces.
_PAST_LAST = const(65537)


class Ports:
    """Listeners and connections of a Stack, by port."""

    def __init__(self, stack):
        self._stack = stack
        self._secret = stack.random(16)
        self.listeners = {}
        self.bound = set()
        # Connections by local port, then by the key of the remote address and port (net.family).
        self.table = {}
        self.time_waits = []

    # -- The user's calls -------------------------------------------------------------------

    def connections(self):
        """Return all connections, those in handshakes and in TIME-WAIT too."""
        found = []
        for peers in self.table.values():
            found.extend(peers.values())
        return found

    def bind(self, port):
        """Reserve a local port, 0 for any; returns it. OSError: EADDRINUSE."""
        if port == 0:
            port = self._stack.ephemeral_port(self._is_free)
        elif port in self.bound:
            raise OSError(EADDRINUSE)
        self.bound.add(port)
        return port

    def release(self, port):
        """Give a reserved port back."""
        self.bound.discard(port)

    def _is_free(self, port):
        return port not in self.bound and port not in self.table

    def listen(self, address, port, backlog, only=None):
        """Open a reserved port for connections; returns the Listener.

        Args: address: the local one that they must be to, 0 for any; only: the one family of
        addresses that it takes, None for both.
        """
        if port in self.listeners:
            raise OSError(EADDRINUSE)
        listener = self.listeners[port] = Listener(self._stack, address, port, backlog, only)
        return listener

    def connect(self, remote, remote_port, port, now, local=0):
        """Open a connection; `port` 0 takes any, `local` 0 the address that leads to `remote`.

        Returns it in SYN-SENT. Raises OSError: ENETUNREACH, EADDRINUSE, EINVAL: no way leads from
        `local` to `remote`.
        """
        stack = self._stack
        stack.now = now
        source = stack.source_for(remote)
        if not (stack.is_local(remote) or stack.is_host(remote)):
            # 3.9.2.3: no connection to a broadcast or multicast address.
            raise OSError(ENETUNREACH)
        if local and local != source:
            if not stack.can_send(local, remote):
                raise OSError(EINVAL)
            source = local
        if port == 0:
            port = stack.ephemeral_port(self._is_free)
        elif family.of(remote).key(remote, remote_port) in self.table.get(port, ()):
            raise OSError(EADDRINUSE)
        connection = self._new_connection(source, port, remote, remote_port)
        connection.connect(now)
        return connection

    # -- Called by listeners and connections ------------------------------------------------

    def close_listener(self, listener):
        """Forget a listener."""
        if self.listeners.get(listener.port) is listener:
            del self.listeners[listener.port]

    def forget(self, connection):
        """Forget a connection that ends, in its last state."""
        peers = self.table.get(connection.port)
        remote = connection.remote
        if isinstance(remote, int):
            key = remote << 16 | connection.remote_port
        else:
            key = ipv6.key(remote, connection.remote_port)
        if peers is None or peers.get(key) is not connection:
            return
        del peers[key]
        if not peers:
            del self.table[connection.port]
        if connection.listener is not None:
            connection.listener.forget(connection)
            connection.listener = None
        if connection.state == TIME_WAIT:
            self.time_waits.remove(connection)

    def enter_time_wait(self, connection):
        """Count a connection that entered TIME-WAIT: beyond the limit the oldest ends."""
        self.time_waits.append(connection)
        if len(self.time_waits) > _MAX_TIME_WAIT:
            self.time_waits[0].abort()

    # -- Segments that arrive ---------------------------------------------------------------

    def input_packet(self, frame, start, end, source, destination):
        """Check the segment in frame[start:end] and take it; return whether it was well-formed."""
        ip = ipv4 if isinstance(source, int) else ipv6  # family.of() inline
        pseudo = ip.pseudo_header_sum(ip.TCP, source, destination)
        segment = wire.parse(frame, start, end, pseudo)
        if segment is None:
            return False
        data = segment[6]
        options = None
        if segment[4] & SYN:
            options = wire.parse_syn_options(frame, start + wire.HEADER, data, ip.TCP_MSS)
        elif data - start > wire.HEADER:
            options = wire.parse_options(frame, start + wire.HEADER, data)
        self.input(destination, source, segment, options, frame, end)
        return True

    def input(self, destination, source, segment, options, frame, end):
        """Give a segment to its connection or listener, or answer it.

        Args: segment: from wire.parse(); options: wire.parse_syn_options() of a SYN,
        wire.parse_options() of another segment that has options, or None; end: where its payload
        ends in `frame`.
        """
        source_port, port, seq, ack, flags, window, data = segment
        now = self._stack.now
        if isinstance(source, int):
            key = source << 16 | source_port
        else:
            key = ipv6.key(source, source_port)
        peers = self.table.get(port)
        connection = peers.get(key) if peers else None
        listener = self.listeners.get(port)
        listens = listener is not None
        if listens and not listener.takes(destination):
            listener = None
        kind = flags & (SYN | ACK | RST)
        last = None
        if (
            connection is not None
            and connection.state == TIME_WAIT
            and kind == SYN
            and listener is not None
            and connection.local == destination
            and not listener.is_full()
            and connection.may_be_replaced(seq, options)
        ):
            last = connection.snd_max
            connection.abort()
            connection = None
        if connection is not None and connection.local == destination:
            connection.input(seq, ack, flags, window, options, frame, data, end, now)
        elif connection is None and kind == SYN and listener is not None:
            if listener.is_full():
                pass
            elif listener.needs_cookie(now):
                self._send_cookie(destination, port, source, source_port, seq, options)
            else:
                addresses = (destination, port, source, source_port)
                self._open_passively(listener, addresses, seq, window, options, last)
        elif (
            connection is None
            and kind == ACK
            and listener is not None
            and listener.expects_cookie(now)
            and self._open_by_cookie(
                listener, (destination, port, source, source_port), seq, ack, options
            )
        ):
            connection = self.table[port][key]
            connection.input(seq, ack, flags, window, options, frame, data, end, now)
        elif not flags & RST:
            self._refuse(destination, source, segment, end, listens)

    def _refuse(self, local, remote, segment, end, listens):
        """Answer a segment of no connection by a reset (3.10.7.1)."""
        remote_port, port, seq, ack, flags, _, data = segment
        if flags & ACK:
            self._send(local, port, remote, remote_port, ack, 0, RST)
        elif flags & SYN or not listens:
            # 3.10.7.2, fourth: what has neither ACK nor SYN is nothing to LISTEN.
            extent = end - data + (1 if flags & SYN else 0) + (1 if flags & FIN else 0)
            self._send(local, port, remote, remote_port, 0, seq + extent, RST | ACK)

    # -- Handshakes -------------------------------------------------------------------------

    def _open_passively(self, listener, addresses, seq, window, options, last=None):
        """Answer a SYN.

        Args: addresses: (local, port, remote, remote_port); last: our last number in the
        connection that this one replaces, None for none.
        """
        iss = None
        if last is not None:
            # 3.10.7.4, MAY-2: beyond all numbers of the old one, and its windows.
            iss = self.initial_numbers(*addresses)[0]
            if not _PAST_LAST <= (iss - last) & MASK < HALF:
                iss = (last + _PAST_LAST) & MASK
        connection = self._new_connection(*addresses, iss)
        listener.opened(connection)
        connection.open_passively(seq, window, options, self._stack.now)

    def _send_cookie(self, local, port, remote, remote_port, seq, options):
        """Answer a SYN without remembering it (RFC 4987 3.6)."""
        stack = self._stack
        mss, shift, sack, stamp = options
        addresses = (local, port, remote, remote_port)
        cookie = cookies.make(self._secret, addresses, seq, mss, stack.now)
        stamps = ours = None
        if stamp is not None and stack.timestamps:
            clock = stack.now + self.initial_numbers(*addresses)[1]
            stamps = (cookies.timestamp(clock, shift, sack), stamp)
            if shift is not None:
                ours = stack.receive_pool.window_shift()
        sack = sack and stack.sack and stamps is not None
        mss = self._local_mss(remote, stack.link or stack.loopback)
        self._send(
            local,
            port,
            remote,
            remote_port,
            cookie,
            seq + 1,
            SYN | ACK,
            min(stack.receive_pool.size, 0xFFFF),
            wire.emit_syn_options(mss, ours, sack, stamps),
        )

    def _open_by_cookie(self, listener, addresses, seq, ack, options):
        """Make the connection of an ACK that brings a cookie back; False: it brings none.

        Args: addresses: (local, port, remote, remote_port); options: wire.parse_options().
        """
        stack = self._stack
        cookie = (ack - 1) & MASK
        mss = cookies.check(self._secret, addresses, seq - 1, cookie, stack.now)
        if mss is None:
            return False
        stamps = None
        if stack.timestamps and options is not None and options[0] is not None:
            stamps = options[:2]
        connection = self._new_connection(*addresses, cookie)
        listener.opened(connection)
        connection.open_by_cookie(seq, cookies.options(mss, stamps))
        return True

    def _new_connection(self, local, port, remote, remote_port, initial=None):
        stack = self._stack
        link = stack.link
        if link is None or stack.is_local(remote):
            link = stack.loopback
        mss = self._local_mss(remote, link)
        iss, clock = self.initial_numbers(local, port, remote, remote_port)
        if initial is not None:
            iss = initial
        connection = Connection(stack, local, port, remote, remote_port, mss, iss, clock)
        if link is stack.link:
            connection.large = stack.large(remote)
        peers = self.table.get(port)
        if peers is None:
            peers = self.table[port] = {}
        if isinstance(remote, int):
            key = remote << 16 | remote_port
        else:
            key = ipv6.key(remote, remote_port)
        peers[key] = connection
        return connection

    def _local_mss(self, remote, link):
        # 3.7.1: the fixed headers are left out.
        ip = ipv4 if isinstance(remote, int) else ipv6
        return self._stack.path_mtu(remote, link) - ip.HEADER - wire.HEADER

    def initial_numbers(self, local, port, remote, remote_port):
        """Return a connection's initial sequence number and offset of the timestamps' clock.

        RFC 6528 3: ISN = M + F(addresses, ports, secret), M a clock of 4 microseconds. RFC 7323
        5.4 and 7.1: the offset hides the uptime, and the clock goes on from one connection of
        these addresses to the next.
        """
        digest = hashlib.sha256(
            self._secret + cookies.identity((local, port, remote, remote_port))
        ).digest()
        function, offset = struct.unpack_from(">II", digest, 0)
        return (self._stack.now * 250 + function) & MASK, offset

    def _send(self, local, port, remote, remote_port, seq, ack, flags, window=0, options=b""):
        """Send a segment that belongs to no connection."""
        out = self._stack.begin(remote)
        if out is None:
            return
        ip = ipv4 if isinstance(remote, int) else ipv6
        tcp = _IP + ip.HEADER
        header = wire.HEADER + len(options)
        out[tcp + wire.HEADER : tcp + header] = options
        pseudo = ip.pseudo_header_sum(ip.TCP, local, remote)
        wire.emit(out, tcp, port, remote_port, seq, ack, flags, window, header, 0, pseudo)
        ip.emit(out, _IP, ip.TCP, local, remote, header)
        self._stack.commit(tcp + header)
