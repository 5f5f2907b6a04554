"""Sockets of AF_INET6: both IPs on one port, names of addresses, DNS of both types."""

import struct

import pytest
from api_modules import load
from net import dns_message, host, ipv4, ipv6, udp
from scripted import HOST_IP, HOST_IP6, PEER_MAC, Link, start_ipv6

socket = load("socket")


@pytest.fixture(autouse=True)
def nothing_left():
    yield
    stack = host.stack
    stack.six.stop()
    stack.attach(None)
    stack.dns_servers = []
    for connection in stack.tcp.connections():
        connection.end(0)
    assert not stack.tcp.listeners and not stack._udp and not stack.tcp.bound


def listen(only=False):
    server = socket.socket(socket.AF_INET6)
    if only:
        server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    server.bind(("::", 8080))
    server.listen(5)
    return server


def connect(address):
    client = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET)
    client.connect(address)
    return client


def test_one_port_for_both():
    server = listen()
    for address, named in (
        (("127.0.0.1", 8080), "::ffff:127.0.0.1"),
        (("::1", 8080), "::1"),
        (("::1", 8080, 0, 0), "::1"),
        (("::ffff:127.0.0.1", 8080), "::ffff:127.0.0.1"),
    ):
        client = connect(address)
        accepted, peer = server.accept()
        assert peer == (named, client._connection.port, 0, 0)
        client.send(b"hello")
        assert accepted.recvfrom(9) == (b"hello", peer)
        client.close()
        accepted.close()
    server.close()


def test_a_socket_without_a_family_takes_that_of_its_address():
    # As MicroPython's asyncio.start_server() makes and binds it.
    server = socket.socket()
    server.bind(socket.getaddrinfo("::", 8080)[0][-1])
    server.listen(5)
    for address in (("127.0.0.1", 8080), ("::1", 8080)):
        client = connect(address)
        assert len(server.accept()[1]) == 4
        client.close()
    server.close()
    with pytest.raises(ValueError):
        socket.socket(socket.AF_INET).bind(("::", 8080))


def test_one_port_for_ipv6_alone():
    server = listen(True)
    with pytest.raises(OSError) as error:
        connect(("127.0.0.1", 8080))
    assert error.value.args[0] == 111
    client = connect(("::1", 8080))
    server.accept()[0].close()
    client.close()
    with pytest.raises(OSError):
        server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    server.close()
    only = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    only.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    with pytest.raises(OSError):
        only.sendto(b"x", ("::ffff:127.0.0.1", 9))
    only.close()


def test_a_socket_of_ipv4_hears_no_ipv6():
    server = socket.socket()
    server.bind(("", 8080))
    server.listen(5)
    with pytest.raises(OSError) as error:
        connect(("::1", 8080))
    assert error.value.args[0] == 111
    server.close()


def test_datagrams_of_both():
    one = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    one.bind(("::", 5000))
    other = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    other.bind(("127.0.0.1", 5001))
    other.sendto(b"four", ("127.0.0.1", 5000))
    assert one.recvfrom(9) == (b"four", ("::ffff:127.0.0.1", 5001, 0, 0))
    one.sendto(b"back", ("::ffff:127.0.0.1", 5001))
    assert other.recvfrom(9) == (b"back", ("127.0.0.1", 5000))
    six = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    six.sendto(b"six", ("::1", 5000))
    assert one.recvfrom(9)[0] == b"six"
    for sock in (one, other, six):
        sock.close()


def test_addresses_that_are_none():
    sock = socket.socket(socket.AF_INET6)
    for address in (("10.0.0.1", 80), ("fe80::1", 80, 0, 1), ("x", 80), ("::1",), ("::1", 65536)):
        with pytest.raises(ValueError):
            sock.connect(address)
    with pytest.raises(OSError) as error:
        sock.bind(("2001:db8::99", 80))
    assert error.value.args[0] == 99
    for address in (("fe80::1%0", 80), ("2001:db8::1", 80)):
        with pytest.raises(OSError) as error:
            sock.connect(address)
        assert error.value.args[0] == 101
    sock.close()


def test_texts_and_bytes():
    pack, text = socket.inet_pton, socket.inet_ntop
    assert pack(socket.AF_INET, "10.0.0.1") == b"\x0a\0\0\1"
    assert text(socket.AF_INET, b"\x0a\0\0\1") == "10.0.0.1"
    assert text(socket.AF_INET6, pack(socket.AF_INET6, "2001:DB8:0::1")) == "2001:db8::1"
    for wrong in ((socket.AF_INET, "::1"), (socket.AF_INET6, "10.0.0.1"), (10, "fe80::1%0")):
        with pytest.raises(ValueError):
            pack(*wrong)
    with pytest.raises(ValueError):
        text(socket.AF_INET6, bytes(4))
    with pytest.raises(OSError):
        pack(1, "::1")


def test_numeric_names():
    info = socket.getaddrinfo
    assert info("fe80::1%0", 80) == [(10, 1, 0, "", ("fe80::1", 80, 0, 0))]
    assert info("::1", 80, 0, socket.SOCK_DGRAM)[0][1] == socket.SOCK_DGRAM
    assert info("", 80, socket.AF_INET6)[0][4] == ("::", 80, 0, 0)
    assert [one[4][0] for one in info("localhost", 1)] == ["127.0.0.1", "::1"]
    assert [one[4][0] for one in info("localhost", 1, socket.AF_INET6)] == ["::1"]
    for name, af in (("10.1.2.3", 10), ("::1", 2), ("fe80::1%7", 0), ("1::2::3", 0)):
        with pytest.raises(OSError) as error:
            info(name, 80, af)
        assert error.value.args[0] == -2


