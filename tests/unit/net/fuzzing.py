"""Frames that nobody should send, for a Stack in the middle of everything it does.

`Mutator(seed)` makes them: well-formed ones of each protocol with one thing or many changed, with
the checksums put right again in most, so that they get past the first look: from addresses of
nobody and to groups, tagged, as answers to the questions that are under way. `Target` is a Stack
with listeners, connections in all states, a DHCP client, a question to a DNS server and fragments,
that takes them. The frames also go into a booted guest (tests/guest). Everything follows from the
seed.
"""

import random
import struct

from net import arp, dhcp, dns, ethernet, icmp, ipv4, ntp, udp
from net.stack import Stack
from net.tcp import wire as tcp
from scripted import HOST_IP, HOST_MAC, PEER_IP, PEER_MAC, Link

PORTS = (80, 81, 4242)
# Addresses that no host has, or not in the subnet of HOST_IP; the last is somebody's.
NOBODY = [
    bytes(address)
    for address in (
        (10, 0, 0, 255),
        (10, 0, 0, 0),
        (255, 255, 255, 255),
        (0, 0, 0, 0),
        (127, 0, 0, 1),
        (224, 0, 0, 1),
        (240, 0, 0, 1),
        (255, 0, 255, 0),
        (10, 0, 0, 9),
    )
]


def fix_checksums(frame):
    """Make the IPv4, TCP, UDP and ICMP checksums of a frame right, as far as it has such."""
    if len(frame) < 34 or frame[12:14] != b"\x08\0":
        return
    header = (frame[14] & 15) * 4
    if header < 20 or len(frame) < 14 + header:
        return
    start, end = 14 + header, min(len(frame), 14 + (frame[16] << 8 | frame[17]))
    frame[24:26] = b"\0\0"
    frame[24:26] = _sum(frame[14:start])
    at = {ipv4.TCP: 16, ipv4.UDP: 6, ipv4.ICMP: 2}.get(frame[23])
    if at is None or end - start < at + 2:
        return
    frame[start + at : start + at + 2] = b"\0\0"
    pseudo = b""
    if frame[23] != ipv4.ICMP:
        pseudo = bytes(frame[26:34]) + struct.pack(">BBH", 0, frame[23], end - start)
    frame[start + at : start + at + 2] = _sum(pseudo + bytes(frame[start:end]))


