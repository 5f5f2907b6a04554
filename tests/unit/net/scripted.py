"""A Stack opposite a peer that a test plays by hand, segment by segment."""

from net import arp, ethernet, icmp, ipv4, udp
from net.stack import Stack
from net.tcp import wire as tcp

HOST_IP = ipv4.address("10.0.0.1")
PEER_IP = ipv4.address("10.0.0.2")
HOST_MAC = b"\x02\0\0\0\0\x01"
PEER_MAC = b"\x02\0\0\0\0\x02"


def read(connection, count=100000):
    """Return what the connection's user can read."""
    return connection.receive_bytes(count)


def write(connection, data):
    """Queue data to be sent; returns how many bytes were taken."""
    return connection.send(data, 0, len(data))


class Segment:
    """A TCP segment that the stack sent."""

    def __init__(self, frame):
        _, source, destination, start, end = ipv4.parse(frame, 14)
        pseudo = ipv4.pseudo_header_sum(ipv4.TCP, source, destination)
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
        self._frame = bytearray(1514)
        return memoryview(self._frame)

    def tx_commit(self, length):
        self.frames.append(bytes(self._frame[:length]))


class Peer:
    """Plays PEER_IP against `stack`, with one TCP connection's numbers kept by default."""

    def __init__(self, port=80, peer_port=40000, seq=1000, **options):
        self.link = Link()
        self.stack = Stack(self.link, lambda count: b"\x5a" * count, **options)
        self.stack.configure(HOST_IP, ipv4.mask(24), ipv4.address("10.0.0.254"), [])
        self.now = 10000
        self.port = port
        self.peer_port = peer_port
        self.seq = seq
        self.ack = 0
        self.window = 65535
        self.learn(PEER_IP, PEER_MAC)
        self.link.frames.clear()

    def learn(self, ip, mac):
        """Teach the stack a neighbour, by an ARP request for the stack's address."""
        frame = bytearray(42)
        ethernet.emit(frame, ethernet.BROADCAST, mac, ethernet.TYPE_ARP)
        arp.emit(frame, 14, arp.REQUEST, mac, ip, bytes(6), HOST_IP)
        self.stack.input(memoryview(frame), self.now)

    def poll(self, forward=0):
        self.now += forward
        deadline = self.stack.poll(self.now)
        if self._take_arp():
            # The peer's address is old and asked for again.
            self.learn(PEER_IP, PEER_MAC)
            self._take_arp()
            deadline = self.stack.poll(self.now)
        return deadline

    def _take_arp(self):
        frames = [f for f in self.link.frames if f[12:14] != b"\x08\x06"]
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

    def ip(self, protocol, payload, source=PEER_IP, destination=HOST_IP):
        frame = bytearray(34 + len(payload))
        ethernet.emit(frame, HOST_MAC, PEER_MAC, ethernet.TYPE_IPV4)
        frame[34:] = payload
        ipv4.emit(frame, 14, protocol, source, destination, len(payload))
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
        source = addresses.get("source", PEER_IP)
        destination = addresses.get("destination", HOST_IP)
        pseudo = ipv4.pseudo_header_sum(ipv4.TCP, source, destination)
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
        self.ip(ipv4.TCP, buf, source, destination)

    def datagram(self, source_port, port, payload, source=PEER_IP, destination=HOST_IP):
        buf = bytearray(8 + len(payload))
        buf[8:] = payload
        udp.emit(buf, 0, source, source_port, destination, port, len(payload))
        self.ip(ipv4.UDP, buf, source, destination)

    def echo(self, payload, **addresses):
        buf = bytearray(8 + len(payload))
        icmp.emit(buf, 0, icmp.ECHO_REQUEST, 0, 0x00010002, payload)
        self.ip(ipv4.ICMP, buf, **addresses)

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
