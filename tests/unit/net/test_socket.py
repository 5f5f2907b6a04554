"""The socket module over the loopback of the one Stack, as a program uses it."""

import struct
import time

import _x86
import pytest
from api_modules import load
from net import errors, host, ipv4
from scripted import speaks_ipv6

BOTH_FAMILIES = True

POLL, CLOSE = 3, 4
RD, WR, ERR, HUP, NVAL, RDHUP = 1, 4, 8, 16, 32, 0x2000
EAGAIN, EINPROGRESS, ETIMEDOUT = 11, 115, 110


socket = load("socket")


def new(kind=socket.SOCK_STREAM):
    return socket.socket(socket.AF_INET6 if speaks_ipv6() else socket.AF_INET, kind)


def at(port):
    """Return the address of a port of this host."""
    return ("::1", port, 0, 0) if speaks_ipv6() else ("127.0.0.1", port)


@pytest.fixture(autouse=True)
def nothing_left():
    yield
    for connection in host.stack.tcp.connections():
        connection.end(0)
    stack = host.stack
    left = [dict(stack.tcp.listeners), dict(stack._udp), set(stack.tcp.bound)]
    for table in (stack.tcp.listeners, stack._udp, stack.tcp.bound):
        table.clear()
    assert not any(left) and not host._entered


def listen(port=0):
    server = new()
    server.bind(at(port))
    server.listen(5)
    return server


def pair():
    server = listen()
    client = new()
    client.connect(at(server._port))
    accepted, address = server.accept()
    assert address == at(client._connection.port)
    server.close()
    return client, accepted


@pytest.fixture
def joined():
    client, server = pair()
    yield client, server
    client.close()
    server.close()


def poll(sock, events=RD | WR):
    # What asyncio asks is shorter, and is to say the same.
    assert bool(sock.events(RD)) == bool(sock.ioctl(POLL, RD))
    return sock.ioctl(POLL, events)


def errno_of(call, *args):
    with pytest.raises(OSError) as error:
        call(*args)
    return error.value.args[0]


def test_send_and_receive(joined):
    client, server = joined
    assert client.send(b"hello") == 5
    assert server.recv(3) == b"hel"
    buf = bytearray(10)
    assert server.recv_into(buf) == 2 and buf[:2] == b"lo"
    client.sendall(b"x" * 100)
    assert server.readinto(buf, 4) == 4
    assert server.recvfrom(200) == (b"x" * 96, at(client._connection.port))


def test_without_waiting(joined):
    client, server = joined
    client.setblocking(False)
    server.settimeout(0)
    assert errno_of(server.recv, 10) == EAGAIN
    assert server.read(10) is None and server.readline() is None and server.read() is None
    assert server.readinto(bytearray(4)) is None
    sent = 0
    while True:
        count = client.write(bytes(50000))
        if count is None:
            break
        sent += count
    assert 65536 <= sent <= 65536 + 131072
    assert errno_of(client.send, b"x") == EAGAIN
    assert poll(client) == 0 and poll(server) == RD | WR
    assert len(server.read(1 << 20)) > 60000


def test_read_waits_for_all_and_stops_at_the_end(joined):
    client, server = joined
    client.sendall(b"first,")
    client.sendall(b"second")
    assert server.read(8) == b"first,se"
    client.close()
    assert server.read(100) == b"cond"
    assert server.read(100) == b"" and server.recv(1) == b"" and server.readline() == b""


def test_read_all(joined):
    client, server = joined
    client.sendall(b"everything")
    client.shutdown(socket.SHUT_WR)
    assert server.read() == b"everything"
    # The other direction still works.
    server.sendall(b"answer")
    assert client.recv(10) == b"answer"


def test_readline(joined):
    client, server = joined
    client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\nbody")
    assert server.readline() == b"GET / HTTP/1.1\r\n"
    assert server.readline(4) == b"Host" and server.readline() == b": x\r\n"
    assert server.readline() == b"\r\n"
    server.setblocking(False)
    # What there is of a line, as MicroPython's unbuffered readline() does.
    assert server.readline() == b"body"
    assert server.readline() is None
    client.close()
    assert server.readline() == b""


