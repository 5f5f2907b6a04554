"""The stack of one interface: takes frames and gives frames. TCP's part is net.tcp.ports.

Nothing here waits or reads a clock. The caller passes received frames to input() and then calls
poll(), which runs timers and sends; poll() also follows every call that a user makes.

A link object has `mac` (bytes of length 6), `mtu` (bytes of IP per frame), `tx_alloc()`, which
returns a writable buffer of mtu + 14 bytes or None while the link is full, and `tx_commit(n)`,
which sends the first n bytes of that buffer. One that cuts up TCP segments has `large`, how many
bytes of text it takes at once, `tx_alloc_large()` and `tx_commit_large()`, see drivers.e1000. With
`whole_headers` it wants such segments' headers complete.
"""

import os
import struct

import _netbuf
from micropython import const
from net import arp, ethernet, family, icmp, igmp, ipv4, ipv6, udp
from net.buffers import Pool
from net.errors import (
    EADDRINUSE,
    ECONNABORTED,
    ECONNREFUSED,
    EHOSTUNREACH,
    EMSGSIZE,
    ENETUNREACH,
    ENOBUFS,
)
from net.fragments import Fragments
from net.groups import Groups
from net.loopback import Discard, Loopback
from net.neighbours import Neighbours
from net.tcp.congestion import WESTWOOD
from net.tcp.ports import Ports
from net.timers import Timers
from net.udp_endpoint import Endpoint
from net.v6 import icmp as icmp6
from net.v6 import mld
from net.v6.interface import Interface

# RFC 6335 6: dynamic ports.
_EPHEMERAL_FIRST = const(49152)
_EPHEMERAL_COUNT = const(16384)

_IP = const(14)  # where the IP header starts in a frame
_UNREACHABLE_INTERVAL = const(10)
# RFC 1191 6.3: a path's MTU is forgotten after ten minutes.
_PATH_MTU_LIFETIME = const(600000)
_MAX_PATHS = const(64)
# Frames to oneself are taken back in rounds, so that one poll() ends.
_LOOPBACK_ROUNDS = const(64)


