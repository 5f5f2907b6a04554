"""The DHCP client's dialogues and the DNS client's, against servers played by hand."""

import struct

import pytest
from net import arp, dhcp, dns, dns_message, ethernet, ipv4, udp
from net import dhcp_message as message
from net.stack import Stack
from scripted import HOST_MAC, PEER_IP, PEER_MAC, Link

OFFERED = ipv4.address("10.0.0.50")
SERVER = PEER_IP


class Server:
    """A DHCP server's side of the wire; the stack has no address yet."""

    def __init__(self):
        self.link = Link()
        self.random = 0
        self.stack = Stack(self.link, self._bytes)
        self.client = dhcp.Client(self.stack)
        self.now = 5000

    def _bytes(self, count):
        self.random += 1
        return bytes((self.random * 37 + i * 11) & 0xFF for i in range(count))

    def requests(self, forward=0):
        """Return (time, destination, kind, fields) of what is sent within `forward` ms."""
        end = self.now + forward
        found = []
        while True:
            deadline = self.stack.poll(self.now)
            while self.link.frames:
                frame = self.link.frames.pop(0)
                if frame[12:14] == b"\x08\0":
                    found.append(self.parse(frame))
                elif frame[38:42] == struct.pack(">I", SERVER):
                    self.arp()
            if deadline is None or deadline > end:
                break
            self.now = max(self.now, deadline)
        self.now = end
        return found

    def arp(self):
        frame = bytearray(42)
        ethernet.emit(frame, HOST_MAC, PEER_MAC, ethernet.TYPE_ARP)
        arp.emit(frame, 14, arp.REPLY, PEER_MAC, SERVER, HOST_MAC, self.stack.address)
        self.stack.input(memoryview(frame), self.now)

    def parse(self, frame):
        _, source, destination, start, end = ipv4.parse(frame, 14)
        source_port, port, at, end = udp.parse(frame, start, end, source, destination)
        assert (source_port, port) == (68, 67)
        data = bytearray(frame[at:end])
        fields = {
            "source": source,
            "xid": struct.unpack_from(">I", data, 4)[0],
            "seconds": struct.unpack_from(">H", data, 8)[0],
            "ciaddr": struct.unpack_from(">I", data, 12)[0],
        }
        data[0] = 2  # what the parser of answers wants
        kind, _, _, mac, options = message.parse(bytes(data))
        assert mac == HOST_MAC
        fields["options"] = options
        return self.now, destination, kind, fields

    def answer(self, kind, xid, address=OFFERED, destination=None, lease=3600, **more):
        options = [
            (message.SERVER_ID, struct.pack(">I", SERVER)),
            (message.SUBNET_MASK, b"\xff\xff\xff\0"),
            (message.ROUTER, struct.pack(">I", SERVER)),
            (message.DNS_SERVER, struct.pack(">II", SERVER, SERVER + 1)),
            (message.LEASE_TIME, struct.pack(">I", lease)),
        ]
        options = [(k, more.get("replace", {}).get(k, v)) for k, v in options]
        options += more.get("add", [])
        data = bytearray(message.emit(kind, xid, 0, 0, more.get("mac", HOST_MAC), options))
        data[0] = 2
        struct.pack_into(">I", data, 16, address)
        frame = bytearray(42 + len(data))
        frame[42:] = data
        ethernet.emit(frame, HOST_MAC, PEER_MAC, ethernet.TYPE_IPV4)
        target = address if destination is None else destination
        total = udp.emit(frame, 34, SERVER, more.get("port", 67), target, 68, len(data))
        ipv4.emit(frame, 14, ipv4.UDP, SERVER, target, total)
        self.stack.input(memoryview(frame), self.now)

    def bind(self, **options):
        """Run the whole dialogue; returns the time of the request that got the lease."""
        self.client.start(self.now)
        ((_, destination, kind, fields),) = self.requests()
        assert (kind, destination, fields["source"]) == (message.DISCOVER, ipv4.BROADCAST, 0)
        assert fields["options"][message.HOST_NAME] == b"cllm"
        started = self.now
        self.answer(message.OFFER, fields["xid"])
        ((_, destination, kind, fields),) = self.requests()
        assert (kind, destination, fields["source"]) == (message.REQUEST, ipv4.BROADCAST, 0)
        assert message.numbers(fields["options"], message.REQUESTED_ADDRESS) == [OFFERED]
        assert message.numbers(fields["options"], message.SERVER_ID) == [SERVER]
        assert fields["ciaddr"] == 0
        self.answer(message.ACK, fields["xid"], **options)
        return started


@pytest.fixture
def server():
    return Server()


def test_dialogue(server):
    server.bind()
    stack = server.stack
    assert server.client.state == dhcp.BOUND
    assert stack.address == OFFERED and stack.netmask == 0xFFFFFF00
    assert stack.gateway == SERVER and stack.dns_servers == [SERVER, SERVER + 1]
    # The address is announced (RFC 5227 2.3), and nothing is said until half of the lease.
    assert any(frame[12:14] == b"\x08\x06" for frame in server.link.frames)
    assert server.requests(1799999) == []


