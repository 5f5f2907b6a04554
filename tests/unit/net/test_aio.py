"""asyncio's queue of waiting tasks (net/aio.py) under upstream's loop, with a card that interrupts.

On CPython the interrupt comes before each bytecode of the queue, the socket and the host in turn:
no wake-up may be lost, whatever it comes in between. On MicroPython it comes when the loop sleeps.
"""

import io

import _x86
import pytest
from api_modules import MICROPYTHON, load_aio
from interrupts import World, socket
from net import ipv4
from net.tcp import wire as tcp
from scripted import PEER_IP

aio, core = load_aio()

ACK, FIN, RST, PSH = tcp.ACK, tcp.FIN, tcp.RST, tcp.PSH


class Console(io.IOBase):
    """A stream that is no socket."""

    def __init__(self):
        self.ready = False

    def ioctl(self, _request, events):
        return events & 1 if self.ready else 0


@pytest.fixture
def worlds(monkeypatch):
    """A function that makes a World, after an end to the one before."""
    if aio is None:
        pytest.skip("micropython/src is not there: `make build` fetches it")
    made = []

    def make():
        while made:
            made.pop().end()
        core.new_event_loop()
        made.append(World())
        monkeypatch.setattr(_x86, "wait", made[0].wait)
        return made[0]

    if not MICROPYTHON:
        # The same number of bytecodes each time, whatever the clock says.
        monkeypatch.setattr(aio, "ticks_ms", lambda: made[0].now if made else 0)
        monkeypatch.setattr(core, "ticks", lambda: made[0].now if made else 0)
    monkeypatch.setattr(core, "IOQueue", aio.IOQueue)
    monkeypatch.setattr(core, "_io_queue", core._io_queue)
    yield make
    while made:
        made.pop().end()


def run(world, tasks, at):
    """Run `tasks` to their end."""

    def main():
        for task in [core.create_task(task) for task in tasks]:
            yield from task
        return "ended"

    # The loop ends too when it thinks that nobody waits for anything.
    loop = lambda: core.run_until_complete(core.create_task(main()))  # noqa: E731
    assert world.run(loop, at) == "ended"
    assert not core._io_queue.map and not core._io_queue._polled


def readable(s):
    yield core._io_queue.queue_read(s)


def writable(s):
    yield core._io_queue.queue_write(s)


# -- What a task waits for, and what ends the wait ----------------------------------------------
#
# Each is a function of a World that returns the tasks, with what is to happen in `events`.


def data(world):
    s = world.connection()
    world.events.append(lambda: world.peer.send(ACK | PSH, b"data"))

    def task():
        yield from readable(s)
        assert s.read(100) == b"data"

    return [task()]


def data_in_pieces(world):
    s, peer = world.connection(), world.peer
    for at in range(3):
        world.events.append(lambda at=at: peer.send(ACK | PSH, b"piece", seq=peer.seq + 5 * at))

    def task():
        got = b""
        while len(got) < 15:
            yield from readable(s)
            got += s.read(100) or b""
        assert got == b"piece" * 3

    return [task()]


def a_line(world):
    s, peer = world.connection(), world.peer
    world.events.append(lambda: peer.send(ACK, b"a li"))
    world.events.append(lambda: peer.send(ACK, b"ne\nrest", seq=peer.seq + 4))

    def task():
        line = b""
        while not line.endswith(b"\n"):
            yield from readable(s)
            line += s.readline() or b""
        assert line == b"a line\n"

    return [task()]


def the_end(world):
    s = world.connection()
    world.events.append(lambda: world.peer.send(ACK | FIN))

    def task():
        yield from readable(s)
        assert s.read(100) == b""

    return [task()]


def a_reset(world):
    s = world.connection()
    while s.write(bytes(4096)):
        pass
    world.events.append(lambda: world.peer.send(RST))
    errors = []

    def reader():
        yield from readable(s)
        try:
            s.read(100)
        except OSError as error:
            errors.append(error.args[0])

    def writer():
        yield from writable(s)
        try:
            s.write(b"x")
        except OSError as error:
            errors.append(error.args[0])

    def last():
        yield from core.sleep_ms(0)

    return [reader(), writer(), last()]


def room(world):
    s, peer = world.connection(), world.peer
    count = 0
    while n := s.write(bytes(4096)):
        count += n
    sent = sum(len(segment.payload) for segment in peer.segments())
    world.events.append(lambda: peer.send(ACK, ack=peer.ack + sent))

    def task():
        yield from writable(s)
        assert s.write(bytes(4096))

    return [task()]


def data_and_room(world):
    s, peer = world.connection(), world.peer
    while s.write(bytes(4096)):
        pass
    sent = sum(len(segment.payload) for segment in peer.segments())
    world.events.append(lambda: peer.send(ACK, b"data", ack=peer.ack + sent))

    def reader():
        yield from readable(s)
        assert s.read(100) == b"data"

    def writer():
        yield from writable(s)
        assert s.write(bytes(4096))

    return [reader(), writer()]