def test_timeout(joined):
    _, server = joined
    server.settimeout(0.02)
    assert errno_of(server.recv, 10) == ETIMEDOUT
    listener = listen()
    listener.settimeout(0.02)
    assert errno_of(listener.accept) == ETIMEDOUT
    listener.setblocking(False)
    assert errno_of(listener.accept) == EAGAIN
    listener.close()
    with pytest.raises(ValueError):
        server.settimeout(-1)


def test_connect_without_waiting():
    client = new()
    assert poll(client) == WR | HUP
    # Nothing listens on that port: the reset comes back by the loopback.
    client.setblocking(False)
    assert errno_of(client.connect, at(1)) == EINPROGRESS
    assert poll(client) & ERR
    assert errno_of(client.recv, 1) == errors.ECONNREFUSED
    client.close()
    server = listen()
    client = new()
    client.setblocking(False)
    assert errno_of(client.connect, at(server._port)) == EINPROGRESS
    assert poll(client) == WR and poll(server) == RD
    server.close()
    client.close()


def test_connect_is_refused_and_unreachable():
    client = new()
    assert errno_of(client.connect, at(1)) == errors.ECONNREFUSED
    client.close()
    client = new()
    stranger = "2001:db8::1" if speaks_ipv6() else "192.0.2.1"
    assert errno_of(client.connect, (stranger, 80)) == 101
    client.close()


def test_reset_is_seen_once_after_the_data(joined):
    client, server = joined
    server.setblocking(False)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.send(b"last words")
    client.close()
    # As multi_net/tcp_client_rst.py expects of Linux.
    assert poll(server, RD) == RD | ERR | HUP
    assert server.recv(10) == b"last words"
    assert errno_of(server.recv, 10) == errors.ECONNRESET
    assert poll(server, RD) == RD | HUP
    assert server.recv(10) == b""
    assert errno_of(server.write, b"x") == errors.EPIPE


def test_write_after_shutdown(joined):
    client, server = joined
    client.shutdown(socket.SHUT_WR)
    assert errno_of(client.send, b"x") == errors.EPIPE
    assert poll(server) == RD | WR


def test_poll_tells_that_the_peer_is_done_before_its_data_is_read(joined):
    client, server = joined
    client.send(b"x")
    assert poll(server, RDHUP) == 0
    client.shutdown(socket.SHUT_WR)
    assert poll(server, RDHUP) == RDHUP and poll(server) == RD | WR
    assert poll(client, RDHUP) == 0
    server.close()
    assert poll(client, RDHUP) == RDHUP


def test_a_watcher_hears_of_frames_and_may_look_at_sockets(joined):
    client, server = joined
    heard = []
    host.watch(lambda: heard.append(poll(server, RDHUP)))
    try:
        client.shutdown(socket.SHUT_WR)
        host.pump()
        assert heard[-1] == RDHUP
        host.enter()
        heard.clear()
        host.pump()  # a callback in the middle of a call
        assert not heard
        host.leave()
        assert heard
    finally:
        host.watch(None)


def test_poll_of_each_state(joined):
    client, server = joined
    assert poll(server) == WR and poll(server, RD) == 0
    client.send(b"x")
    assert poll(server, RD) == RD and poll(server, WR) == WR
    server.close()
    assert poll(server) == NVAL
    assert server.ioctl(99, 0) == -22
    listener = listen()
    assert poll(listener) == 0
    assert listener.ioctl(CLOSE, 0) == 0
    assert errno_of(listener.accept) == 9


def test_ports_are_reserved_and_given_back():
    if speaks_ipv6():
        pytest.skip("names addresses of IPv4")
    one = listen()
    other = new()
    assert errno_of(other.bind, ("0.0.0.0", one._port)) == 98
    port = one._port
    one.close()
    other.bind(("0.0.0.0", port))
    other.close()
    other.close()
    assert errno_of(new().bind, ("198.51.100.1", 80)) == 99