@pytest.mark.parametrize(
    "given, name",
    [
        (b"box", "box"),
        (b"Box-7.example.net", "Box-7"),
        (b"box\0", "box"),
        (b"", None),
        (b".example", None),
        (b"-box", None),
        (b"box-", None),
        (b"a b", None),
        (b"b\xc3\xb6x", None),
        (b"x" * 33, None),
    ],
)
def test_a_lease_brings_a_host_name(server, given, name):
    names = []
    server.client = dhcp.Client(server.stack, on_name=lambda name, now: names.append(name))
    server.bind(add=[(message.HOST_NAME, given)] if given else [])
    assert server.client.state == dhcp.BOUND and names == ([name] if name else [])


def test_discover_backs_off(server):
    server.client.start(server.now)
    times = [time for time, _, _, _ in server.requests(300000)]
    gaps = [later - earlier for earlier, later in zip(times, times[1:])]
    for gap, expected in zip(gaps, (4000, 8000, 16000, 32000, 64000, 64000)):
        assert abs(gap - expected) <= 1000


def test_silent_server_after_the_offer(server):
    server.client.start(server.now)
    ((_, _, _, fields),) = server.requests()
    server.answer(message.OFFER, fields["xid"])
    kinds = [kind for _, _, kind, _ in server.requests(100000)]
    assert kinds[:4] == [message.REQUEST] * 4 and message.DISCOVER in kinds


def test_answers_for_others_are_not_taken(server):
    server.client.start(server.now)
    ((_, _, _, fields),) = server.requests()
    server.answer(message.OFFER, fields["xid"] ^ 1)
    server.answer(message.OFFER, fields["xid"], mac=b"\2\0\0\0\0\x55")
    server.answer(message.OFFER, fields["xid"], port=1067)
    server.answer(message.ACK, fields["xid"])
    assert server.client.state == dhcp.SELECTING


def test_nak_starts_over(server):
    server.client.start(server.now)
    ((_, _, _, fields),) = server.requests()
    server.answer(message.OFFER, fields["xid"])
    ((_, _, _, fields),) = server.requests()
    server.answer(message.NAK, fields["xid"], address=0, destination=ipv4.BROADCAST)
    assert server.client.state == dhcp.SELECTING and server.stack.address == 0


def test_renewal(server):
    started = server.bind()
    ((time, destination, kind, fields),) = server.requests(1800000)
    assert time - started == 1800000
    # RFC 2131, table 4: unicast, with the address in ciaddr and no options that name it.
    assert (kind, destination) == (message.REQUEST, SERVER)
    assert fields["source"] == fields["ciaddr"] == OFFERED
    assert message.REQUESTED_ADDRESS not in fields["options"]
    assert message.SERVER_ID not in fields["options"]
    assert server.client.state == dhcp.RENEWING
    server.answer(message.ACK, fields["xid"])
    assert server.client.state == dhcp.BOUND
    assert server.requests(1799999) == []
    assert len(server.requests(1)) == 1


def test_renewal_keeps_the_address_in_use(server):
    server.bind()
    configured = []
    configure = server.stack.configure
    server.stack.configure = lambda *args: configured.append(args) or configure(*args)
    listener = server.stack.tcp.listen(0, 80, 5)
    asked = (1460, None, False, None)
    server.stack.tcp._open_passively(listener, (OFFERED, 80, SERVER, 4000), 1, 100, asked)
    connection = server.stack.tcp.connections()[0]
    connection.state = 3  # ESTABLISHED: silent, so that only DHCP speaks
    connection.snd_nxt = connection.snd_max = connection.snd_una = connection.snd_end
    ((_, _, _, fields),) = server.requests(1800000)
    server.answer(message.ACK, fields["xid"])
    assert [args[0] for args in configured] == [OFFERED]
    assert server.stack.tcp.connections() == [connection]


def test_rebinding_and_expiry(server):
    started = server.bind()
    messages = server.requests(3600000)
    renewals = [t - started for t, d, _, _ in messages if d == SERVER]
    rebindings = [t - started for t, d, k, _ in messages if d != SERVER and k == message.REQUEST]
    assert renewals[0] == 1800000 and rebindings[0] == 3150000
    # RFC 2131 4.4.5: half of the time left each, at least a minute.
    assert renewals[1] - renewals[0] == 675000
    assert min(b - a for a, b in zip(rebindings, rebindings[1:])) >= 60000
    assert messages[-1][2] == message.DISCOVER and messages[-1][0] - started == 3600000
    assert server.stack.address == 0 and server.client.state == dhcp.SELECTING


def test_rebinding_with_another_server(server):
    server.bind()
    messages = server.requests(3150000)
    _, destination, kind, fields = messages[-1]
    assert (kind, destination) == (message.REQUEST, ipv4.BROADCAST)
    assert fields["ciaddr"] == OFFERED
    server.answer(message.ACK, fields["xid"])
    assert server.client.state == dhcp.BOUND and server.stack.address == OFFERED