class Stack:
    """A host of both IPs: this class is the IPv4 side, `six` the IPv6 side.

    Args:
        link: a link object, or None for a host that has only itself.
        random: function of n that returns n random bytes.
        buffer_size: bytes of each direction of a TCP connection, a power of two.
        receive_size: the same for what is received, if it differs.
        buffer_limit: connections that may hold data at a time, per direction.
        sack, timestamps: offer and accept these TCP options (RFC 2018, RFC 7323).
        congestion: RENO or WESTWOOD, see net.congestions.
    """

    def __init__(
        self,
        link=None,
        random=os.urandom,
        buffer_size=65536,
        buffer_limit=256,
        receive_size=0,
        sack=True,
        timestamps=True,
        congestion=WESTWOOD,
    ):
        self.now = 0
        self.congestion = congestion
        self.sack = sack
        self.timestamps = timestamps
        self.address = 0
        self.netmask = 0
        # The ends of the subnet, which no host has: see ipv4.subnet_ends().
        self._network = 0
        self._broadcast = ipv4.BROADCAST
        self.gateway = 0
        self.dns_servers = []
        self.fixed_dns = None  # name servers that stand whatever DHCP says
        self.hostname = "cllm"
        self.timers = Timers()
        self.send_pool = Pool(buffer_size, buffer_limit, self.touch_all)
        self.receive_pool = Pool(receive_size or buffer_size, buffer_limit)
        self.random = random
        self.loopback = Loopback()
        self.discard = Discard()
        # Frames that were not for us, malformed, or out of place.
        self.dropped = 0

        self.tcp = Ports(self)
        self._udp = {}
        # Path MTUs that differ from the link's, by destination: (MTU, end of life in ms).
        self._paths = {}
        self._fragments = Fragments(self.timers)
        self.groups = Groups(self, igmp)
        self.six = Interface(self)
        # What multicast DNS answers for this host, or None, see net.mdns.
        self.responder = None
        # Connections whose output() poll() calls, see mark().
        self.ready = []
        # The `waiter`s of what touch() was called for.
        self.touched = []
        self._unreachable_at = 0
        self._out = None
        # The last packet's destination and its next hop: usually the next packet's too.
        self._route_to = None
        self._route = None
        self.link = None
        self.attach(link)

    # -- The interface ----------------------------------------------------------------------

    def attach(self, link):
        """Use `link` from now on, None for no link; the address is forgotten."""
        self.configure(0, 0, 0, [])
        self.link = link
        self.neighbours = Neighbours(link, self.timers, self) if link else None
        self.six.attach(self.now)
        self.filter()

    def filter(self):
        """Set the link's filter to the groups that are joined."""
        link = self.link
        if link is not None and hasattr(link, "set_multicast"):
            groups = igmp.hardware_groups(self.groups.joined)
            if self.six.is_active():
                groups = groups + mld.hardware_groups(self.six.groups.joined)
            link.set_multicast(groups)

    def configure(self, address, netmask, gateway, dns_servers):
        """Set the interface's addresses; 0 for none. Connections of an old address end."""
        old = self.address
        self._route_to = None
        self.address = address
        self.netmask = netmask
        self._network, self._broadcast = ipv4.subnet_ends(address, netmask)
        self.gateway = gateway
        self.dns_servers = dns_servers if self.fixed_dns is None else self.fixed_dns
        if old and old != address:
            self.end_connections(old)
            self.neighbours.clear()
            self._fragments.clear()
            self._paths = {}
        if address and address != old and self.link:
            self.neighbours.announce(self.now)
            self.groups.announce(self.now)
        if address != old and self.responder:
            self.responder.start(self.now)

    def end_connections(self, local):
        """End the connections of an address that is no longer this host's."""
        for connection in self.tcp.connections():
            if connection.local == local:
                connection.end(ECONNABORTED)

    def name_servers(self):
        """Return the addresses of DNS servers, in the order in which to ask them."""
        return list(self.dns_servers) + self.six.autoconf.servers()

    def link_up(self, now):
        """Forget what was learned of the network: the cable may lead to another one."""
        self.now = now
        self._route_to = None
        self._paths = {}
        if self.link:
            self.neighbours.clear()
        self.groups.announce(now)
        self.six.link_up(now)
        if self.responder:
            self.responder.start(now)

    def is_local(self, address):
        """Return whether `address` is this host's own."""
        if isinstance(address, bytes):
            return self.six.is_local(address)
        return address >> 24 == 127 or (address == self.address and address != 0)

    def source_for(self, destination):
        """Return the local address that talks to `destination`; OSError where no way leads."""
        if isinstance(destination, bytes):
            source = self.six.find_source(destination)
            if source is None:
                raise OSError(ENETUNREACH)
            return source
        if self.is_local(destination):
            return destination
        if self.link is None or not self.address:
            raise OSError(ENETUNREACH)
        if not ipv4.is_multicast(destination) and not self._next_hop(destination):
            raise OSError(ENETUNREACH)
        return self.address

    def can_send(self, source, destination):
        """Return whether packets from a local address may go to a destination.

        Those that leave the host need a source that answers can reach.
        """
        if family.of(source) is not family.of(destination):
            return False
        if self.is_local(destination):
            return True
        return source in self.six.own if isinstance(source, bytes) else source == self.address

    def _next_hop(self, destination):
        if (destination ^ self.address) & self.netmask == 0:
            return destination
        return self.gateway

    def _is_broadcast(self, address):
        return address == ipv4.BROADCAST or address == self._broadcast

    def is_host(self, address):
        """Return whether an address can be another host's, as far as this one can know."""
        if isinstance(address, bytes):
            return ipv6.is_host(address) and address not in self.six.own
        return (
            ipv4.is_host(address)
            and address != self.address
            and address != self._network
            and address != self._broadcast
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
        elif kind == ethernet.TYPE_IPV6:
            self.six.input(frame, False)
        elif kind == ethernet.TYPE_CUSTOMER_TAG or kind == ethernet.TYPE_SERVICE_TAG:
            frame = ethernet.untag(frame)
            if frame is None:
                self.dropped += 1
            elif frame[12] in (0x08, 0x86):
                # IPv4, ARP or IPv6: no third tag.
                self.input(frame, now)

    def input_segment(self, frame, length, now):
        """Take a plain TCP segment whose checksums the link has verified.

        Args: frame: the segment is frame[:length], and may be longer than the link's MTU.
        """
        self.now = now
        fields = _netbuf.segment(frame, length)
        destination, port, peer, seq, ack, flags, window, start, end, options = fields
        if destination != self.address or peer >> 16 == destination or not destination:
            # Not ours, or from ourselves over the wire (RFC 1122 3.2.1.3), or of IPv6.
            if isinstance(destination, int) or not self.six.input_segment(destination, peer):
                self.dropped += 1
                return
        peers = self.tcp.table.get(port)
        connection = peers.get(peer) if peers is not None else None
        if connection is not None and connection.local == destination:
            connection.input(seq, ack, flags, window, options, frame, start, end, now)
        else:
            source, source_port = family.of(destination).of_key(peer)
            if not self.is_host(source):
                # RFC 1122 3.2.1.3, RFC 9293 MUST-63: a broadcast address opens and resets nothing.
                self.dropped += 1
                return
            segment = (source_port, port, seq, ack, flags, window, start)
            self.tcp.input(destination, source, segment, options, frame, end)

    def _input_ip(self, frame, loop):
        header = ipv4.parse(frame, _IP)
        if header is None:
            frame = self._reassemble(frame)
            if frame is None:
                return
            header = ipv4.parse(frame, _IP)
        protocol, source, destination, start, end = header
        # RFC 1122 3.2.1.3: addresses that no packet on a wire may come from: is_host() inline.
        if not loop and (
            source >> 24 in (0, 127)
            or source >= 0xE0000000
            or source == self.address
            or source == self._broadcast
            or source == self._network
        ):
            self.dropped += 1
            return
        local = destination >> 24 == 127
        if local and not loop:
            # RFC 1122 3.2.1.3 (g): loopback addresses stay inside a host.
            self.dropped += 1
        elif local or (destination == self.address and destination):
            # RFC 1122 3.3.6, RFC 9293 MUST-57: TCP and ICMP ignore frames to a group.
            alone = not frame[0] & 1
            if protocol == ipv4.UDP:
                if self.input_udp(frame, start, end, source, destination) is False and alone:
                    self._refuse_datagram(frame, start, end, source, destination)
            elif not alone:
                self.dropped += 1
            elif protocol == ipv4.TCP:
                if not self.tcp.input_packet(frame, start, end, source, destination):
                    self.dropped += 1
            elif protocol == ipv4.ICMP:
                self._input_icmp(frame, start, end, source, destination)
        elif protocol == ipv4.UDP and (not self.address or self._is_broadcast(destination)):
            # Without an address, DHCP's answers come to the one that it offers (RFC 2131 4.1).
            self.input_udp(frame, start, end, source, destination)
        elif ipv4.is_multicast(destination):
            if protocol == igmp.PROTOCOL:
                self.groups.input(frame, start, end, self.now)
            elif protocol == ipv4.UDP and destination in self.groups.joined:
                self.input_udp(frame, start, end, source, destination)

    def _reassemble(self, frame):
        """Take what ipv4.parse() did not; returns a frame with a whole packet, or None."""
        packet = ipv4.parse_fragment(frame, _IP)
        # No memory is spent on packets for others or from impossible addresses.
        if (
            packet is not None
            and packet[2] == self.address
            and self.address
            and self.is_host(packet[1])
            and not frame[0] & 1
        ):
            frame = self._fragments.input(packet, self.now)
            return None if frame is None else memoryview(frame)
        self.dropped += 1
        return None

    def _input_icmp(self, frame, start, end, source, destination):
        message = icmp.parse(frame, start, end)
        if message is None:
            self.dropped += 1
        elif message == (icmp.ECHO_REQUEST, 0):
            # RFC 1122 3.2.2.6: the data comes back whole.
            rest = struct.unpack_from(">I", frame, start + 4)[0]
            reply = bytearray(end - start)
            icmp.emit(reply, 0, icmp.ECHO_REPLY, 0, rest, frame[start + icmp.HEADER : end])
            self._send(ipv4.ICMP, destination, source, reply)
        elif message[0] in (icmp.UNREACHABLE, icmp.TIME_EXCEEDED):
            quoted = icmp.parse_error(frame, start, end)
            if quoted is not None:
                self._input_icmp_error(message, quoted)

    def _input_icmp_error(self, message, quoted):
        mtu, protocol, local, remote, port, remote_port, seq = quoted
        if local != self.address:
            return
        kind, code = message
        # RFC 1122 4.2.3.9: which messages say that the peer itself refuses.
        hard = kind == icmp.UNREACHABLE and code in (
            icmp.PROTOCOL_UNREACHABLE,
            icmp.PORT_UNREACHABLE,
        )
        error = ECONNREFUSED if hard else EHOSTUNREACH
        if kind == icmp.UNREACHABLE and code == icmp.FRAGMENTATION_NEEDED:
            # RFC 1191 5: a router of old gives no number; RFC 5927 7.2: and one below what any host
            # takes is an attack.
            mtu = max(mtu, ipv4.LEAST_MTU)
            self.too_big(local, protocol, port, remote, remote_port, seq, mtu)
        else:
            self.reported(local, protocol, port, remote, remote_port, seq, error, hard)

    def too_big(self, local, protocol, port, remote, remote_port, seq, mtu):
        """Take an ICMP report of a path's MTU about a packet of this host."""
        ip = family.of(remote)
        if mtu < ip.LEAST_MTU:
            return
        if protocol == ip.TCP:
            connection = self._connection(local, port, remote, remote_port)
            if connection is not None and connection.path_mtu(seq, mtu):
                self._note_path(remote, mtu)
        elif ip is ipv6 and (
            # RFC 8201 4: what this stack has sent, as far as it remembers.
            (protocol == ip.UDP and port in self._udp)
            or (protocol == ip.ICMP and port >> 8 == icmp6.ECHO_REPLY)
        ):
            self._note_path(remote, mtu)

    def reported(self, local, protocol, port, remote, remote_port, seq, error, hard):
        """Take another ICMP error about a packet. Args: hard: the peer itself refuses."""
        if protocol == ipv4.TCP:
            connection = self._connection(local, port, remote, remote_port)
            if connection is not None:
                connection.unreachable(seq, error, hard)
        elif protocol == ipv4.UDP:
            endpoint = self._udp.get(port)
            if endpoint is not None and hard:
                endpoint.unreachable(remote, remote_port, error, self.now)

    def _connection(self, local, port, remote, remote_port):
        key = family.of(remote).key(remote, remote_port)
        connection = self.tcp.table.get(port, {}).get(key)
        return connection if connection is not None and connection.local == local else None

    def _note_path(self, remote, mtu):
        """Remember a path's MTU for connections to come (RFC 1191 6.3)."""
        if len(self._paths) >= _MAX_PATHS:
            del self._paths[next(iter(self._paths))]
        self._paths[remote] = (mtu, self.now + _PATH_MTU_LIFETIME)

    def path_mtu(self, remote, link):
        """Return the MTU of the path to `remote` over `link`."""
        mtu = link.mtu
        if isinstance(remote, bytes) and link is self.link:
            mtu = self.six.mtu
        known = self._paths.get(remote)
        if known is None:
            return mtu
        if known[1] <= self.now:
            del self._paths[remote]
            return mtu
        return min(known[0], mtu)

    def large(self, remote):
        """Return how much text of a TCP segment the link cuts up by itself, 0 for none."""
        return getattr(self.link, "large6" if isinstance(remote, bytes) else "large", 0)

    def _send(self, protocol, source, destination, payload):
        """Send a packet, in fragments where it is larger than a frame (RFC 791 3.2).

        Returns whether the link took all of it.
        """
        if isinstance(destination, bytes):
            return self.six.send(protocol, source, destination, payload)
        total = len(payload)
        link = self.loopback if self.is_local(destination) else self.link
        room = (link.mtu if link else self.discard.mtu) - ipv4.HEADER
        # RFC 6864 4.3: fragments of different packets must not be taken for one.
        identification = 0
        if total > room:
            room &= ~7
            identification = struct.unpack(">H", self.random(2))[0]
        at = 0
        while True:
            count = min(total - at, room)
            out = self.begin(destination)
            if out is None:
                return False
            out[_IP + ipv4.HEADER : _IP + ipv4.HEADER + count] = payload[at : at + count]
            whole = count == total
            ipv4.emit(
                out,
                _IP,
                protocol,
                source,
                destination,
                count,
                identification,
                None if whole else at,
                at + count < total,
            )
            self.commit(_IP + ipv4.HEADER + count)
            at += count
            if at >= total:
                return True

    def input_udp(self, frame, start, end, source, destination):
        """Take a datagram. Return False where nobody has its port, None where it is malformed."""
        header = udp.parse(frame, start, end, source, destination)
        if header is None:
            self.dropped += 1
            return None
        source_port, port, data_start, data_end = header
        endpoint = self._udp.get(port)
        if (
            endpoint is None
            or (endpoint.address and endpoint.address != destination)
            or (endpoint.only is not None and endpoint.only is not family.of(source))
        ):
            return False
        endpoint.datagram(frame, data_start, data_end, source, source_port, self.now)
        return True

    def _refuse_datagram(self, frame, start, end, source, destination):
        if self.now < self._unreachable_at:
            return
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

    # -- Frames that leave ------------------------------------------------------------------

    def begin(self, destination):
        """Return a frame buffer towards `destination` with its Ethernet header written.

        None while the link is full. The packet goes to offset 14; commit() sends it.
        """
        link = self.link
        if destination == self._route_to:
            route = self._route
            header = route.header
            if header is not None:
                route.used = True
                frame = link.tx_alloc()
                if frame is not None:
                    frame[0:14] = header
                    self._out = link
                return frame
        mac = ethernet.BROADCAST
        kind = ethernet.TYPE_IPV4
        if isinstance(destination, bytes):
            kind = ethernet.TYPE_IPV6
            link, mac = self.six.way(destination)
        elif destination >> 24 == 127 or (destination == self.address and destination):
            link = self.loopback
            mac = link.mac
        elif link is None:
            link = self.discard
        elif ipv4.is_multicast(destination):
            mac = ethernet.multicast(destination)
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
                    self._route_to = destination
                    self._route = neighbour
        frame = link.tx_alloc()
        if frame is not None:
            source = self.link.mac if self.link is not None else self.loopback.mac
            ethernet.emit(frame, mac, source, kind)
            self._out = link
        return frame

    def begin_at(self, link, mac, kind):
        """As begin(), over a link to a hardware address, for a packet of an Ethernet type."""
        frame = link.tx_alloc()
        if frame is not None:
            source = self.link.mac if self.link is not None else self.loopback.mac
            ethernet.emit(frame, mac, source, kind)
            self._out = link
        return frame

    def keep_route(self, destination, neighbour):
        """Remember where the last packet went: usually the next one goes there too."""
        self._route_to = destination
        self._route = neighbour

    def forget_route(self):
        """Ask again where packets go: something that decides it has changed."""
        self._route_to = None

    def begin_large(self, destination):
        """As begin(), for a TCP segment that the link cuts up; commit_large() sends it.

        None where the link cannot now, or has yet to ask for the hardware address.
        """
        link = self.link
        if link is None or self.is_local(destination):
            return None
        if isinstance(destination, bytes):
            kind = ethernet.TYPE_IPV6
            way, mac = self.six.way(destination)
            if way is not link:
                return None
        else:
            kind = ethernet.TYPE_IPV4
            hop = self._next_hop(destination)
            if not hop:
                return None
            mac = self.neighbours.lookup(hop, self.now).mac
        frame = link.tx_alloc_large() if mac is not None else None
        if frame is not None:
            ethernet.emit(frame, mac, link.mac, kind)
        return frame

    def commit_large(self, length, header, mss):
        """Send the first `length` bytes, `header` of them headers, as frames of `mss` text."""
        self.link.tx_commit_large(length, header, mss)

    def commit(self, length):
        """Send the first `length` bytes of the buffer that begin() returned last."""
        self._out.tx_commit(length)

    def touch(self, thing):
        """Note that something happened to a connection, listener or endpoint.

        Its `waiter`, whatever that is, goes to `touched`, and has to be set again for more.
        """
        waiter = thing.waiter
        if waiter is not None:
            thing.waiter = None
            self.touched.append(waiter)

    def touch_all(self):
        """As touch() for all connections: memory that they share is free again."""
        for connection in self.tcp.connections():
            self.touch(connection)

    def mark(self, connection):
        """Have poll() call the connection's output()."""
        if not connection.marked:
            connection.marked = True
            self.ready.append(connection)

    def poll(self, now):
        """Run timers and send; return the time of the next call in milliseconds, or None."""
        self.now = now
        heap = self.timers.heap
        if heap and heap[0][0] <= now:
            self.timers.run(now)
        for _ in range(_LOOPBACK_ROUNDS):
            blocked = False
            if self.ready:
                ready, self.ready = self.ready, []
                for connection in ready:
                    connection.marked = False
                    if not connection.output(now):
                        self.mark(connection)
                        blocked = True
            if not self.loopback.frames:
                if blocked or not self.ready:
                    break
                continue
            frames, self.loopback.frames = self.loopback.frames, []
            for frame in frames:
                if frame[12] == 0x86:
                    self.six.input(frame, True)
                else:
                    self._input_ip(frame, True)
        return self.deadline()

    def deadline(self):
        """Return when poll() must be called next, in milliseconds, or None."""
        if self.ready or self.loopback.frames:
            # What is left after poll() waits for room on the link.
            return self.now + 1
        heap = self.timers.heap
        return heap[0][0] if heap else None

    def ephemeral_port(self, free):
        """Return a port that free(port) says is free; OSError: EADDRINUSE."""
        # RFC 6056 3.3.1: a random start, then the next free one.
        offset = struct.unpack(">H", self.random(2))[0]
        for step in range(_EPHEMERAL_COUNT):
            port = _EPHEMERAL_FIRST + (offset + step) % _EPHEMERAL_COUNT
            if free(port):
                return port
        raise OSError(EADDRINUSE)

    # -- UDP --------------------------------------------------------------------------------

    def open_udp(self, port, endpoint=None, address=0, only=None):
        """Open a UDP port, 0 for any.

        Args: endpoint: takes the datagrams by a method `datagram`, as Endpoint does; address:
        the local one that they must be for, 0 for any; only: the family of addresses that may
        send them, None for both. Returns the endpoint, a new Endpoint where
        none is given. Raises OSError: EADDRINUSE.
        """
        if port == 0:
            port = self.ephemeral_port(self._udp_port_free)
        elif port in self._udp:
            raise OSError(EADDRINUSE)
        if endpoint is None:
            endpoint = Endpoint(self, port)
        endpoint.port = port
        endpoint.address = address
        endpoint.only = only
        self._udp[port] = endpoint
        return endpoint

    def _udp_port_free(self, port):
        return port not in self._udp

    def close_udp(self, port):
        """Close a UDP port."""
        self._udp.pop(port, None)

    def send_udp(self, port, remote, remote_port, data, source=None, ttl=ipv4.TTL):
        """Send one datagram and return the length of `data`.

        What a frame cannot take goes in fragments. Raises OSError: EMSGSIZE for more than a
        datagram takes, ENOBUFS while the link is full, ENETUNREACH. Args: source: an address other
        than the interface's own; ttl: of a datagram that is not fragmented.
        """
        if source is None:
            if self._is_broadcast(remote) and self.link is not None:
                source = self.address
            else:
                source = self.source_for(remote)
        link = self.loopback if self.is_local(remote) else self.link
        ip = family.of(remote)
        length = len(data)
        room = link.mtu if ip is ipv4 else self.path_mtu(remote, link)
        if length > room - ip.HEADER - udp.HEADER:
            if length > ip.MOST_PAYLOAD - udp.HEADER:
                raise OSError(EMSGSIZE)
            whole = bytearray(udp.HEADER + length)
            whole[udp.HEADER :] = data
            udp.emit(whole, 0, source, port, remote, remote_port, length)
            if not self._send(ip.UDP, source, remote, whole):
                raise OSError(ENOBUFS)
            return length
        frame = self.begin(remote)
        if frame is None:
            raise OSError(ENOBUFS)
        start = _IP + ip.HEADER
        frame[start + udp.HEADER : start + udp.HEADER + length] = data
        total = udp.emit(frame, start, source, port, remote, remote_port, length)
        ip.emit(frame, _IP, ip.UDP, source, remote, total, ttl=ttl)
        self.commit(start + total)
        return length