def test_wrong_uses():
    sock = new()
    assert errno_of(sock.recv, 1) == 107
    assert errno_of(sock.send, b"x") == 107
    assert errno_of(sock.accept) == 22
    assert errno_of(socket.socket, 11) == 97
    assert errno_of(socket.socket, 2, 3) == 22
    assert errno_of(sock.setsockopt, 1, 99, 1) == 92
    with pytest.raises(ValueError):
        sock.bind(("not an address", 1))
    with pytest.raises(ValueError):
        sock.bind(at(65536))
    sock.close()
    assert errno_of(sock.bind, ("", 0)) == 9
    udp = new(socket.SOCK_DGRAM)
    assert errno_of(udp.listen) == 95
    assert errno_of(udp.send, b"x") == 107
    server = listen()
    assert errno_of(server.listen) == 22
    server.close()


def test_options(joined):
    client, _ = joined
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    assert client._connection.nodelay
    client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    assert client._connection.keepalive is not None
    client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    early = new()
    early.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    server = listen()
    early.connect(at(server._port))
    assert early._connection.nodelay
    early.close()
    server.close()


def test_udp():
    one = new(socket.SOCK_DGRAM)
    other = new(socket.SOCK_DGRAM)
    one.bind(at(5000))
    assert poll(one) == WR
    other.sendto(b"hello", at(5000))
    assert poll(one) == RD | WR
    data, address = one.recvfrom(3)
    assert data == b"hel"
    one.sendto(b"back", address)
    assert other.read(10) == b"back"
    one.connect(address)
    one.send(b"again")
    assert other.recv(10) == b"again"
    one.settimeout(0.01)
    assert errno_of(one.recv, 1) == ETIMEDOUT
    one.setblocking(False)
    assert one.read(1) is None
    one.close()
    other.close()


def test_large_transfer_between_two_sockets(joined):
    client, server = joined
    client.setblocking(False)
    data = bytes(range(256)) * 2000
    view, got = memoryview(data), b""
    while len(got) < len(data):
        if view:
            view = view[client.write(view) or 0 :]
        got += server.recv(10000)
    assert got == data


def test_getaddrinfo():
    assert socket.getaddrinfo("10.1.2.3", 80) == [(2, 1, 0, "", ("10.1.2.3", 80))]
    assert socket.getaddrinfo("", 80, 0, socket.SOCK_DGRAM)[0][1] == socket.SOCK_DGRAM
    assert socket.getaddrinfo("localhost", 1)[0][4] == ("127.0.0.1", 1)
    assert errno_of(socket.getaddrinfo, "example.com", 80) == 5
    with pytest.raises(ValueError):
        socket.getaddrinfo("10.1.2.3", 70000)


def test_a_call_inside_a_call_is_refused():
    host.enter()
    try:
        assert errno_of(new().bind, ("", 0)) == 16
    finally:
        host.leave()


def test_interrupt_during_a_call_is_served_by_the_call(monkeypatch):
    pumped = []
    monkeypatch.setattr(host.stack, "poll", lambda now: pumped.append(now))
    host.enter()
    host.pump()
    assert pumped == []
    host.leave()
    assert len(pumped) == 1


def test_alarm_runs_the_timers(joined, monkeypatch):
    client, server = joined
    client.send(b"x")
    # The delayed acknowledgement is due in 40 ms.
    assert host._armed is not None
    connection = client._connection
    assert connection.snd_una < connection.snd_max
    while connection.snd_una < connection.snd_max:
        _x86.wait(100)
    assert server.recv(1) == b"x"


def test_negative_sizes_are_refused(joined):
    # As CPython, and nothing is given twice or lost.
    client, server = joined
    client.sendall(b"hello world")
    assert server.recv(5) == b"hello"
    for timeout in (None, 0, 0.01):
        server.settimeout(timeout)
        for size in (-1, -3, -1000, -(1 << 40)):
            for call in (server.recv, server.recvfrom):
                with pytest.raises(ValueError):
                    call(size)
            for call in (server.recv_into, server.readinto):
                with pytest.raises(ValueError):
                    call(bytearray(4), size)
            if size != -1:
                with pytest.raises(ValueError):
                    server.read(size)
            connection = server._connection
            with pytest.raises(ValueError):
                connection.receive_bytes(size)
            with pytest.raises(ValueError):
                connection.receive(bytearray(4), 0, size)
    assert server.recv(100) == b" world"
    # Where there is nothing, nobody waits for less than it.
    server.settimeout(None)
    with pytest.raises(ValueError):
        server.recv(-1)
    client.sendall(b"line\nrest")
    assert server.readline(-5) == b"line\n"
    client.shutdown(socket.SHUT_WR)
    assert server.read(-1) == b"rest"