def a_connection(world):
    listener = world.handshake()
    world.events.append(lambda: world.peer.send(ACK))

    def task():
        yield from readable(listener)
        world.sockets.append(listener.accept()[0])

    return [task()]


def a_datagram(world):
    s = world.socket(socket.SOCK_DGRAM)
    s.bind(("", 5000))
    world.events.append(lambda: world.peer.datagram(6000, 5000, b"hello"))

    def task():
        yield from readable(s)
        assert s.recvfrom(100) == (b"hello", (ipv4.address_text(PEER_IP), 6000))

    return [task()]


def a_datagram_to_a_port_that_was_open_later(world):
    s = world.socket(socket.SOCK_DGRAM)
    world.events.append(lambda: world.peer.datagram(6000, 5000, b"hello"))

    def task():
        yield from readable(s)
        assert s.recvfrom(100)[0] == b"hello"

    def opener():
        s.bind(("", 5000))
        yield from core.sleep_ms(0)
        if not world.events:
            # It came before the port was there.
            world.peer.datagram(6000, 5000, b"hello")

    return [task(), opener()]


def a_socket_closed_by_another_task(world):
    s = world.connection()

    def reader():
        yield from readable(s)
        with pytest.raises(OSError):
            s.read(100)

    def closer():
        yield from core.sleep_ms(0)
        s.close()

    world.events.append(lambda: None)
    return [reader(), closer()]


def a_socket_without_a_port_closed_by_another_task(world):
    s = world.socket(socket.SOCK_DGRAM)

    def reader():
        yield from readable(s)
        with pytest.raises(OSError):
            s.recvfrom(100)

    def closer():
        yield from core.sleep_ms(0)
        s.close()

    world.events.append(lambda: None)
    return [reader(), closer()]


def a_console(world):
    console = Console()
    s = world.connection()
    world.events.append(lambda: world.peer.send(ACK, b"data"))
    world.events.append(lambda: setattr(console, "ready", True))

    def reader():
        yield from readable(s)

    return [readable(console), reader()]


def a_console_whose_writer_gave_up(world):
    console = Console()

    def writer():
        try:
            yield from writable(console)
        except core.CancelledError:
            pass

    writing = core.create_task(writer())

    def canceller():
        yield from core.sleep_ms(0)
        writing.cancel()

    world.events.append(lambda: setattr(console, "ready", True))
    return [readable(console), canceller()]


def room_when_the_reader_gave_up(world):
    s, peer = world.connection(), world.peer
    while s.write(bytes(4096)):
        pass
    sent = sum(len(segment.payload) for segment in peer.segments())
    world.events.append(lambda: peer.send(ACK, ack=peer.ack + sent))

    def reader():
        try:
            yield from readable(s)
        except core.CancelledError:
            return
        raise AssertionError("there was nothing to read")

    reading = core.create_task(reader())

    def task():
        yield from writable(s)
        assert s.write(bytes(4096))

    def canceller():
        yield from core.sleep_ms(0)
        reading.cancel()

    return [task(), canceller()]


def data_in_the_loop_after_one_that_was_given_up(world):
    s = world.connection()

    def forgotten():
        yield from readable(s)
        raise AssertionError("a task of another loop ran")

    def main():
        yield from core.sleep_ms(0)

    core.create_task(forgotten())
    core.run_until_complete(core.create_task(main()))
    core.new_event_loop()
    other = world.socket(socket.SOCK_DGRAM)
    other.bind(("", 5000))
    # The old loop's socket is heard of first, and nobody's.
    world.events.append(lambda: world.peer.send(ACK | PSH, b"data"))
    world.events.append(lambda: world.peer.datagram(6000, 5000, b"hello"))
    return [readable(other)]


WAITS = [
    data,
    data_in_pieces,
    a_line,
    the_end,
    a_reset,
    room,
    data_and_room,
    a_connection,
    a_datagram,
    a_datagram_to_a_port_that_was_open_later,
    a_socket_closed_by_another_task,
    a_socket_without_a_port_closed_by_another_task,
    a_console,
    a_console_whose_writer_gave_up,
    room_when_the_reader_gave_up,
    data_in_the_loop_after_one_that_was_given_up,
]


@pytest.mark.parametrize("scenario", WAITS, ids=lambda scenario: scenario.__name__)
def test_no_wake_up_is_lost(worlds, scenario):
    world = worlds()
    run(world, scenario(world), 0)
    for at in range(1, world.steps + 1):
        world = worlds()
        try:
            run(world, scenario(world), at)
        except BaseException as error:
            raise AssertionError("interrupt before bytecode %d" % at) from error
