"""The stack of one interface: takes frames, gives frames, owns the tables of ports.

Nothing here waits or reads a clock. The caller passes received frames to input() and then calls
poll(), which runs timers and sends; poll() also follows every call that a user makes.

A link object has `mac` (bytes of length 6), `mtu` (bytes of IP per frame), `tx_alloc()`, which
returns a writable buffer of mtu + 14 bytes or None while the link is full, and `tx_commit(n)`,
which sends the first n bytes of that buffer.
"""

import hashlib
import os
import struct

from micropython import const
from net import arp, ethernet, icmp, ipv4, tcp, tcp_congestion, udp
from net.buffers import Pool
from net.loopback import Discard, Loopback
from net.neighbours import Neighbours
from net.tcp_connection import TIME_WAIT, Connection
from net.tcp_listener import Listener
from net.timers import Timers
from net.udp_endpoint import Endpoint

EADDRINUSE = const(98)
EMSGSIZE = const(90)
ENETUNREACH = const(101)
ECONNABORTED = const(103)
ENOBUFS = const(105)

# RFC 6335 6: ports that are nobody's service.
_EPHEMERAL_FIRST = const(49152)
_EPHEMERAL_COUNT = const(16384)

_IP = const(14)  # where the IP header starts in a frame
_UDP_PAYLOAD = const(42)
_MAX_TIME_WAIT = const(512)
_UNREACHABLE_INTERVAL = const(10)
# Frames to oneself are taken back in rounds, so that one poll() ends.
_LOOPBACK_ROUNDS = const(64)