def test_negative_sizes_of_datagrams_are_refused():
    receiver = new(socket.SOCK_DGRAM)
    receiver.bind(at(7007))
    sender = new(socket.SOCK_DGRAM)
    sender.sendto(b"datagram", at(7007))
    for call in (receiver.recv, receiver.recvfrom):
        with pytest.raises(ValueError):
            call(-1)
    with pytest.raises(ValueError):
        receiver.readinto(bytearray(9), -4)
    with pytest.raises(ValueError):
        receiver.read(-2)
    assert receiver.recv(100) == b"datagram"
    sender.close()
    receiver.close()


@pytest.fixture
def outside():
    """The one stack with an address, and what it sends outside."""
    from scripted import Link

    link = Link()
    stack = host.stack
    stack.attach(link)
    stack.configure(ipv4.address("10.0.0.1"), ipv4.mask(24), 0, [])
    stack.neighbours.lookup(ipv4.address("10.0.0.2"), 0).resolve(b"\2\0\0\0\0\2", 0)
    link.frames.clear()
    yield link
    stack.attach(None)


def arrives(port, data, destination):
    from net import ethernet, udp

    frame = bytearray(42 + len(data))
    frame[42:] = data
    source, destination = ipv4.address("10.0.0.2"), ipv4.address(destination)
    ethernet.emit(frame, b"\2\0\0\0\0\1", b"\2\0\0\0\0\2", 0x0800)
    total = udp.emit(frame, 34, source, 999, destination, port, len(data))
    ipv4.emit(frame, 14, ipv4.UDP, source, destination, total)
    host.stack.input(memoryview(frame), host.stack.now)


def test_datagrams_of_an_address(outside):
    for bound, expected in (
        ("127.0.0.1", []),
        ("10.0.0.1", [b"own"]),
        ("", [b"own", b"all"]),
        ("0.0.0.0", [b"own", b"all"]),
    ):
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        s.bind((bound, 7777))
        s.settimeout(0)
        arrives(7777, b"own", "10.0.0.1")
        arrives(7777, b"all", "10.0.0.255")
        got = []
        while len(got) < 2:
            try:
                got.append(s.recv(100))
            except OSError as error:
                assert error.args[0] == EAGAIN
                break
        assert got == expected
        s.close()


def test_what_is_bound_to_the_inside_sends_nothing_outside(outside):
    if speaks_ipv6():
        pytest.skip("names addresses of IPv4")
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.bind(("127.0.0.1", 0))
    assert errno_of(s.sendto, b"x", ("10.0.0.2", 9)) == 22
    s.close()
    s = socket.socket()
    s.bind(("127.0.0.1", 5000))
    assert errno_of(s.connect, ("10.0.0.2", 9)) == 22
    s.close()
    assert outside.frames == []
    # Of the address itself it goes, as from no address.
    for bound in ("10.0.0.1", ""):
        s = socket.socket()
        s.bind((bound, 5000))
        s.setblocking(False)
        assert errno_of(s.connect, ("10.0.0.2", 9)) == EINPROGRESS
        assert outside.frames[-1][26:30] == b"\x0a\0\0\1"
        s.close()
    # Inside, the other end sees who it is.
    server = listen()
    s = socket.socket()
    s.bind(("10.0.0.1", 5001))
    s.connect(("127.0.0.1", server._port))
    accepted, address = server.accept()
    assert address == ("10.0.0.1", 5001)
    for one in (accepted, s, server):
        one.close()


class NetworkCard:
    """A network card whose cause of interrupts and link the test sets."""

    mac = b"\2\0\0\0\0\1"
    mtu = 1500
    irq = 11
    up = True
    stopped = False
    causes = None

    def __init__(self, bdf):
        self.sent = []

    def tx_alloc(self):
        self._frame = bytearray(1514)
        return self._frame

    def tx_commit(self, length):
        self.sent.append(bytes(self._frame[:length]))

    def receive(self, handler, segment_handler, now):
        return False

    def interrupt(self):
        return self.causes

    def link_up(self):
        return self.up

    def stop(self):
        self.stopped = True