class Server(Link):
    """A link with a DNS server on it, which answers at once.

    records: {type: [bytes]}; what it has none of does not exist.
    """

    def __init__(self, records):
        super().__init__()
        self.records = records
        self.asked = []
        self.answers = []

    def tx_commit(self, length):
        frame = memoryview(bytes(self._frame[:length]))
        ip = ipv6 if frame[12] == 0x86 else ipv4
        if frame[12:14] == b"\x08\x06":
            return
        protocol, source, destination, start, end = ip.parse(frame, 14)[:5]
        if protocol != ip.UDP or frame[start + 2 : start + 4] != b"\0\x35":
            return
        query = bytes(frame[start + 8 : end])
        kind = query[-3]
        self.asked.append(kind)
        found = self.records.get(kind, [])
        answer = query[:2] + struct.pack(">HHHHH", 0x8180, 1, len(found), 0, 0) + query[12:]
        for data in found:
            answer += b"\xc0\x0c" + struct.pack(">HHIH", kind, 1, 60, len(data)) + data
        self.answers.append((source, destination, frame[start] << 8 | frame[start + 1], answer))

    def deliver(self):
        for local, server, port, data in self.answers:
            ip = ipv6 if isinstance(local, bytes) else ipv4
            at = 14 + ip.HEADER
            frame = bytearray(at + 8 + len(data))
            frame[0:14] = self.mac + PEER_MAC + (b"\x86\xdd" if ip is ipv6 else b"\x08\0")
            frame[at + 8 :] = data
            udp.emit(frame, at, server, 53, local, port, len(data))
            ip.emit(frame, 14, ip.UDP, server, local, 8 + len(data))
            host.stack.input(memoryview(frame), host.stack.now)
        self.answers = []


def network(monkeypatch, records, four=True, six=HOST_IP6):
    link = Server(records)
    stack = host.stack
    stack.attach(link)
    server6 = ipv6.address("2001:db8::53")
    if four:
        stack.configure(HOST_IP, ipv4.mask(24), HOST_IP + 9, [] if six else [HOST_IP + 52])
        stack.neighbours.lookup(HOST_IP + 52, 0).resolve(PEER_MAC, 0)
        stack.neighbours.lookup(HOST_IP + 9, 0).resolve(PEER_MAC, 0)
    if six:
        start_ipv6(stack, six, stack.now)
        stack.six.autoconf.static_servers = [server6]
        neighbours = stack.six.neighbours
        for address in (server6, ipv6.address("fe80::fe")):
            neighbours.lookup(address, stack.now).take(PEER_MAC, 1, stack.now)
    monkeypatch.setattr(host, "wait", lambda timeout: link.deliver())
    return link


def names(*arguments):
    return [one[4][0] for one in socket.getaddrinfo(*arguments)]


A4, A6 = b"\xc6\x33\x64\1", ipv6.address("2001:db8:77::1")


def test_both_types_are_asked_and_the_best_is_first(monkeypatch):
    link = network(monkeypatch, {1: [A4], 28: [A6]})
    assert names("both.example", 80) == ["2001:db8:77::1", "198.51.100.1"]
    assert sorted(link.asked) == [1, 28]
    # Known now, each by its type.
    assert names("both.example", 80, socket.AF_INET) == ["198.51.100.1"]
    assert names("both.example", 80, socket.AF_INET6) == ["2001:db8:77::1"]
    assert len(link.asked) == 2


def test_one_type_is_enough(monkeypatch):
    network(monkeypatch, {1: [A4]})
    assert names("four.example", 80) == ["198.51.100.1"]
    with pytest.raises(OSError) as error:
        names("four.example", 80, socket.AF_INET6)
    assert error.value.args[0] == -2


def test_a_site_local_source_is_no_reason_to_prefer_ipv6(monkeypatch):
    # QEMU's user network has fec0::/64: RFC 6724 6, rules 2 and 5.
    network(monkeypatch, {1: [A4], 28: [A6]}, True, ipv6.address("fec0::15"))
    host.stack.six.autoconf.static_servers = [ipv6.address("fec0::3")]
    neighbours = host.stack.six.neighbours
    neighbours.lookup(ipv6.address("fec0::3"), 0).take(PEER_MAC, 1, 0)
    assert names("site.example", 80) == ["198.51.100.1", "2001:db8:77::1"]


def test_what_cannot_be_reached_is_not_asked_for(monkeypatch):
    link = network(monkeypatch, {1: [A4], 28: [A6]}, True, None)
    assert names("only4.example", 80) == ["198.51.100.1"] and link.asked == [1]
    host.stack.configure(0, 0, 0, [])
    link = network(monkeypatch, {1: [A4], 28: [A6]}, False)
    assert names("only6.example", 80) == ["2001:db8:77::1"] and link.asked == [28]


def test_records_of_the_other_type_are_no_answer():
    name = dns_message.encode_name("x.example")
    query = dns_message.emit_query(7, name, 28)
    head = query[:2] + struct.pack(">HHHHH", 0x8180, 1, 2, 0, 0) + query[12:]
    records = b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 60, 4) + A4
    records += b"\xc0\x0c" + struct.pack(">HHIH", 28, 1, 60, 16) + A6
    assert dns_message.parse_answer(head + records, 7, name, 28) == (0, [A6], 60)
    assert dns_message.parse_answer(head + records, 7, name) is None
