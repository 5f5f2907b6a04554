"""A Stack opposite a peer that a test plays by hand, segment by segment, over IPv4 or IPv6."""

from net import arp, ethernet, family, icmp, ipv4, ipv6, udp
from net.stack import Stack
from net.tcp import wire as tcp
from net.v6 import discovery_message as discovery
from net.v6 import icmp as icmp6

HOST_IP = ipv4.address("10.0.0.1")
PEER_IP = ipv4.address("10.0.0.2")
HOST_IP6 = ipv6.address("2001:db8::1")
PEER_IP6 = ipv6.address("2001:db8::2")
ROUTER_IP6 = ipv6.address("fe80::fe")
HOST_MAC = b"\x02\0\0\0\0\x01"
PEER_MAC = b"\x02\0\0\0\0\x02"

_version = 4


def use(version):
    """Let Peer and netsim's Simulator speak IPv4 (4) or IPv6 (6) from now on."""
    global _version
    _version = version


def speaks_ipv6():
    return _version == 6


def host(number):
    """Return the address of a host of the link: 1 is the stack's, 2 the peer's."""
    if _version == 6:
        return HOST_IP6[:15] + bytes((number,))
    return ipv4.address("10.0.0.%d" % number)


def loopback():
    return ipv6.LOOPBACK if _version == 6 else ipv4.LOOPBACK


def start_ipv6(stack, address, now, gateway=ROUTER_IP6):
    """Give a stack an address at once, as if nobody had objected to it; no probes later."""
    stack.six.start(now, address, 64, gateway)
    for found in list(stack.six.autoconf.addresses):
        stack.timers.set(found, None)
        stack.six.autoconf.assigned(found, now)
    stack.timers.set(stack.six.groups, None)
    stack.six.neighbours.reachable_time = 1 << 40


def read(connection, count=100000):
    """Return what the connection's user can read."""
    return connection.receive_bytes(count)


def write(connection, data):
    """Queue data to be sent; returns how many bytes were taken."""
    return connection.send(data, 0, len(data))


class Segment:
    """A TCP segment that the stack sent."""

    def __init__(self, frame):
        ip = ipv6 if frame[12] == 0x86 else ipv4
        protocol, source, destination, start, end = ip.parse(frame, 14)[:5]
        assert protocol == ip.TCP
        pseudo = ip.pseudo_header_sum(ip.TCP, source, destination)
        parsed = tcp.parse(frame, start, end, pseudo)
        assert parsed is not None, "malformed segment"
        self.port, self.peer_port, self.seq, self.ack, self.flags, self.window, data = parsed
        # A SYN's (mss, shift, sack, timestamp), or another segment's (TSval, TSecr, blocks).
        syn = self.flags & tcp.SYN
        parse = tcp.parse_syn_options if syn else tcp.parse_options
        self.options = parse(frame, start + 20, data)
        self.payload = bytes(frame[data:end])

    def __repr__(self):
        names = [n for n in ("FIN", "SYN", "RST", "PSH", "ACK") if self.flags & getattr(tcp, n)]
        return "<%s seq=%d ack=%d win=%d len=%d>" % (
            "|".join(names),
            self.seq,
            self.ack,
            self.window,
            len(self.payload),
        )


class Link:
    mac = HOST_MAC
    mtu = 1500

    def __init__(self):
        self.frames = []
        self.full = False

    def tx_alloc(self):
        if self.full:
            return None
        self._frame = bytearray(self.mtu + 14)
        return memoryview(self._frame)

    def tx_commit(self, length):
        self.frames.append(bytes(self._frame[:length]))