def test_network_module(monkeypatch):
    if speaks_ipv6():
        pytest.skip("names addresses of IPv4")
    network = load("network")
    lan = network.LAN(0)
    monkeypatch.setattr(network.drivers, "find_cards", lambda wanted: [])
    assert errno_of(lan.active, True) == 19
    monkeypatch.setattr(network.drivers, "find_cards", lambda wanted: [("e1000", 24)])
    monkeypatch.setattr(network.drivers, "open_card", lambda name, bdf: NetworkCard(bdf))
    assert not lan.active() and lan.status() == 0 and not lan.isconnected()
    # A name that a lease brings is taken until somebody here chooses one.
    network._use_name("leased", 0)
    assert network.hostname() == "leased"
    network.hostname("guest")
    network._use_name("leased", 0)
    assert network.hostname() == "guest"
    lan.active(True)
    assert lan.active() and lan.status() == 2 and lan.config("mac") == NetworkCard.mac
    assert lan.ipconfig("dhcp4") and not lan.ipconfig("has_dhcp4")
    card = network._card
    assert b"guest" in card.sent[0]
    # Another cause, the link down, up, and down and up again before anybody looked.
    looked = []
    monkeypatch.setattr(network._dhcp, "link_up", looked.append)
    for causes, up in ((0x80, True), (4, False), (4, True), (0x84, True)):
        card.causes, card.up = causes, up
        _x86.raise_irq(11)
    assert len(looked) == 2
    card.causes = None
    lan.ipconfig(addr4="10.0.0.5/24", gw4="10.0.0.1")
    assert lan.ipconfig("addr4") == ("10.0.0.5", "255.255.255.0")
    assert lan.ipconfig("gw4") == "10.0.0.1" and not lan.ipconfig("dhcp4")
    network.ipconfig(dns="10.0.0.2")
    assert lan.ifconfig() == ("10.0.0.5", "255.255.255.0", "10.0.0.1", "10.0.0.2")
    assert lan.isconnected()
    _x86.raise_irq(11)
    # An address set by hand is announced where the cable leads to now.
    host.stack.neighbours.lookup(ipv4.address("10.0.0.7"), 0)
    card.causes = 4
    card.sent.clear()
    _x86.raise_irq(11)
    card.causes = None
    (frame,) = card.sent
    assert frame[12:14] == b"\x08\x06" and frame[28:32] == frame[38:42] == b"\x0a\0\0\5"
    assert not host.stack.neighbours._entries
    for wrong in ("10.0.0.5", "10.0.0.5/33", "10.0.0/24", ("10.0.0.5", "255.0.255.0")):
        with pytest.raises(ValueError):
            lan.ipconfig(addr4=wrong)
    lan.ifconfig(("10.0.0.6", "255.255.255.0", "10.0.0.1", "10.0.0.3"))
    assert host.stack.address == ipv4.address("10.0.0.6")
    lan.active(False)
    assert card.stopped and host.stack.address == 0 and lan.status() == 0
    # What was set by hand holds when the interface starts again.
    lan.active(True)
    assert lan.ifconfig()[0] == "10.0.0.6"
    lan.ifconfig("dhcp")
    assert lan.ipconfig("dhcp4")
    # A pause of the machine: the lease ran on. It is asked for again at once, and used no longer
    # than it lasts.
    for left, kept in ((900000, True), (-1, False)):
        client = network._dhcp
        now = time.ticks_ms()
        client.state = network.BOUND
        client._started = now - 60000
        client._renew_at, client._rebind_at, client._expires = [now + 3600000 + left] * 3
        host.stack.configure(ipv4.address("10.0.0.9"), ipv4.mask(24), 0, [])
        network._card.sent.clear()
        network.paused(3600000)
        _x86.wait(1000)
        assert (host.stack.address != 0) == kept
        # A REQUEST in INIT-REBOOT, or DISCOVER.
        kinds = [frame[284] for frame in network._card.sent if frame[36:38] == b"\0\x43"]
        assert kinds == [3 if kept else 1]
    lan.active(False)
    network.paused(1000)
    with pytest.raises(ValueError):
        network.LAN(1)
    with pytest.raises(ValueError):
        network.hostname("x" * 33)
    network.hostname("cllm")
