"""As fuzzing.py, over IPv6: frames that nobody should send, and a Stack that takes them.

`Mutator6(seed)` makes them: TCP and UDP behind extension headers, fragments, errors, neighbour
discovery, routers' advertisements, queries for listeners, with one thing or many changed and the
checksums put right again in most. `Target6` has connections in all states, SLAAC, and a question to
a DNS server under way. Everything follows from the seed.
"""

import random
import struct

from net import dns, ethernet, ipv6, udp
from net.stack import Stack
from net.tcp import wire as tcp
from net.v6 import extensions, icmp
from scripted import HOST_IP6, HOST_MAC, PEER_IP6, PEER_MAC, Link

PORTS = (80, 81)
ROUTER = ipv6.address("fe80::fe")
SERVER = ipv6.address("2001:db8::53")
GROUPS = [ipv6.ALL_NODES, ipv6.solicited_node(HOST_IP6), ipv6.address("ff02::fb")]
NOBODY = [
    ipv6.address(text)
    for text in ("::", "::1", "ff02::1", "::ffff:10.0.0.1", "fe80::77", "2001:db8::99", "3ffe::1")
]


def fix_checksums(frame):
    """Make the checksum of a TCP segment, datagram or ICMPv6 message right, if there is one."""
    if len(frame) < 54 or frame[12:14] != b"\x86\xdd":
        return
    end = min(len(frame), 54 + (frame[18] << 8 | frame[19]))
    protocol, start = extensions.upper(frame, 54, end, frame[20])
    at = {ipv6.TCP: 16, ipv6.UDP: 6, ipv6.ICMP: 2}.get(protocol)
    if at is None or end - start < at + 2:
        return
    frame[start + at : start + at + 2] = b"\0\0"
    words = bytes(frame[22:54]) + struct.pack(">IHBB", end - start, 0, 0, protocol)
    words += bytes(frame[start:end]) + bytes((end - start) & 1)
    total = sum(struct.unpack(">%dH" % (len(words) // 2), words))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    struct.pack_into(">H", frame, start + at, ~total & 0xFFFF)


class Mutator6:
    """Makes frames. What the target knows may be set later."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.connections = []
        self.own = [HOST_IP6]
        self.dns_question = 0, 53
        self.udp_ports = [53]
        self.kinds = [self.segment] * 5 + [self.discovery] * 3
        self.kinds += [self.datagram, self.echo, self.error, self.fragment, self.listeners]
        self.kinds += [self.advertisement, self.noise]

    def frame(self):
        """The next frame, as bytes."""
        rng = self.random
        frame = bytearray(rng.choice(self.kinds)())
        dice = rng.random()
        if dice < 0.5:
            for _ in range(rng.choice((1, 1, 2, 8))):
                frame[rng.randrange(len(frame))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, 58, 44, 60))
        elif dice < 0.6:
            frame = frame[: rng.randrange(len(frame) + 1)]
        elif dice < 0.65:
            frame += rng.randbytes(rng.randrange(1, 60))
        if len(frame) >= 54 and rng.random() < 0.1:
            at = rng.choice((22, 38))
            frame[at : at + 16] = rng.choice(NOBODY + GROUPS + self.own)
        if rng.random() < 0.8:
            fix_checksums(frame)
        if rng.random() < 0.05:
            frame[0:6] = rng.choice((b"\xff" * 6, b"\x33\x33\0\0\0\1"))
        if rng.random() < 0.05:
            frame[12:12] = b"\x81\0\0\0"
        return bytes(frame[:1514])

    def _ip(self, protocol, payload, source=None, destination=None, hops=64):
        rng = self.random
        payload = bytes(payload)
        if rng.random() < 0.2:
            for _ in range(rng.choice((1, 1, 2, 9))):
                kind = rng.choice((0, 43, 60, 60, 44, 51))
                body = rng.choice((b"\1\4" + bytes(4), bytes(6), rng.randbytes(6)))
                payload = bytes((protocol, 0)) + body + payload
                protocol = kind
        frame = bytearray(54 + len(payload))
        ethernet.emit(frame, HOST_MAC, PEER_MAC, ethernet.TYPE_IPV6)
        frame[54:] = payload
        source = source or PEER_IP6
        destination = destination or rng.choice(self.own)
        ipv6.emit(frame, 14, protocol, source, destination, len(payload), hops)
        fix_checksums(frame)
        return frame

    def segment(self):
        rng = self.random
        port, peer_port = rng.choice(PORTS), rng.choice((4000, rng.getrandbits(16)))
        seq, ack, local = rng.getrandbits(32), rng.getrandbits(32), None
        if self.connections and rng.random() < 0.9:
            local, port, peer_port, seq, ack = rng.choice(self.connections)
            seq += rng.choice((0, 0, 0, 1, -1, 100, 65535, rng.randrange(-70000, 70000)))
            ack += rng.choice((0, 0, 1, -1, rng.randrange(-70000, 70000)))
        flags = rng.choice((16, 16, 16, 24, 17, 2, 18, 4, 20, 0, rng.getrandbits(8)))
        payload = rng.randbytes(rng.choice((0, 0, 1, 10, 536, 1300)))
        body = bytearray(20) + payload
        tcp.emit(body, 0, peer_port, port, seq, ack, flags, 5000, 20, len(payload), 0)
        return self._ip(ipv6.TCP, body, None, local)

    def datagram(self):
        rng = self.random
        if rng.random() < 0.5:
            number, port = self.dns_question
            data = struct.pack(">H", number) + b"\x81\x80\0\1\0\2\0\0\0\0\4cllm\0\0\x1c\0\1"
            for _ in range(2):
                data += b"\xc0\x0c\0\x1c\0\1\0\0\0\x10\0\x10" + rng.randbytes(16)
            source, source_port = SERVER, 53
        else:
            port, source_port = rng.choice(self.udp_ports + [9]), 9
            source, data = PEER_IP6, rng.randbytes(rng.choice((0, 48, 1200)))
        body = bytearray(8) + data
        destination = rng.choice(self.own)
        udp.emit(body, 0, source, source_port, destination, port, len(data))
        return self._ip(ipv6.UDP, body, source, destination)

    def echo(self):
        rng = self.random
        kind = rng.choice((128, 128, 129, 139))
        data = rng.randbytes(rng.choice((0, 56, 1400)))
        destination = rng.choice(GROUPS) if rng.random() < 0.2 else None
        return self._ip(ipv6.ICMP, bytes((kind, 0)) + bytes(6) + data, None, destination)

    def error(self):
        rng = self.random
        quoted = bytearray(48)
        local, port, peer_port, ack = rng.choice(self.own), rng.choice(self.udp_ports), 53, 0
        protocol = rng.choice((ipv6.TCP, ipv6.TCP, ipv6.UDP, ipv6.ICMP))
        if protocol == ipv6.TCP and self.connections:
            local, port, peer_port, _, ack = rng.choice(self.connections)
        ipv6.emit(quoted, 0, protocol, local, PEER_IP6, 20)
        struct.pack_into(">HHI", quoted, 40, port, peer_port, (ack - 100) & 0xFFFFFFFF)
        mtu = rng.choice((0, 1279, 1280, 1400, 0xFFFFFFFF))
        head = struct.pack(">BBHI", rng.choice((1, 2, 2, 3, 4)), rng.choice((0, 1, 4)), 0, mtu)
        return self._ip(ipv6.ICMP, head + quoted, None, local)

    def fragment(self):
        rng = self.random
        at = rng.choice((0, 8, 1400, 65528, rng.randrange(8192) * 8))
        data = rng.randbytes(rng.choice((0, 8, 100, 1400)))
        protocol = rng.choice((ipv6.UDP, ipv6.TCP, ipv6.ICMP, 60, 44))
        head = struct.pack(">BBHI", protocol, 0, at | (rng.random() < 0.7), rng.randrange(20))
        return self._ip(ipv6.FRAGMENT, head + data)

    def _option(self):
        rng = self.random
        kind = rng.choice((1, 2, 3, 5, 25, 31, rng.getrandbits(8)))
        length = {1: 6, 2: 6, 3: 30, 5: 6, 25: 22}.get(kind, rng.choice((6, 14, 30)))
        body = rng.randbytes(length)
        if kind == 3:
            body = bytes((64, 0xC0)) + rng.randbytes(8) + bytes(4)
            body += b"\x20\1\x0d\xb8" + rng.randbytes(4) + bytes(8)
        return bytes((kind, rng.choice(((length + 2) // 8,) * 9 + (0,)))) + body

    def discovery(self):
        rng = self.random
        kind = rng.choice((135, 135, 136, 136, 137, 133))
        target = rng.choice(
            self.own + [PEER_IP6, ROUTER, b"\xfe\x80" + bytes(13) + rng.randbytes(1)]
        )
        message = bytes((kind, 0, 0, 0, rng.getrandbits(8))) + bytes(3) + target
        for _ in range(rng.randrange(3)):
            message += self._option()
        source = rng.choice((PEER_IP6, ROUTER, ipv6.ANY, target, b"\xfe\x80" + rng.randbytes(14)))
        destination = rng.choice((None, ipv6.ALL_NODES, ipv6.solicited_node(target)))
        return self._ip(ipv6.ICMP, message, source, destination, rng.choice((255, 255, 255, 64)))

    def advertisement(self):
        rng = self.random
        message = struct.pack(
            ">BBHBBHII",
            134,
            0,
            0,
            64,
            rng.getrandbits(8),
            rng.choice((0, 1, 1800, 9000)),
            rng.choice((0, 30000, rng.getrandbits(32))),
            rng.choice((0, 1, 1000, rng.getrandbits(32))),
        )
        for _ in range(rng.randrange(4)):
            message += self._option()
        source = rng.choice((ROUTER, b"\xfe\x80" + bytes(13) + rng.randbytes(1), PEER_IP6))
        return self._ip(ipv6.ICMP, message, source, ipv6.ALL_NODES, 255)

    def listeners(self):
        rng = self.random
        group = rng.choice(GROUPS + [ipv6.ANY])
        message = struct.pack(">BBHHH", 130, 0, 0, rng.getrandbits(16), 0) + group
        message += bytes(rng.choice((0, 4, 20)))
        return self._ip(ipv6.ICMP, message, ROUTER, rng.choice(GROUPS), 1)

    def noise(self):
        rng = self.random
        return HOST_MAC + PEER_MAC + b"\x86\xdd\x60" + rng.randbytes(rng.randrange(120))


class Target6:
    """A Stack that has everything to lose, and the check that it did not."""

    def __init__(self, seed):
        self.mutator = Mutator6(seed)
        self.random = random.Random(seed + 1)
        self.link = Link()
        self.now = 1000
        self.stack = Stack(self.link, self.random.randbytes, buffer_limit=32)
        self.six = self.stack.six
        self._start()
        self.listeners = [self.stack.tcp.listen(0, self.stack.tcp.bind(port), 5) for port in PORTS]
        self.resolver = dns.Resolver(self.stack)
        self.query = None
        self.users = []

    def _start(self):
        self.six.start(self.now)
        self.six.autoconf.static_servers = [SERVER]
        self.now += 2000
        self.stack.poll(self.now)
        self._advertise()
        self.now += 2000
        self.stack.poll(self.now)

    def _advertise(self):
        message = struct.pack(">BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0) + b"\1\1" + PEER_MAC
        message += struct.pack(">BBBBIII", 3, 4, 64, 0xC0, 7200, 3600, 0)
        message += ipv6.mask(HOST_IP6, 64)
        self._send(message, ROUTER, ipv6.ALL_NODES)
        for address in (PEER_IP6, SERVER):
            message = bytes((136, 0, 0, 0, 0x60)) + bytes(3) + address + b"\2\1" + PEER_MAC
            for own in list(self.six.own)[:1]:
                self._send(message, address, own)

    def _send(self, message, source, destination):
        frame = bytearray(54) + message
        ethernet.emit(frame, HOST_MAC, PEER_MAC, ethernet.TYPE_IPV6)
        ipv6.emit(frame, 14, ipv6.ICMP, source, destination, len(message), 255)
        fix_checksums(frame)
        self.stack.input(memoryview(frame), self.now)

    def feed(self, count):
        """Take `count` mutated frames."""
        for number in range(count):
            if number & 63 == 0:
                self._live()
            self.stack.input(memoryview(bytearray(self.mutator.frame())), self.now)
            if number & 7 == 0:
                self.now += self.random.choice((0, 1, 5, 50, 1000))
                self.stack.poll(self.now)
                self._look_at_sent()

    def _look_at_sent(self):
        """What is sent is well-formed, and nothing is sent to what is no host or group."""
        for frame in self.link.frames:
            protocol, source, destination, start, end, _ = ipv6.parse(frame, 14)
            assert end == len(frame) and not ipv6.is_multicast(source)
            assert ipv6.is_multicast(destination) or ipv6.is_host(destination), frame
            assert bool(frame[0] & 1) == ipv6.is_multicast(destination)
            if protocol == ipv6.ICMP:
                assert icmp.parse(frame, start, end, source, destination) is not None
        self.link.frames.clear()

    def _live(self):
        """What programs do meanwhile: accept, read, write, connect, look up, close."""
        rng, stack = self.random, self.stack
        if not self.six.has_global():
            # Forged advertisements end addresses, as they may.
            self._start()
        if rng.random() < 0.1:
            stack.link_up(self.now)
        self._advertise()
        while len(self.users) < 12:
            try:
                self.users.append(stack.tcp.connect(PEER_IP6, 4000, 0, self.now))
            except OSError:
                break  # no router is left
        for listener in self.listeners:
            while listener.ready():
                self.users.append(listener.accept())
        for connection in list(self.users):
            try:
                dice = rng.random()
                connection.receive_bytes(rng.choice((1, 100, 100000)))
                if dice < 0.5:
                    connection.send(bytes(5000), 0, 5000)
                elif dice < 0.6 or connection.state == 0 or len(self.users) > 40:
                    self.users.remove(connection)
                    connection.close(self.now)
            except OSError:
                self.users.remove(connection)
                connection.close(self.now)
        if self.query is None or self.query.done:
            self.query = self.resolver.resolve("cllm", self.now, 28)
        mutator = self.mutator
        mutator.dns_question = self.query._identifier, self.query.port or 53
        mutator.udp_ports = list(stack._udp) or [53]
        mutator.own = list(self.six.own) or [HOST_IP6]
        mutator.connections = [
            (c.local, c.port, c.remote_port, c.rcv_nxt & 0xFFFFFFFF, c.snd_max & 0xFFFFFFFF)
            for c in stack.tcp.connections()
        ]

    def check(self):
        """Nothing may be left when all is closed and time has passed, and it still answers."""
        stack, six = self.stack, self.six
        table = six.neighbours
        assert len(table._order) == len(table._entries) <= 256
        assert six._fragments.bytes <= 131072 and len(stack._paths) <= 64
        assert len(six.autoconf.addresses) <= 16 and len(six.autoconf._prefixes) <= 16
        assert len(six.autoconf._routers) <= 8 and len(six._ways) <= 64
        for connection in self.users:
            connection.close(self.now)
        for listener in self.listeners:
            listener.close()
        self.query.cancel()
        for _ in range(2000):
            self.now += 500
            stack.poll(self.now)
        assert not stack.tcp.connections() and not stack._udp and not six._fragments.bytes
        assert stack.send_pool.lent == 0 and stack.receive_pool.lent == 0
        self._start()
        self.link.frames.clear()
        self._advertise()
        own = [value for value in six.own if not ipv6.is_link_local(value)][0]
        self._send(bytes((128, 0)) + bytes(6) + b"answer!!", PEER_IP6, own)
        self._advertise()  # the answer waits for the hardware address
        assert any(b"answer!!" in frame for frame in self.link.frames)
