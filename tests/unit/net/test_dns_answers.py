"""DNS answers in any order, cut short, and from servers that cannot say."""

import struct

import pytest
from net import dns, ipv4
from net import dns_message as message
from net.tcp import wire as tcp
from scripted import HOST_MAC, PEER_MAC, Segment
from test_dhcp_dns import OFFERED, SERVER, NameServer, answer_to

NAME = message.encode_name("www.example")
HOST = ipv4.address("192.0.2.1")


def record(owner, kind, data, ttl=60, group=1):
    head = struct.pack(">HHIH", kind, group, ttl, len(data))
    return message.encode_name(owner) + head + data


def alias(owner, target, ttl=60):
    return record(owner, 5, message.encode_name(target), ttl)


def address(owner, value=HOST, ttl=60):
    return record(owner, 1, struct.pack(">I", value), ttl)


def answer(records, flags=0x8180, identifier=7, name=NAME):
    header = struct.pack(">HHHHHH", identifier, flags, 1, len(records), 0, 0)
    return header + name + struct.pack(">HH", 1, 1) + b"".join(records)


def permutations(items):
    if not items:
        return [[]]
    found = []
    for at in range(len(items)):
        for rest in permutations(items[:at] + items[at + 1 :]):
            found.append([items[at]] + rest)
    return found


def test_records_count_in_any_order():
    # RFC 1034 3.6: "The order of RRs in a set is not significant".
    records = [
        alias("www.example", "a.example", 50),
        alias("a.example", "b.example", 40),
        address("b.example", HOST, 30),
        address("other.example", 1, 1),
        record("b.example", 16, b"\x03txt"),
    ]
    for some in permutations(records):
        assert message.parse_answer(answer(some), 7, NAME) == (0, [HOST], 30)


def test_all_addresses_of_all_aliases_are_found():
    records = [
        address("b.example", HOST + 1),
        alias("WWW.example", "A.example"),
        address("b.example", HOST + 2),
        alias("a.Example", "B.example"),
    ]
    assert message.parse_answer(answer(records), 7, NAME)[1] == [HOST + 1, HOST + 2]


@pytest.mark.parametrize("length", [1, 2, 3, 100])
def test_rings_of_aliases_end(length):
    names = ["www.example"] + ["n%d.example" % number for number in range(1, length)]
    records = [alias(name, names[(at + 1) % length]) for at, name in enumerate(names)]
    assert message.parse_answer(answer(records), 7, NAME)[:2] == (0, [])
    records.insert(0, address(names[-1]))
    assert message.parse_answer(answer(records), 7, NAME)[:2] == (0, [HOST])


def test_what_the_question_does_not_lead_to_is_not_taken():
    records = [
        address("evil.example"),
        alias("evil.example", "www.example"),
        record("www.example", 1, struct.pack(">I", HOST), group=3),
        record("www.example", 1, b"\1\2\3"),
    ]
    assert message.parse_answer(answer(records), 7, NAME)[:2] == (0, [])


def test_truncated_answers_count_with_what_they_have():
    assert message.parse_answer(answer([address("www.example")], 0x8380), 7, NAME)[1] == [HOST]
    for records in ([], [alias("www.example", "a.example")]):
        data = answer(records, 0x8380)
        assert message.parse_answer(data, 7, NAME) is None
        assert message.is_truncated(data, 7, NAME)
        assert not message.is_truncated(data, 8, NAME)
        assert not message.is_truncated(data, 7, message.encode_name("else.example"))
    assert not message.is_truncated(answer([]), 7, NAME)
    # That there is no such name is all that was to be said.
    assert message.parse_answer(answer([], 0x8383), 7, NAME)[:2] == (3, [])


class Servers(NameServer):
    """`count` DNS servers whose hardware addresses are known."""

    def __init__(self, count):
        super().__init__()
        self.servers = [SERVER + number for number in range(count)]
        self.stack.dns_servers = self.servers
        for server in self.servers:
            self.stack.neighbours.lookup(server, self.now).resolve(PEER_MAC, self.now)
        self.link.frames.clear()
        self.query = self.resolver.resolve("www.example", self.now)

    def question(self, forward=0):
        ((server, port, _, data),) = self.questions(forward)
        self.reply_to = port, data, server
        return server

    def say(self, code=0, addresses=(), truncated=False):
        port, data, server = self.reply_to
        data = bytearray(answer_to(data, list(addresses), code))
        data[2] |= 2 if truncated else 0
        self.reply(port, bytes(data), server)

    def segments(self, forward=0):
        end = self.now + forward
        found = []
        while True:
            self.stack.poll(self.now)
            found += [Segment(f) for f in self.link.frames if f[23:24] == b"\6"]
            self.link.frames.clear()
            if self.now >= end:
                return found
            self.now += 1

    def send(self, flags, seq, ack, port, payload=b""):
        buf = bytearray(20) + payload
        sums = ipv4.pseudo_header_sum(ipv4.TCP, SERVER, OFFERED)
        tcp.emit(buf, 0, 53, port, seq, ack, flags, 60000, 20, len(payload), sums)
        frame = bytearray(34) + buf
        frame[0:14] = HOST_MAC + PEER_MAC + b"\x08\0"
        ipv4.emit(frame, 14, ipv4.TCP, SERVER, OFFERED, len(buf))
        self.stack.input(memoryview(frame), self.now)