class Stack:
    """An IPv4 host.

    Args:
        link: a link object, or None for a host that has only itself.
        random: function of n that returns n random bytes.
        buffer_size: bytes of each direction of a TCP connection, a power of two.
        buffer_limit: connections that may hold data at a time, per direction.
        sack, timestamps: offer and accept these TCP options (RFC 2018, RFC 7323).
        congestion: RENO or WESTWOOD, see net.tcp_congestion.
    """

    def __init__(
        self,
        link=None,
        random=os.urandom,
        buffer_size=65536,
        buffer_limit=256,
        sack=True,
        timestamps=True,
        congestion=tcp_congestion.WESTWOOD,
    ):
        self.now = 0
        self.congestion = congestion
        self.sack = sack
        self.timestamps = timestamps
        self.address = 0
        self.netmask = 0
        self.gateway = 0
        self.dns_servers = []
        self.hostname = "cllm"
        self.timers = Timers()
        self.send_pool = Pool(buffer_size, buffer_limit)
        self.receive_pool = Pool(buffer_size, buffer_limit)
        self.random = random
        self.loopback = Loopback()
        self.discard = Discard()
        # Frames that were not for us, malformed, or out of place.
        self.dropped = 0

        self._secret = random(16)
        self._listeners = {}
        self._bound = set()
        # Connections by local port, then by remote address << 16 | remote port.
        self._connections = {}
        self._udp = {}
        self._ready = []
        self._time_waits = []
        self._unreachable_at = 0
        self._out = None
        self.attach(link)

    # -- The interface ----------------------------------------------------------------------

    def attach(self, link):
        """Use `link` from now on, None for no link; the address is forgotten."""
        self.configure(0, 0, 0, [])
        self.link = link
        self.neighbours = Neighbours(link, self.timers, self._own) if link else None

    def configure(self, address, netmask, gateway, dns_servers):
        """Set the interface's addresses; 0 for none. Connections of an old address end."""
        old = self.address
        self.address = address
        self.netmask = netmask
        self.gateway = gateway
        self.dns_servers = dns_servers
        if old and old != address:
            for connection in self.connections():
                if connection.local == old:
                    connection.fail(ECONNABORTED)
            self.neighbours.clear()
        if address and address != old and self.link:
            self.neighbours.announce()

    def _own(self):
        return self.address

    def is_local(self, address):
        """Tell whether `address` is this host's own."""
        return address >> 24 == 127 or (address == self.address and address != 0)

    def source_for(self, destination):
        """Return the local address that talks to `destination`; OSError where no way leads."""
        if self.is_local(destination):
            return destination
        if self.link is None or not self.address or not self._next_hop(destination):
            raise OSError(ENETUNREACH)
        return self.address

    def _next_hop(self, destination):
        if (destination ^ self.address) & self.netmask == 0:
            return destination
        return self.gateway

    def _is_broadcast(self, address):
        return address == ipv4.BROADCAST or (
            self.address != 0 and address == self.address | (~self.netmask & 0xFFFFFFFF)
        )

    # -- Frames that arrive -----------------------------------------------------------------

    def input(self, frame, now):
        """Take one received frame (a memoryview, which is not kept)."""
        self.now = now
        if len(frame) < ethernet.HEADER or self.link is None:
            self.dropped += 1
            return
        kind = frame[12] << 8 | frame[13]
        if kind == ethernet.TYPE_IPV4:
            self._input_ip(frame, False)
        elif kind == ethernet.TYPE_ARP:
            packet = arp.parse(frame, ethernet.HEADER)
            if packet is None:
                self.dropped += 1
            else:
                self.neighbours.input(packet, now)

    def _input_ip(self, frame, loop):
        header = ipv4.parse(frame, _IP)
        if header is None:
            self.dropped += 1
            return
        protocol, source, destination, start, end = header
        # RFC 1122 3.2.1.3: addresses that no packet on a wire may come from.
        if not loop and (
            source >> 24 in (0, 127) or source >= 0xE0000000 or self.is_local(source)
        ):
            self.dropped += 1
            return
        local = destination >> 24 == 127 if loop else False
        if local or (destination == self.address and destination):
            if protocol == ipv4.TCP:
                self._input_tcp(frame, start, end, source, destination)
            elif protocol == ipv4.UDP:
                self._input_udp(frame, start, end, source, destination, True)
            elif protocol == ipv4.ICMP:
                self._input_icmp(frame, start, end, source, destination)
        elif protocol == ipv4.UDP and (not self.address or self._is_broadcast(destination)):
            # Without an address, DHCP's answers come to the one that it offers (RFC 2131 4.1).
            self._input_udp(frame, start, end, source, destination, False)

    def _input_icmp(self, frame, start, end, source, destination):
        message = icmp.parse(frame, start, end)
        if message is None:
            self.dropped += 1
        elif message == (icmp.ECHO_REQUEST, 0):
            # RFC 1122 3.2.2.6: the data comes back whole.
            out = self.begin(source)
            if out is None:
                return
            rest = struct.unpack_from(">I", frame, start + 4)[0]
            data = frame[start + icmp.HEADER : end]
            length = icmp.emit(out, _IP + ipv4.HEADER, icmp.ECHO_REPLY, 0, rest, data)
            ipv4.emit(out, _IP, ipv4.ICMP, destination, source, length)
            self.commit(_IP + ipv4.HEADER + length)

    def _input_udp(self, frame, start, end, source, destination, unicast):
        header = udp.parse(frame, start, end, source, destination)
        if header is None:
            self.dropped += 1
            return
        source_port, port, data_start, data_end = header
        endpoint = self._udp.get(port)
        if endpoint is not None:
            endpoint.datagram(frame, data_start, data_end, source, source_port, self.now)
        elif unicast and self.now >= self._unreachable_at:
            # RFC 1122 4.1.3.1, at the bounded rate of RFC 1812 4.3.2.8.
            self._unreachable_at = self.now + _UNREACHABLE_INTERVAL
            out = self.begin(source)
            if out is None:
                return
            quote = frame[_IP : min(start + 8, end)]
            length = icmp.emit(
                out, _IP + ipv4.HEADER, icmp.UNREACHABLE, icmp.PORT_UNREACHABLE, 0, quote
            )
            ipv4.emit(out, _IP, ipv4.ICMP, destination, source, length)
            self.commit(_IP + ipv4.HEADER + length)

    def _input_tcp(self, frame, start, end, source, destination):
        pseudo = ipv4.pseudo_header_sum(ipv4.TCP, source, destination)
        segment = tcp.parse(frame, start, end, pseudo)
        if segment is None:
            self.dropped += 1
            return
        source_port, port, seq, ack, flags, window, data = segment
        options = None
        if flags & tcp.SYN:
            options = tcp.parse_syn_options(frame, start + tcp.HEADER, data)
        elif data - start > tcp.HEADER:
            options = tcp.parse_options(frame, start + tcp.HEADER, data)
        peers = self._connections.get(port)
        connection = peers.get(source << 16 | source_port) if peers else None
        listener = self._listeners.get(port)
        opens = flags & (tcp.SYN | tcp.ACK | tcp.RST) == tcp.SYN
        if (
            connection is not None
            and connection.state == TIME_WAIT
            and opens
            and listener is not None
            and connection.may_be_replaced(seq, options)
        ):
            connection.abort()
            connection = None
        if connection is not None and connection.local == destination:
            connection.input(seq, ack, flags, window, options, frame, data, end, self.now)
        elif connection is None and opens and listener is not None and (
            listener.address in (0, destination)
        ):
            if listener.may_open():
                self._open_passively(
                    listener, destination, port, source, source_port, seq, window, options
                )
        elif not flags & tcp.RST:
            # RFC 9293 3.10.7.1
            if flags & tcp.ACK:
                self._reset(destination, port, source, source_port, ack, 0, tcp.RST)
            else:
                extent = end - data
                if flags & tcp.SYN:
                    extent += 1
                if flags & tcp.FIN:
                    extent += 1
                reply = tcp.RST | tcp.ACK
                self._reset(destination, port, source, source_port, 0, seq + extent, reply)

    def _open_passively(self, listener, local, port, remote, remote_port, seq, window, options):
        connection = self._new_connection(local, port, remote, remote_port)
        listener.opened(connection)
        connection.open_passively(seq, window, options, self.now)

    def _reset(self, local, port, remote, remote_port, seq, ack, flags):
        out = self.begin(remote)
        if out is None:
            return
        pseudo = ipv4.pseudo_header_sum(ipv4.TCP, local, remote)
        tcp.emit(
            out,
            _IP + ipv4.HEADER,
            port,
            remote_port,
            seq,
            ack,
            flags,
            0,
            tcp.HEADER,
            0,
            pseudo,
        )
        ipv4.emit(out, _IP, ipv4.TCP, local, remote, tcp.HEADER)
        self.commit(_IP + ipv4.HEADER + tcp.HEADER)

    # -- Frames that leave ------------------------------------------------------------------

    def begin(self, destination):
        """Return a frame buffer towards `destination` with its Ethernet header written.

        None while the link is full. The packet goes to offset 14; commit() sends it.
        """
        link = self.link
        mac = ethernet.BROADCAST
        if self.is_local(destination):
            link = self.loopback
            mac = link.mac
        elif link is None:
            link = self.discard
        elif not self._is_broadcast(destination):
            hop = self._next_hop(destination)
            if not hop:
                link = self.discard
            else:
                neighbour = self.neighbours.lookup(hop, self.now)
                if neighbour.mac is None:
                    link = neighbour
                else:
                    mac = neighbour.mac
        frame = link.tx_alloc()
        if frame is not None:
            source = self.link.mac if self.link is not None else self.loopback.mac
            ethernet.emit(frame, mac, source, ethernet.TYPE_IPV4)
            self._out = link
        return frame

    def commit(self, length):
        """Send the first `length` bytes of the buffer that begin() returned last."""
        self._out.tx_commit(length)

    def mark(self, connection):
        """Have poll() call the connection's output()."""
        if not connection.marked:
            connection.marked = True
            self._ready.append(connection)

    def poll(self, now):
        """Run timers and send; return the time of the next call in milliseconds, or None."""
        self.now = now
        self.timers.run(now)
        for _ in range(_LOOPBACK_ROUNDS):
            blocked = False
            if self._ready:
                ready, self._ready = self._ready, []
                for connection in ready:
                    connection.marked = False
                    if not connection.output(now):
                        self.mark(connection)
                        blocked = True
            if not self.loopback.frames:
                if blocked or not self._ready:
                    break
                continue
            frames, self.loopback.frames = self.loopback.frames, []
            for frame in frames:
                self._input_ip(frame, True)
        return self.deadline()

    def pending(self):
        """Tell whether poll() has something to do whatever the time."""
        return bool(self._ready or self.loopback.frames)

    def deadline(self):
        """Return when poll() must be called next, in milliseconds, or None."""
        # What is left after poll() waits for room on the link.
        return self.now + 1 if self.pending() else self.timers.next()

    # -- TCP --------------------------------------------------------------------------------

    def connections(self):
        """Return all TCP connections, those in handshakes and in TIME-WAIT too."""
        found = []
        for peers in self._connections.values():
            found.extend(peers.values())
        return found

    def bind_tcp(self, port):
        """Reserve a local port, 0 for any; returns it. OSError: EADDRINUSE."""
        if port == 0:
            port = self._ephemeral(self._tcp_port_free)
        elif port in self._bound:
            raise OSError(EADDRINUSE)
        self._bound.add(port)
        return port

    def release_tcp(self, port):
        """Give a reserved port back."""
        self._bound.discard(port)

    def _tcp_port_free(self, port):
        return port not in self._bound and port not in self._connections

    def _ephemeral(self, free):
        # RFC 6056 3.3.1: a random start, then the next free one.
        offset = struct.unpack(">H", self.random(2))[0]
        for step in range(_EPHEMERAL_COUNT):
            port = _EPHEMERAL_FIRST + (offset + step) % _EPHEMERAL_COUNT
            if free(port):
                return port
        raise OSError(EADDRINUSE)

    def listen(self, address, port, backlog):
        """Open a reserved port for connections; returns the Listener."""
        if port in self._listeners:
            raise OSError(EADDRINUSE)
        listener = self._listeners[port] = Listener(self, address, port, backlog)
        return listener

    def close_listener(self, listener):
        """Called by Listener.close()."""
        if self._listeners.get(listener.port) is listener:
            del self._listeners[listener.port]

    def connect(self, remote, remote_port, port, now):
        """Open a connection; `port` 0 takes any. Returns it in SYN-SENT.

        Raises OSError: ENETUNREACH, EADDRINUSE.
        """
        self.now = now
        local = self.source_for(remote)
        if port == 0:
            port = self._ephemeral(self._tcp_port_free)
        elif (remote << 16 | remote_port) in self._connections.get(port, ()):
            raise OSError(EADDRINUSE)
        connection = self._new_connection(local, port, remote, remote_port)
        connection.connect(now)
        return connection

    def _new_connection(self, local, port, remote, remote_port):
        link = self.loopback if self.is_local(remote) or self.link is None else self.link
        mss = link.mtu - ipv4.HEADER - tcp.HEADER
        iss, clock = self._initial_numbers(local, port, remote, remote_port)
        connection = Connection(self, local, port, remote, remote_port, mss, iss, clock)
        peers = self._connections.get(port)
        if peers is None:
            peers = self._connections[port] = {}
        peers[remote << 16 | remote_port] = connection
        return connection

    def _initial_numbers(self, local, port, remote, remote_port):
        """Return a connection's initial sequence number and offset of the timestamps' clock.

        RFC 6528 3: ISN = M + F(addresses, ports, secret), M a clock of 4 microseconds. RFC 7323
        5.4 and 7.1: the offset hides the uptime, and the clock goes on from one connection of
        these addresses to the next.
        """
        identity = struct.pack(">IHIH", local, port, remote, remote_port)
        digest = hashlib.sha256(self._secret + identity).digest()
        function, offset = struct.unpack_from(">II", digest, 0)
        return (self.now * 250 + function) & 0xFFFFFFFF, offset

    def forget(self, connection):
        """Called by a connection that ends."""
        peers = self._connections.get(connection.port)
        key = connection.remote << 16 | connection.remote_port
        if peers is None or peers.get(key) is not connection:
            return
        del peers[key]
        if not peers:
            del self._connections[connection.port]
        if connection.listener is not None:
            connection.listener.forget(connection)
            connection.listener = None
        if connection.state == TIME_WAIT:
            self._time_waits.remove(connection)

    def enter_time_wait(self, connection):
        """Called by a connection that entered TIME-WAIT: their number is bounded."""
        self._time_waits.append(connection)
        if len(self._time_waits) > _MAX_TIME_WAIT:
            self._time_waits[0].abort()

    # -- UDP --------------------------------------------------------------------------------

    def open_udp(self, port, endpoint=None):
        """Open a UDP port, 0 for any.

        Args: endpoint: who gets the datagrams, by a method `datagram` as Endpoint has it.
        Returns the endpoint, a new Endpoint where none is given. Raises OSError: EADDRINUSE.
        """
        if port == 0:
            port = self._ephemeral(self._udp_port_free)
        elif port in self._udp:
            raise OSError(EADDRINUSE)
        if endpoint is None:
            endpoint = Endpoint(self, port)
        endpoint.port = port
        self._udp[port] = endpoint
        return endpoint

    def _udp_port_free(self, port):
        return port not in self._udp

    def close_udp(self, port):
        """Close a UDP port."""
        self._udp.pop(port, None)

    def send_udp(self, port, remote, remote_port, data, source=None):
        """Send one datagram and return the length of `data`.

        Raises OSError: EMSGSIZE for more than a frame takes, ENOBUFS while the link is full,
        ENETUNREACH. Args: source: an address other than the interface's own.
        """
        if source is None:
            if self._is_broadcast(remote) and self.link is not None:
                source = self.address
            else:
                source = self.source_for(remote)
        link = self.loopback if self.is_local(remote) else self.link
        length = len(data)
        if length > link.mtu - ipv4.HEADER - udp.HEADER:
            raise OSError(EMSGSIZE)
        frame = self.begin(remote)
        if frame is None:
            raise OSError(ENOBUFS)
        frame[_UDP_PAYLOAD : _UDP_PAYLOAD + length] = data
        total = udp.emit(
            frame, _IP + ipv4.HEADER, source, port, remote, remote_port, length
        )
        ipv4.emit(frame, _IP, ipv4.UDP, source, remote, total)
        self.commit(_IP + ipv4.HEADER + total)
        return length
