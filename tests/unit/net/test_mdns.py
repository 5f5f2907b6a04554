"""Multicast DNS: probes, conflicts, announcements, answers; messages are decoded here anew."""

import random
import struct

import pytest
from net import ipv6, udp
from net import mdns_message as message
from net.mdns import Responder
from scripted import HOST_IP, HOST_IP6, PEER_IP, Peer, start_ipv6

A, PTR, TXT, SRV, NSEC, ANY = 1, 12, 16, 33, 47, 255
FLUSH = 0x8000
OTHER_IP = 0x0A0000C8


def decode_name(data, at):
    """Return (labels joined by dots, where it ends)."""
    labels, end = [], None
    while data[at]:
        if data[at] >= 0xC0:
            end = end or at + 2
            at = (data[at] & 0x3F) << 8 | data[at + 1]
        else:
            labels.append(data[at + 1 : at + 1 + data[at]].decode())
            at += 1 + data[at]
    return ".".join(labels), end or at + 1


def decode(data):
    """Return (identifier, flags, questions, answers, authorities), records as tuples."""
    identifier, flags, *counts = struct.unpack_from(">6H", data)
    at, sections = 12, []
    for section, count in enumerate(counts):
        found = []
        for _ in range(count):
            name, at = decode_name(data, at)
            kind, group = struct.unpack_from(">HH", data, at)
            at += 4
            if not section:
                found.append((name, kind, group))
                continue
            ttl, length = struct.unpack_from(">IH", data, at)
            at += 6
            content = data[at : at + length]
            if kind == PTR:
                content = decode_name(data, at)[0]
            elif kind == SRV:
                content = (struct.unpack_from(">3H", data, at)[2], decode_name(data, at + 6)[0])
            found.append((name, kind, group, ttl, content))
            at += length
        sections.append(found)
    assert at == len(data)
    return (identifier, flags) + tuple(sections[:3])


def wire(name):
    return message.name(*name.split("."))


def query(*questions, known=(), identifier=0, authorities=()):
    data = struct.pack(">6H", identifier, 0, len(questions), len(known), len(authorities), 0)
    for name, kind, group in questions:
        data += wire(name) + struct.pack(">HH", kind, group)
    return data + b"".join(list(known) + list(authorities))


def record(name, kind, data, ttl=120, group=1):
    return wire(name) + struct.pack(">HHIH", kind, group, ttl, len(data)) + data


def answer(*records):
    return struct.pack(">6H", 0, 0x8400, 0, len(records), 0, 0) + b"".join(records)


