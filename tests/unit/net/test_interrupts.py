"""Calls of the socket module that wait, with an interrupt before each bytecode in turn."""

import _x86
import pytest
from interrupts import World, socket
from net import host
from net.tcp import wire as tcp

ACK, FIN, RST, PSH, SYN = tcp.ACK, tcp.FIN, tcp.RST, tcp.PSH, tcp.SYN


@pytest.fixture
def worlds(monkeypatch):
    """A function that makes a World, after an end to the one before."""
    made = []

    def make():
        while made:
            made.pop().end()
        made.append(World())
        monkeypatch.setattr(_x86, "wait", made[0].wait)
        return made[0]

    yield make
    while made:
        made.pop().end()


# Each is a function of a World that returns what to call, with what is to happen in `events`.


def waiting(world):
    s = world.connection()
    s.setblocking(True)
    return s


def pieces(world, *texts, flags=ACK | PSH):
    peer, at = world.peer, 0
    for text in texts:
        world.events.append(lambda text=text, at=at: peer.send(flags, text, seq=peer.seq + at))
        at += len(text)
    return at


def recv(world):
    s = waiting(world)
    pieces(world, b"text")

    def call():
        assert s.recv(100) == b"text"

    return call


def read_of_a_size(world):
    s = waiting(world)
    pieces(world, b"abc", b"defg", b"hij")

    def call():
        assert s.read(9) == b"abcdefghi" and s.read(1) == b"j"

    return call


def read_to_the_end(world):
    s, peer = waiting(world), world.peer
    at = pieces(world, b"abc", b"def")
    world.events.append(lambda: peer.send(ACK | FIN, seq=peer.seq + at))

    def call():
        assert s.read() == b"abcdef" and s.read() == b""

    return call


def readline(world):
    s = waiting(world)
    pieces(world, b"one\ntw", b"o\nthree\n", b"four")

    def call():
        lines = [s.readline(), s.readline(), s.readline(), s.readline(2)]
        assert lines == [b"one\n", b"two\n", b"three\n", b"fo"]

    return call


def readinto(world):
    s = waiting(world)
    pieces(world, b"abc", b"def")

    def call():
        buf, got = bytearray(6), 0
        while got < 6:
            got += s.readinto(memoryview(buf)[got:])
        assert buf == b"abcdef"

    return call


def reset_while_reading(world):
    s, peer = waiting(world), world.peer
    at = pieces(world, b"abc")
    world.events.append(lambda: peer.send(RST, seq=peer.seq + at))

    def call():
        got = b""
        with pytest.raises(OSError) as error:
            while True:
                got += s.recv(100)
        assert got == b"abc" and error.value.args[0] == 104
        assert s.recv(100) == b""

    return call


def send_where_room_comes(world):
    s, peer = waiting(world), world.peer
    s.setblocking(False)
    while s.write(bytes(8192)):
        pass
    s.setblocking(True)
    peer.frames()
    connection = s._connection

    def acknowledge():
        # All that was sent so far, which lets more out.
        peer.send(ACK, ack=connection.snd_max & 0xFFFFFFFF)
        peer.frames()

    world.events += [acknowledge] * 40

    def call():
        assert s.write(bytes(20000)) == 20000

    return call


def accept(world):
    listener = world.handshake()
    listener.setblocking(True)
    world.events.append(lambda: world.peer.send(ACK))

    def call():
        world.sockets.append(listener.accept()[0])

    return call


def connect(world):
    s, peer = world.socket(), world.peer
    s.setblocking(True)

    def answer():
        segments = peer.segments()
        if not segments:
            # The SYN is not out yet.
            world.events.append(answer)
            return
        segment = segments[0]
        peer.port, peer.peer_port = segment.port, 80
        peer.ack = (segment.seq + 1) & 0xFFFFFFFF
        peer.send(SYN | ACK, options=tcp.emit_syn_options(1460, None))

    world.events.append(answer)

    def call():
        s.connect(("10.0.0.2", 80))
        assert s.write(b"request") == 7

    return call


def datagrams(world):
    s = world.socket(socket.SOCK_DGRAM)
    s.setblocking(True)
    s.bind(("", 5000))
    for text in (b"one", b"two"):
        world.events.append(lambda text=text: world.peer.datagram(6000, 5000, text))

    def call():
        assert [s.recvfrom(100)[0], s.recv(100)] == [b"one", b"two"]

    return call


def close_while_data_comes(world):
    s = world.connection()
    pieces(world, b"abc", b"def")

    def call():
        s.close()
        with pytest.raises(OSError):
            s.recv(1)

    return call


CALLS = [
    recv,
    read_of_a_size,
    read_to_the_end,
    readline,
    readinto,
    reset_while_reading,
    send_where_room_comes,
    accept,
    connect,
    datagrams,
    close_while_data_comes,
]


@pytest.mark.parametrize("scenario", CALLS, ids=lambda scenario: scenario.__name__)
def test_calls_are_right_whenever_an_interrupt_comes(worlds, scenario):
    world = worlds()
    world.run(scenario(world), 0)
    for at in range(1, world.steps + 1):
        world = worlds()
        try:
            world.run(scenario(world), at)
            assert not host._entered
        except BaseException as error:
            raise AssertionError("interrupt before bytecode %d" % at) from error