def _sum(data):
    data = bytes(data) + b"\0" * (len(data) & 1)
    total = sum(struct.unpack(">%dH" % (len(data) // 2), data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack(">H", ~total & 0xFFFF)


class Mutator:
    """Makes frames. Args: addresses: who sends to whom; what the target knows may be set later."""

    def __init__(self, seed, host_mac=HOST_MAC, host=HOST_IP, peer_mac=PEER_MAC, peer=PEER_IP):
        self.random = random.Random(seed)
        self.host_mac, self.host = host_mac, host
        self.peer_mac, self.peer = peer_mac, peer
        # (port of the target, port of the peer, number that it expects, number that it sent).
        self.connections = []
        self.udp_ports = [68, 53, 123]
        # What answers have to repeat: DHCP's number, DNS's, NTP's cookie, and the ports that asked.
        self.dhcp_number = 0
        self.dns_question = 0, 53
        self.ntp_question = bytes(8), 123
        self.ports = PORTS
        self.kinds = [self.segment] * 6 + [
            self.datagram,
            self.echo,
            self.error,
            self.arp,
            self.fragment,
            self.noise,
        ]

    def frame(self):
        """The next frame, as bytes."""
        rng = self.random
        frame = bytearray(rng.choice(self.kinds)())
        dice = rng.random()
        if dice < 0.5:
            for _ in range(rng.choice((1, 1, 2, 8))):
                if frame:
                    frame[rng.randrange(len(frame))] = rng.choice(
                        (0, 1, 0x7F, 0x80, 0xFF, rng.getrandbits(8))
                    )
        elif dice < 0.6:
            frame = frame[: rng.randrange(len(frame) + 1)]
        elif dice < 0.65:
            frame += rng.randbytes(rng.randrange(1, 60))
        if len(frame) >= 34 and rng.random() < 0.1:
            # From or to what is no host, or another one.
            at = rng.choice((26, 28, 30)) if frame[12:14] == b"\x08\0" else 28
            frame[at : at + 4] = rng.choice(NOBODY)
        if rng.random() < 0.8:
            fix_checksums(frame)
        if rng.random() < 0.05:
            frame[0:6] = rng.choice((b"\xff" * 6, b"\1\0\x5e\0\0\1"))
        if rng.random() < 0.1:
            tag = rng.choice((b"\x81\0\0\0", b"\x81\0\xe0\0", b"\x88\xa8\0\0", b"\x81\0\0\5"))
            frame[12:12] = tag * rng.choice((1, 1, 1, 2, 3))
        return bytes(frame[:1514])

    def _ip(self, protocol, payload, identification=0, at=None, more=False):
        frame = bytearray(34 + len(payload))
        ethernet.emit(frame, self.host_mac, self.peer_mac, ethernet.TYPE_IPV4)
        frame[34:] = payload
        ipv4.emit(
            frame, 14, protocol, self.peer, self.host, len(payload), identification, at, more
        )
        return frame

    def _options(self):
        rng = self.random
        options = b""
        for _ in range(rng.randrange(5)):
            kind = rng.choice((0, 1, 2, 3, 4, 5, 8, rng.getrandbits(8)))
            length = rng.choice((2, 3, 4, 10, 10, 18, 26, rng.getrandbits(8)))
            body = rng.randbytes(max(0, length - 2))
            if kind == 5 and self.connections:
                _, _, _, sent = rng.choice(self.connections)
                body = b"".join(
                    struct.pack(">I", (sent + rng.randrange(-3000, 20000)) & 0xFFFFFFFF)
                    for _ in range(len(body) // 4)
                )
            options += bytes((kind,)) if kind < 2 else bytes((kind, length)) + body
        options = options[:40]
        return options + bytes(-len(options) & 3)

    def segment(self):
        rng = self.random
        port, peer_port = rng.choice(self.ports), rng.choice((4000, 4001, rng.getrandbits(16)))
        seq, ack = rng.getrandbits(32), rng.getrandbits(32)
        if self.connections and rng.random() < 0.9:
            port, peer_port, seq, ack = rng.choice(self.connections)
            near = (0, 0, 0, 1, -1, 100, 1460, 65535, -65535, rng.randrange(-70000, 70000))
            seq += rng.choice(near)
            ack += rng.choice((0, 0, 1, -1, rng.randrange(-70000, 70000)))
        flags = rng.choice((16, 16, 16, 24, 17, 2, 18, 4, 20, 1, 0, rng.getrandbits(8)))
        options = self._options() if rng.random() < 0.5 else b""
        payload = rng.randbytes(rng.choice((0, 0, 1, 10, 536, 1300)))
        payload = payload[: 1460 - len(options)]
        window = rng.choice((0, 1, 500, 65535, rng.getrandbits(16)))
        body = bytearray(20 + len(options) + len(payload))
        body[20:] = options + payload
        tcp.emit(
            body, 0, peer_port, port, seq, ack, flags, window, 20 + len(options), len(payload), 0
        )
        frame = self._ip(ipv4.TCP, body)
        fix_checksums(frame)
        return frame

    def datagram(self):
        rng = self.random
        port = rng.choice(self.udp_ports + [rng.getrandbits(16)])
        source = rng.choice((53, 67, 123, 9))
        answers = rng.random() < 0.7
        if source == 67:
            if answers:
                port = 68
            data = self.dhcp(answers)
        elif source == 53:
            identifier, asked = self.dns_question
            if answers:
                port = asked
            data = self.dns(identifier if answers else rng.getrandbits(16))
        elif source == 123 and answers:
            cookie, port = self.ntp_question
            head = bytes((rng.choice((0x24, 0xE4)), rng.choice((0, 0, 1, 2, 16))))
            head += rng.randbytes(10)
            code = rng.choice((b"RATE", b"DENY", b"RSTR", b"INIT", rng.randbytes(4)))
            data = head + code + rng.randbytes(8) + cookie + rng.randbytes(16)
        else:
            data = rng.randbytes(rng.choice((0, 47, 48, 300)))
        body = bytearray(8) + data
        udp.emit(body, 0, self.peer, source, self.host, port, len(data))
        return self._ip(ipv4.UDP, body)

    def dhcp(self, answers):
        """A message of a server, to the number that the client asked under or to another."""
        rng = self.random
        number = struct.pack(">I", self.dhcp_number) if answers else rng.randbytes(4)
        host = struct.pack(">I", self.host)
        yours = rng.choice((host, host, NOBODY[-1], rng.choice(NOBODY), rng.randbytes(4)))
        head = bytes((2, 1, 6, 0)) + number + bytes(8) + yours + bytes(8) + self.host_mac
        data = head + rng.randbytes(202) + b"\x63\x82\x53\x63"
        if answers:
            data += bytes((53, 1, rng.choice((2, 5, 5, 6)), 54, 4)) + struct.pack(">I", self.peer)
        for _ in range(rng.randrange(10)):
            value = rng.choice(NOBODY) * rng.choice((0, 1, 2, 20))
            if rng.random() < 0.5:
                value = rng.randbytes(rng.choice((0, 1, 4, 8, 200)))
            data += bytes((rng.choice((1, 3, 6, 51, 52, 53, 54, 58, 59, 255, 42)), len(value)))
            data += value
        return data

    def dns(self, identifier):
        """An answer, perhaps, to the question for "cllm": addresses and aliases in any order."""
        rng = self.random
        flags = rng.choice((b"\x81\x80", b"\x81\x80", b"\x83\x80", b"\x81\x82", b"\x81\x83"))
        count = rng.choice((0, 1, 2, 5, 100))
        data = (
            struct.pack(">H", identifier) + flags + b"\0\1" + struct.pack(">H", count) + bytes(4)
        )
        data += b"\4cllm\0\0\1\0\1"
        for _ in range(count):
            names = (b"\xc0\x0c", b"\1a\xc0\x0c", b"\1a\0", b"\1b\0")
            names += (b"\xc0\xff", b"\x3fabc", b"\0")
            data += rng.choice(names)
            if rng.getrandbits(1):
                data += b"\0\1\0\1\0\0\0\x10\0\4" + rng.randbytes(4)
            else:
                name = rng.choice(names)
                data += b"\0\5\0\1\0\0\0\x10\0" + bytes((len(name),)) + name
        return data

    def echo(self):
        rng = self.random
        data = rng.randbytes(rng.choice((0, 1, 56, 1400)))
        body = bytearray(8 + len(data))
        icmp.emit(body, 0, rng.choice((8, 8, 0, 13, 5)), 0, rng.getrandbits(32), data)
        return self._ip(ipv4.ICMP, body)

    def error(self):
        rng = self.random
        quoted = bytearray(28)
        protocol = rng.choice((ipv4.TCP, ipv4.TCP, ipv4.UDP))
        ipv4.emit(quoted, 0, protocol, self.host, self.peer, 20)
        port, peer_port, _, ack = (rng.choice(self.udp_ports), 53, 0, 0)
        if protocol == ipv4.TCP and self.connections:
            port, peer_port, _, ack = rng.choice(self.connections)
        struct.pack_into(">HHI", quoted, 20, port, peer_port, (ack - 100) & 0xFFFFFFFF)
        body = bytearray(36)
        mtu = rng.choice((0, 68, 576, 1400, 65535))
        kind = rng.choice((3, 3, 3, 11))
        icmp.emit(body, 0, kind, rng.choice((0, 1, 2, 3, 4, 4, 13)), mtu, bytes(quoted))
        return self._ip(ipv4.ICMP, body)

    def arp(self):
        rng = self.random
        frame = bytearray(42)
        ethernet.emit(frame, self.host_mac, self.peer_mac, ethernet.TYPE_ARP)
        # Its own address stays what it is, or everything after would be sent elsewhere.
        sender = (self.peer & 0xFFFFFF00) | rng.randrange(100, 256)
        if rng.random() < 0.2:
            sender = rng.choice((0, self.host))
        arp.emit(frame, 14, rng.choice((1, 2)), self.peer_mac, sender, bytes(6), self.host)
        return frame

    def fragment(self):
        rng = self.random
        at = rng.choice((0, 8, 1480, 2960, 65528, rng.randrange(8192) * 8))
        data = rng.randbytes(rng.choice((0, 8, 100, 1480)))
        protocol = rng.choice((ipv4.UDP, ipv4.TCP, ipv4.ICMP))
        return self._ip(protocol, data, rng.randrange(20), at, rng.random() < 0.7)

    def noise(self):
        rng = self.random
        return self.host_mac + self.peer_mac + b"\x08\0" + rng.randbytes(rng.randrange(100))


class Target:
    """A Stack that has everything to lose, and the check that it did not."""

    def __init__(self, seed):
        self.mutator = Mutator(seed)
        self.random = random.Random(seed + 1)
        self.link = Link()
        self.now = 1000
        self.stack = Stack(self.link, self.random.randbytes, buffer_limit=32)
        self.stack.configure(HOST_IP, ipv4.mask(24), 0x0A0000FE, [PEER_IP])
        self.listeners = [self.stack.tcp.listen(0, self.stack.tcp.bind(port), 5) for port in PORTS]
        self.resolver = dns.Resolver(self.stack)
        self.query = None
        self.dhcp = dhcp.Client(self.stack)
        self.dhcp.start(self.now)
        self.ntp = ntp.Client(self.stack, [PEER_IP], lambda: self.now * 1000000, lambda ns: None)
        self.ntp.start(self.now)
        self.users = []
        self._meet()

    def _meet(self):
        frame = bytearray(42)
        ethernet.emit(frame, HOST_MAC, PEER_MAC, ethernet.TYPE_ARP)
        arp.emit(frame, 14, arp.REPLY, PEER_MAC, PEER_IP, HOST_MAC, self.stack.address)
        self.stack.input(memoryview(frame), self.now)

    def feed(self, count):
        """Take `count` mutated frames."""
        for number in range(count):
            if number & 63 == 0:
                self._live()
            elif number & 7 == 0:
                self._ask()
            self.stack.input(memoryview(bytearray(self.mutator.frame())), self.now)
            if number & 7 == 0:
                self.now += self.random.choice((0, 1, 5, 50, 1000))
                self.stack.poll(self.now)
                self._look_at_sent()

    def _look_at_sent(self):
        """Nobody here sends IP to all, but for DHCP, and ARP never asks for what is no host."""
        for frame in self.link.frames:
            if frame[12:14] == b"\x08\x06":
                target = struct.unpack_from(">I", frame, 38)[0]
                assert ipv4.is_host(target) or (target == 0 and frame[20:22] == b"\0\2"), frame
                continue
            to_dhcp = frame[23] == ipv4.UDP and frame[36:38] == b"\0\x43"
            assert to_dhcp or not (frame[0] & 1 or frame[30] in (0, 127) or frame[30] >= 224), (
                frame
            )
        self.link.frames.clear()

    def _ask(self):
        """Look up a name, and show the mutator the answer that would match."""
        if self.query is None or self.query.done:
            self.query = self.resolver.resolve("cllm", self.now)
        mutator = self.mutator
        mutator.dhcp_number = self.dhcp._xid
        mutator.dns_question = self.query._identifier, self.query.port or 53
        mutator.ntp_question = struct.pack(">Q", self.ntp._cookie), self.ntp.port or 123
        mutator.udp_ports = list(self.stack._udp) or [68]

    def _live(self):
        """What programs do meanwhile: accept, read, write, connect, look up, close."""
        rng, stack = self.random, self.stack
        if (stack.address, stack.netmask, stack.gateway) != (HOST_IP, ipv4.mask(24), 0x0A0000FE):
            # A forged lease was believed, as DHCP must; the fuzz goes on where it was.
            stack.configure(HOST_IP, ipv4.mask(24), 0x0A0000FE, [PEER_IP])
        if rng.random() < 0.1:
            stack.link_up(self.now)
            self.dhcp.link_up(self.now)
        self._meet()
        while len(self.users) < 12:
            self.users.append(stack.tcp.connect(PEER_IP, rng.choice((80, 4000)), 0, self.now))
        for listener in self.listeners:
            while listener.ready():
                self.users.append(listener.accept())
        for connection in list(self.users):
            try:
                dice = rng.random()
                connection.receive_bytes(rng.choice((1, 100, 100000)))
                if dice < 0.5:
                    connection.send(bytes(5000), 0, 5000)
                elif dice < 0.55:
                    connection.shutdown()
                elif dice < 0.6 or connection.state == 0 or len(self.users) > 40:
                    self.users.remove(connection)
                    connection.close(self.now)
            except OSError:
                self.users.remove(connection)
                connection.close(self.now)
        self._ask()
        self.mutator.connections = [
            (c.port, c.remote_port, c.rcv_nxt & 0xFFFFFFFF, c.snd_max & 0xFFFFFFFF)
            for c in stack.tcp.connections()
        ]

    def check(self):
        """Nothing may be left when all is closed and time has passed, and it still answers."""
        stack = self.stack
        assert len(stack.neighbours._entries) <= 256 and stack._fragments.bytes <= 131072
        assert len(stack._paths) <= 64 and len(stack.tcp.time_waits) <= 512
        for connection in self.users:
            connection.close(self.now)
        for listener in self.listeners:
            listener.close()
        self.dhcp.stop()
        self.ntp.stop()
        self.query.cancel()
        for _ in range(2000):
            self.now += 500
            stack.poll(self.now)
        left = stack.tcp.connections()
        assert not left, left[0].state
        assert stack.send_pool.lent == 0 and stack.receive_pool.lent == 0
        assert not stack._udp and not stack.tcp.time_waits and not stack._fragments.bytes
        stack.configure(HOST_IP, ipv4.mask(24), 0, [])
        self._meet()
        self.link.frames.clear()
        self.mutator.host = HOST_IP
        body = bytearray(16)
        icmp.emit(body, 0, icmp.ECHO_REQUEST, 0, 1, b"answer!!")
        frame = self.mutator._ip(ipv4.ICMP, body)
        stack.input(memoryview(frame), self.now)
        assert any(b"answer!!" in frame for frame in self.link.frames)