class Peer:
    """Plays the peer against `stack`, with one TCP connection's numbers kept by default.

    local, remote: addresses of the stack and of the peer. IPv6's link takes 20 bytes more, so that
    segments have the same size.
    """

    def __init__(self, port=80, peer_port=40000, seq=1000, **options):
        self.link = Link()
        self.stack = Stack(self.link, lambda count: b"\x5a" * count, **options)
        self.now = 10000
        self.port = port
        self.peer_port = peer_port
        self.seq = seq
        self.ack = 0
        self.window = 65535
        self.configure()
        self.link.frames.clear()

    def configure(self):
        """Give the stack its address, and teach it the peer's."""
        self.local, self.remote = host(1), host(2)
        self.family = family.of(self.local)
        if self.family is ipv6:
            self.link.mtu = 1520
            start_ipv6(self.stack, self.local, self.now)
        else:
            self.stack.configure(HOST_IP, ipv4.mask(24), ipv4.address("10.0.0.254"), [])
        self.learn(self.remote, PEER_MAC)

    def learn(self, ip, mac):
        """Teach the stack a neighbour, by a request for the stack's address."""
        if self.family is ipv6:
            self.solicit(ip, mac)
            self.advertise(ip, mac)
            return
        frame = bytearray(42)
        ethernet.emit(frame, ethernet.BROADCAST, mac, ethernet.TYPE_ARP)
        arp.emit(frame, 14, arp.REQUEST, mac, ip, bytes(6), HOST_IP)
        self.stack.input(memoryview(frame), self.now)

    def solicit(self, ip, mac, target=None):
        """Send a neighbour solicitation for the stack's address."""
        message = bytearray(32)
        target = target or self.local
        destination = ipv6.solicited_node(target)
        discovery.emit_solicitation(message, 0, ip, destination, target, mac)
        self.ip(ipv6.ICMP, message, ip, destination, hops=255, mac=mac)

    def advertise(self, ip, mac, flags=discovery.SOLICITED | discovery.OVERRIDE):
        """Send a neighbour advertisement to the stack."""
        message = bytearray(32)
        discovery.emit_advertisement(message, 0, ip, self.local, ip, flags, mac)
        self.ip(ipv6.ICMP, message, ip, self.local, hops=255, mac=mac)

    def poll(self, forward=0):
        self.now += forward
        deadline = self.stack.poll(self.now)
        if self._take_questions():
            # The peer's address is old and asked for again.
            self.learn(self.remote, PEER_MAC)
            self._take_questions()
            deadline = self.stack.poll(self.now)
        return deadline

    def _take_questions(self):
        # Leaves ARP and neighbour discovery out of what tests look at.
        frames = [f for f in self.link.frames if f[12:14] != b"\x08\x06" and not _discovers(f)]
        found = len(frames) < len(self.link.frames)
        self.link.frames = frames
        return found

    def frames(self, forward=0):
        """Return what the stack sends now, or within the next `forward` ms, as frames."""
        end = self.now + forward
        while True:
            deadline = self.poll()
            if deadline is None or deadline > end:
                break
            self.now = max(self.now, deadline)
        self.now = end
        frames, self.link.frames = self.link.frames, []
        return frames

    def segments(self, forward=0):
        return [Segment(frame) for frame in self.frames(forward)]

    def segment(self, forward=0):
        """Return the one segment that the stack sends."""
        segments = self.segments(forward)
        assert len(segments) == 1, segments
        return segments[0]

    def ip(self, protocol, payload, source=None, destination=None, hops=64, mac=PEER_MAC):
        ip = self.family
        start = 14 + ip.HEADER
        frame = bytearray(start + len(payload))
        kind = ethernet.TYPE_IPV6 if ip is ipv6 else ethernet.TYPE_IPV4
        ethernet.emit(frame, HOST_MAC, mac, kind)
        frame[start:] = payload
        source = self.remote if source is None else source
        destination = self.local if destination is None else destination
        ip.emit(frame, 14, protocol, source, destination, len(payload), ttl=hops)
        self.stack.input(memoryview(frame), self.now)

    def send(self, flags, payload=b"", seq=None, ack=None, window=None, options=b"", **addresses):
        """Send a segment; what is not given follows from the connection."""
        seq = self.seq if seq is None else seq
        ack = (self.ack if flags & tcp.ACK else 0) if ack is None else ack
        window = self.window if window is None else window
        header = 20 + len(options)
        buf = bytearray(header + len(payload))
        buf[20:header] = options
        buf[header:] = payload
        source = addresses.get("source", self.remote)
        destination = addresses.get("destination", self.local)
        pseudo = self.family.pseudo_header_sum(self.family.TCP, source, destination)
        tcp.emit(
            buf,
            0,
            self.peer_port,
            self.port,
            seq,
            ack,
            flags,
            window,
            header,
            len(payload),
            pseudo,
        )
        self.ip(self.family.TCP, buf, source, destination)

    def datagram(self, source_port, port, payload, source=None, destination=None):
        buf = bytearray(8 + len(payload))
        buf[8:] = payload
        source = self.remote if source is None else source
        destination = self.local if destination is None else destination
        udp.emit(buf, 0, source, source_port, destination, port, len(payload))
        self.ip(self.family.UDP, buf, source, destination)

    def echo(self, payload, source=None, destination=None):
        buf = bytearray(8 + len(payload))
        source = self.remote if source is None else source
        destination = self.local if destination is None else destination
        if self.family is ipv6:
            icmp6.emit(buf, 0, icmp6.ECHO_REQUEST, 0, 0x00010002, payload, source, destination)
        else:
            icmp.emit(buf, 0, icmp.ECHO_REQUEST, 0, 0x00010002, payload)
        self.ip(self.family.ICMP, buf, source, destination)

    def listen(self):
        return self.stack.tcp.listen(0, self.stack.tcp.bind(self.port), 5)

    def establish(self, options=tcp.emit_syn_options(1460, None)):
        """Connect to the stack; returns the accepted connection."""
        listener = self.stack.tcp.listeners.get(self.port) or self.listen()
        self.send(tcp.SYN, options=options)
        reply = self.segment()
        assert reply.flags == tcp.SYN | tcp.ACK and reply.ack == self.seq + 1
        self.seq += 1
        self.ack = (reply.seq + 1) & 0xFFFFFFFF
        self.send(tcp.ACK)
        assert self.frames() == []
        return listener.accept()


def _discovers(frame):
    """Return whether a frame is a message of neighbour discovery or MLD."""
    return frame[12:14] == b"\x86\xdd" and (
        (frame[20] == ipv6.ICMP and 133 <= frame[54] <= 137) or frame[20] == ipv6.HOP_BY_HOP
    )


def send_bulk(card):
    """Send 51,200 bytes through a link on a connection whose sequence numbers wrap; return them."""
    peer = Peer(seq=99)
    peer.stack.attach(card)
    peer.stack.configure(0x0A000001, 0xFFFFFF00, 0, [])
    peer.learn(PEER_IP, b"\2\0\0\0\0\2")
    peer.stack.tcp.initial_numbers = lambda *_: (0xFFFFF000, 5)
    listener = peer.listen()
    peer.send(tcp.SYN, options=tcp.emit_syn_options(1460, 3, True, (1, 0)))
    peer.poll()
    stamps = bytearray(12)
    tcp.emit_timestamps(stamps, 0, 2, 0)
    peer.send(tcp.ACK, seq=100, ack=0xFFFFF001, options=bytes(stamps))
    connection = listener.accept()
    data = bytes(range(256)) * 200
    assert connection.send(data, 0, len(data)) == len(data)
    peer.poll()
    for ack in (0xFFFFF001 + 14480, 0xFFFFF001 + 40000):
        peer.send(tcp.ACK, seq=100, ack=ack & 0xFFFFFFFF, options=bytes(stamps))
        peer.poll()
    return data