def test_servers_that_cannot_say_are_not_asked_at_the_wire_s_speed():
    for count in (1, 2, 3):
        net = Servers(count)
        times = []
        start = net.now
        while not net.query.done:
            for server, port, _, data in net.questions(1):
                times.append(net.now)
                net.reply_to = port, data, server
                net.say(code=2)
            assert net.now < start + 20000
        # Each one at once, and all again after a pause.
        assert len(times) == min(2 * count, 4)
        assert times[count - 1] - start <= 20 and times[count] - start >= 2000
        assert net.query.error == dns.EIO and not net.stack._udp


def test_unreachable_servers_are_not_asked_at_the_wire_s_speed():
    net = Servers(2)
    assert net.question() == SERVER
    net.query.unreachable(SERVER + 1, 53, 111, net.now)  # about an older question
    assert net.questions() == []
    net.query.unreachable(SERVER, 53, 111, net.now)
    assert net.question() == SERVER + 1
    net.query.unreachable(SERVER + 1, 53, 111, net.now)
    assert net.questions(1999) == [] and net.question(10) == SERVER
    net.say(addresses=[HOST])
    assert net.query.addresses == [HOST]


def test_a_truncated_answer_has_the_next_server_asked():
    net = Servers(2)
    assert net.question() == SERVER
    net.say(truncated=True)
    assert not net.query.done and net.question() == SERVER + 1
    net.say(addresses=[HOST])
    assert net.query.addresses == [HOST]


def asked_by_tcp():
    """A question that the only server answers with a truncation, up to the handshake."""
    net = Servers(1)
    net.question()
    net.say(truncated=True)
    (syn,) = net.segments()
    assert syn.flags == tcp.SYN and syn.peer_port == 53
    net.send(tcp.SYN | tcp.ACK, 100, syn.seq + 1, syn.port)
    segments = net.segments(40)
    assert [s.flags & tcp.SYN for s in segments] == [0] * len(segments)
    query = b"".join([s.payload for s in segments])
    assert struct.unpack_from(">H", query, 0)[0] == len(query) - 2
    assert query[14:] == message.emit_query(0, NAME)[12:]
    return net, syn, query


@pytest.mark.parametrize("pieces", [1, 2, 7])
def test_tcp_is_tried_where_nobody_else_is(pieces):
    net, syn, query = asked_by_tcp()
    whole = answer_to(query[2:], [HOST + number for number in range(60)])
    whole = struct.pack(">H", len(whole)) + whole
    size = -(-len(whole) // pieces)
    ack = syn.seq + 1 + len(query)
    for at in range(0, len(whole), size):
        net.send(tcp.ACK, 101 + at, ack, syn.port, whole[at : at + size])
        net.segments(30)
    assert net.query.done and len(net.query.addresses) == 60
    # The connection ends by itself.
    assert net.segments()[-1:] == [] and not net.stack._udp
    net.send(tcp.ACK | tcp.FIN, 101 + len(whole), ack + 1, syn.port)
    net.segments(2)
    net.now += 70000
    net.stack.poll(net.now)
    assert not net.stack.tcp.connections()


def test_tcp_that_fails():
    # Reset, an end before the whole, silence, another answer; and how many numbers each takes.
    for flags, text, extent in (
        (tcp.RST, b"", 0),
        (tcp.ACK | tcp.FIN, b"\0\x40abc", 6),
        (None, b"", 0),
        (tcp.ACK, b"\0\x0c" + bytes(12), 14),
    ):
        net, syn, query = asked_by_tcp()
        if flags is not None:
            net.send(flags, 101, syn.seq + 1 + len(query), syn.port, text)
        net.segments(60 if flags else 5100)
        assert not net.query.done and net.query._connection is None
        net.send(tcp.RST, 101 + extent, 0, syn.port)
        assert not net.stack.tcp.connections()
        # Asked again after a pause; then it can say.
        assert net.question(2100) == SERVER
        net.say(addresses=[HOST])
        assert net.query.addresses == [HOST]


def test_a_question_by_tcp_can_be_given_up():
    net, _, _ = asked_by_tcp()
    net.query.cancel()
    assert net.query.done and net.query.error == dns.ETIMEDOUT
    net.now += 400000
    net.stack.poll(net.now)
    for _ in range(400):
        net.now += 1000
        net.stack.poll(net.now)
    assert not net.stack.tcp.connections() and not net.stack._udp