def test_nak_while_renewing_drops_the_address(server):
    server.bind()
    ((_, _, _, fields),) = server.requests(1800000)
    server.answer(message.NAK, fields["xid"], address=0, destination=OFFERED)
    assert server.stack.address == 0 and server.client.state == dhcp.SELECTING


def test_lease_without_end(server):
    server.bind(lease=0xFFFFFFFF)
    assert server.requests(10**9) == []


def test_senseless_times_are_replaced(server):
    server.bind(lease=10)
    assert server.client._renew_at - server.client._started == 5000
    server.requests(20000)


def test_stop(server):
    server.bind()
    server.client.stop()
    assert server.requests(10**8) == [] and server.stack.address == OFFERED
    server.stack.open_udp(68)


# -- DNS --------------------------------------------------------------------------------------


class NameServer(Server):
    def __init__(self):
        super().__init__()
        self.stack.configure(OFFERED, 0xFFFFFF00, SERVER, [SERVER, SERVER + 1])
        self.arp()
        self.resolver = dns.Resolver(self.stack)

    def questions(self, forward=0):
        """Return (server, port, identifier, query) of what is asked within `forward` ms."""
        end = self.now + forward
        found = []
        while True:
            deadline = self.stack.poll(self.now)
            for frame in self.link.frames:
                if frame[12:14] != b"\x08\0":
                    continue
                _, source, destination, start, stop = ipv4.parse(frame, 14)
                port, to, at, stop = udp.parse(frame, start, stop, source, destination)
                assert to == 53
                data = frame[at:stop]
                found.append((destination, port, struct.unpack_from(">H", data, 0)[0], data))
            self.link.frames.clear()
            if deadline is None or deadline > end:
                break
            self.now = max(self.now, deadline)
        self.now = end
        return found

    def reply(self, port, data, source=SERVER, source_port=53):
        frame = bytearray(42 + len(data))
        frame[42:] = data
        ethernet.emit(frame, HOST_MAC, PEER_MAC, ethernet.TYPE_IPV4)
        total = udp.emit(frame, 34, source, source_port, OFFERED, port, len(data))
        ipv4.emit(frame, 14, ipv4.UDP, source, OFFERED, total)
        self.stack.input(memoryview(frame), self.now)


def answer_to(query, addresses, code=0, ttl=60):
    header = query[:2] + struct.pack(">HHHHH", 0x8180 | code, 1, len(addresses), 0, 0)
    records = b"".join(
        b"\xc0\x0c" + struct.pack(">HHIHI", 1, 1, ttl, 4, address) for address in addresses
    )
    return header + query[12:] + records


def test_dns_lookup_and_cache():
    server = NameServer()
    query = server.resolver.resolve("Example.com", server.now)
    ((_, port, _, data),) = server.questions()
    assert not query.done and port >= 49152
    server.reply(port, answer_to(data, [0x01020304, 0x01020305]))
    assert query.done and query.addresses == [0x01020304, 0x01020305] and query.error == 0
    again = server.resolver.resolve("example.COM", server.now + 59000)
    assert again.done and again.addresses == query.addresses and server.questions() == []
    assert not server.resolver.resolve("example.com", server.now + 61000).done


def test_dns_believes_only_the_server_asked():
    server = NameServer()
    query = server.resolver.resolve("example.com", server.now)
    ((_, port, _, data),) = server.questions()
    good = answer_to(data, [7])
    server.reply(port, good, source=SERVER + 5)
    server.reply(port, good, source_port=54)
    server.reply(port, bytes((good[0] ^ 1,)) + good[1:])
    server.reply(port, good[:20])
    assert not query.done
    server.reply(port, good)
    assert query.done


def test_dns_retries_with_other_numbers_and_gives_up():
    server = NameServer()
    query = server.resolver.resolve("example.com", server.now)
    server.stack.neighbours.lookup(SERVER + 1, server.now).resolve(PEER_MAC, server.now)
    questions = server.questions(20000)
    assert [q[0] for q in questions] == [SERVER, SERVER + 1, SERVER, SERVER + 1]
    assert len({q[2] for q in questions}) == 4 and len({q[1] for q in questions}) > 1
    assert query.done and query.error == dns.ETIMEDOUT
    assert not server.stack._udp


def test_dns_unknown_name_and_failing_server():
    server = NameServer()
    query = server.resolver.resolve("nowhere.example", server.now)
    ((_, port, _, data),) = server.questions()
    server.reply(port, answer_to(data, [], code=dns_message.NAME_ERROR))
    assert query.done and query.error == dns.ENOENT
    query = server.resolver.resolve("example.com", server.now)
    ((_, port, _, data),) = server.questions()
    server.reply(port, answer_to(data, [], code=2))
    assert not query.done  # the next server is asked


def test_dns_without_a_server():
    server = NameServer()
    server.stack.dns_servers = []
    query = server.resolver.resolve("example.com", server.now)
    assert query.done and query.error == dns.EIO
    with pytest.raises(ValueError):
        server.resolver.resolve("bad..name", server.now)