class Host(Peer):
    def __init__(self, number=0, running=True):
        super().__init__()
        self.stack.random = lambda n: struct.pack(">H", number) * (n // 2)
        self.responder = Responder(self.stack, "_http._tcp", 8080, ["path=/"])
        self.frames(5000)
        self.responder.start(self.now)
        if running:
            self.messages(10_000)

    def messages(self, forward=0):
        """Return [(destination, port, decoded)] of what is sent within `forward` ms."""
        found = []
        for frame in self.frames(forward):
            if frame[23] == 17:
                source_port, port = struct.unpack_from(">HH", frame, 34)
                assert source_port == 5353 and frame[22] == 255
                destination = struct.unpack_from(">I", frame, 30)[0]
                found.append((destination, port, decode(frame[42:])))
        return found

    def hear(self, data, source=PEER_IP, port=5353, destination=message.GROUP):
        datagram = bytearray(8) + data
        udp.emit(datagram, 0, source, port, destination, 5353, len(data))
        self.ip(17, datagram, source, destination)


def test_probes_then_announcements():
    host = Host(number=32768, running=False)
    assert host.messages(124) == []
    probes = [m for to, port, m in host.messages(501) if (to, port) == (message.GROUP, 5353)]
    assert len(probes) == 3
    for identifier, flags, questions, answers, wanted in probes:
        assert (identifier, flags, answers) == (0, 0, [])
        assert questions == [
            ("cllm.local", ANY, 1 | FLUSH),
            ("cllm._http._tcp.local", ANY, 1 | FLUSH),
        ]
        assert wanted == [
            ("cllm.local", A, 1, 120, HOST_IP.to_bytes(4, "big")),
            ("cllm._http._tcp.local", SRV, 1, 120, (8080, "cllm.local")),
            ("cllm._http._tcp.local", TXT, 1, 4500, b"\x06path=/"),
        ]
    told = [m for _, _, m in host.messages(60_000)]
    assert len(told) == 2 and all(m[1] == 0x8400 and m[2] == [] for m in told)
    assert ("_http._tcp.local", PTR, 1, 4500, "cllm._http._tcp.local") in told[0][3]
    assert ("_services._dns-sd._udp.local", PTR, 1, 4500, "_http._tcp.local") in told[0][3]
    assert ("1.0.0.10.in-addr.arpa", PTR, 1 | FLUSH, 120, "cllm.local") in told[0][3]


A6, GROUP6 = 28, message.GROUP6


def messages6(host, forward=0):
    """Return [(destination, port, decoded)] of what is sent over IPv6 within `forward` ms."""
    found = []
    for frame in host.frames(forward):
        if frame[12] == 0x86 and frame[20] == 17:
            protocol, _, destination, start, end, hops = ipv6.parse(frame, 14)
            assert hops == 255
            port = struct.unpack_from(">H", frame, start + 2)[0]
            found.append((destination, port, decode(frame[start + 8 : end])))
    return found


def hear6(host, data, source, port=5353):
    datagram = bytearray(8) + data
    udp.emit(datagram, 0, source, port, GROUP6, 5353, len(data))
    frame = bytearray(54) + datagram
    frame[0:14] = b"\x33\x33\0\0\0\xfb" + b"\2\0\0\0\0\2" + b"\x86\xdd"
    ipv6.emit(frame, 14, 17, source, GROUP6, len(datagram), 255)
    host.stack.input(memoryview(frame), host.now)


def test_addresses_of_ipv6_are_announced_and_answered():
    host = Host()
    start_ipv6(host.stack, HOST_IP6, host.now)
    own = host.stack.six.own
    assert len(own) == 2
    # RFC 6762 8.4: the names are this host's already.
    told = [m for to, port, m in messages6(host, 5000) if (to, port) == (GROUP6, 5353)]
    assert told and all(m[2] == [] for m in told)
    assert {d for n, k, _, _, d in told[0][3] if (n, k) == ("cllm.local", A6)} == own
    names = [n for n, k, _, _, _ in told[0][3] if k == PTR and n.endswith("ip6.arpa")]
    assert ".".join("1" + "0" * 23 + "8bd01002") + ".ip6.arpa" in names
    neighbour = ipv6.address("fe80::7")
    host.stack.six.neighbours.heard(neighbour, b"\2\0\0\0\0\7", host.now)
    hear6(host, query(("cllm.local", A6, 1)), neighbour)
    [(to, _, (_, _, _, answers, _))] = messages6(host)
    assert to == GROUP6 and {d for _, k, _, _, d in answers if k == A6} == own
    hear6(host, query(("cllm.local", A6, 1), identifier=5), neighbour, 4000)
    [(to, port, (number, _, _, answers, _))] = messages6(host, 100)
    assert (to, port, number, len(answers)) == (neighbour, 4000, 5, 2)
    # 11: from this link only.
    hear6(host, query(("cllm.local", A6, 1)), ipv6.address("2001:db8:9::7"), 4000)
    assert messages6(host, 2000) == []
    # Both types are there now, and no other.
    hear6(host, query(("cllm.local", 13, 1)), neighbour)
    [(_, _, (_, _, _, answers, _))] = messages6(host, 2000)
    assert answers[0][1] == NSEC and answers[0][4][-6:] == b"\0\4\x40\0\0\x08"
    host.responder.close()
    assert all(ttl == 0 for _, _, m in messages6(host) for _, _, _, ttl, _ in m[3])


def test_questions_for_all():
    host = Host()
    host.hear(query(("CLLM.local", A, 1)))
    [(to, port, (_, flags, questions, answers, _))] = host.messages()
    assert (to, port, flags, questions) == (message.GROUP, 5353, 0x8400, [])
    assert answers == [("cllm.local", A, 1 | FLUSH, 120, HOST_IP.to_bytes(4, "big"))]
    # Once a second at most.
    host.hear(query(("cllm.local", A, 1)))
    assert host.messages(900) == []
    host.messages(200)
    host.hear(query(("cllm.local", A, 1)))
    assert len(host.messages()) == 1


def test_a_browser_gets_all_that_it_needs_after_a_while():
    host = Host(number=32768)
    host.hear(query(("_http._tcp.local", PTR, 1)))
    assert host.messages(69) == []
    [(_, _, (_, _, _, answers, _))] = host.messages(1)
    assert {kind for _, kind, _, _, _ in answers} == {PTR, SRV, TXT, A}
    known = record("_http._tcp.local", PTR, wire("cllm._http._tcp.local"), 2250)
    host.messages(5000)
    host.hear(query(("_http._tcp.local", PTR, 1), known=[known]))
    assert host.messages(1000) == []
    known = record("_http._tcp.local", PTR, wire("cllm._http._tcp.local"), 2249)
    host.hear(query(("_http._tcp.local", PTR, 1), known=[known]))
    assert len(host.messages(1000)) == 1


def test_a_type_that_is_not_there():
    host = Host()
    host.hear(query(("cllm.local", 28, 1)))
    [(_, _, (_, _, _, [(name, kind, _, _, data)], _))] = host.messages()
    assert (name, kind, data) == ("cllm.local", NSEC, wire("cllm.local") + b"\0\x01\x40")


def test_unicast_answers():
    host = Host()
    host.hear(query(("cllm.local", A, 1 | FLUSH)))
    [(to, port, (_, _, _, answers, _))] = host.messages()
    assert (to, port) == (PEER_IP, 5353) and len(answers) == 1
    # A resolver that knows DNS alone.
    host.hear(query(("cllm.local", A, 1), identifier=77), port=40000)
    [(to, port, (identifier, _, questions, answers, _))] = host.messages()
    assert (to, port, identifier) == (PEER_IP, 40000, 77)
    assert questions == [("cllm.local", A, 1)]
    assert answers == [("cllm.local", A, 1, 10, HOST_IP.to_bytes(4, "big"))]


def test_strangers_and_others_names_get_nothing():
    host = Host()
    host.hear(query(("cllm.local", A, 1)), source=0x08080808)
    host.hear(query(("other.local", A, 1)))
    host.hear(query(("cllm.local", A, 3)))  # class CHAOS
    assert host.messages(2000) == []


def test_a_name_that_is_taken():
    host = Host(running=False)
    host.messages(1)
    host.hear(answer(record("CLLM.local", A, bytes([10, 0, 0, 200]))), source=OTHER_IP)
    assert host.responder.name == "cllm-2"
    host.hear(answer(record("cllm-2.local", 28, bytes(16))), source=OTHER_IP)
    assert host.responder.name == "cllm-3"
    told = host.messages(10_000)[-1][2]
    assert ("cllm-3.local", A, 1 | FLUSH, 120, HOST_IP.to_bytes(4, "big")) in told[3]


def test_a_name_that_another_claims_later_is_probed_again():
    host = Host()
    other = record("cllm.local", A, bytes([10, 0, 0, 200]))
    host.hear(answer(record("cllm.local", A, HOST_IP.to_bytes(4, "big"))), source=OTHER_IP)
    host.hear(answer(record("cllm.local", A, bytes([10, 0, 0, 200]), ttl=0)), source=OTHER_IP)
    assert host.messages(5000) == []
    host.hear(answer(other), source=OTHER_IP)
    assert host.responder.name == "cllm"
    assert len(host.messages(300)) == 2
    # The other defends it.
    host.hear(answer(other), source=OTHER_IP)
    assert host.responder.name == "cllm-2"
    host.messages(10_000)
    assert host.responder.name == "cllm-2"


@pytest.mark.parametrize("last, wins", [(200, False), (0, True)])
def test_two_that_probe_at_once(last, wins):
    host = Host(running=False)
    host.messages(1)
    theirs = [record("cllm.local", A, bytes([10, 0, 0, last]))]
    host.hear(query(("cllm.local", ANY, 1), authorities=theirs), source=OTHER_IP)
    probes = host.messages(999)
    assert (len(probes) >= 2) == wins
    assert host.responder.name == "cllm"


def test_many_conflicts_slow_it_down():
    host = Host(running=False)
    for _ in range(20):
        host.messages(300)
        name = host.responder.name + ".local"
        host.hear(answer(record(name, A, bytes([10, 0, 0, 200]))), source=OTHER_IP)
    assert host.messages(4999) == []
    assert len(host.messages(1)) == 1


def test_goodbye():
    host = Host()
    host.responder.close()
    [(_, _, (_, _, _, answers, _))] = host.messages()
    assert answers and all(ttl == 0 for _, _, _, ttl, _ in answers)
    host.hear(query(("cllm.local", A, 1)))
    assert host.messages(5000) == []
    assert host.stack.groups.joined == set()


def test_another_address_another_name():
    host = Host()
    host.stack.configure(0x0A000005, 0xFFFFFF00, 0, [])
    told = [m for _, _, m in host.messages(10_000)]
    assert ("cllm.local", A, 1 | FLUSH, 120, bytes([10, 0, 0, 5])) in told[-1][3]
    host.stack.hostname = "box"
    host.responder.start(host.now)
    told = [m for _, _, m in host.messages(10_000)]
    assert ("box.local", A, 1 | FLUSH, 120, bytes([10, 0, 0, 5])) in told[-1][3]
    host.stack.configure(0, 0, 0, [])
    assert host.messages(10_000) == []


def test_noise():
    host = Host()
    rng = random.Random(1)
    good = [
        query(("cllm.local", ANY, 1), ("_http._tcp.local", PTR, 1)),
        answer(
            record("x.local", PTR, wire("y.local")), record("y.local", SRV, bytes(6) + wire("z"))
        ),
        query(("cllm.local", ANY, 1), authorities=[record("cllm.local", A, bytes(4))]),
    ]
    for number in range(3000):
        data = bytearray(rng.choice(good))
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(len(data))] = rng.choice((0, 1, 12, 63, 64, 0xC0, 255))
        host.hear(bytes(data[: rng.randint(0, len(data)) if number % 3 else None]))
        if number % 50 == 0:
            host.messages(3000)
    host.messages(60_000)
    host.hear(query((host.responder.name + ".local", A, 1)))
    assert len(host.messages()) == 1


def test_labels():
    assert message.name("a.b", "local") == b"\x03a.b\x05local\0"
    for label in ("", "x" * 64):
        with pytest.raises(ValueError):
            message.name(label)
