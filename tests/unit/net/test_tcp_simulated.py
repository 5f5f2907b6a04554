"""Two stacks over a bad wire: every byte arrives, connections close, nothing is left behind."""

import pytest
from net import errors
from net.tcp import states as state
from netsim import Simulator, Transfer, Wire
from scripted import loopback

BOTH_FAMILIES = True

MiB = 1 << 20


def check_clean(sim, listener=None):
    """After the longest wait of any timer, nothing of a connection may be left."""
    if listener:
        listener.close()
    assert sim.run(300000, lambda: not sim.connections())
    for stack in (sim.a, sim.b):
        assert stack.send_pool.lent == 0 and stack.receive_pool.lent == 0
        assert not stack.ready and not stack.tcp.time_waits and not stack.tcp.table


@pytest.mark.parametrize("upload", [True, False])
@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize(
    "wire",
    [
        {},
        {"loss": 0.01},
        {"loss": 0.1},
        {"reorder": 0.2},
        {"duplicate": 0.2},
        {"corrupt": 0.05},
        {"loss": 0.05, "reorder": 0.2, "duplicate": 0.1, "corrupt": 0.02},
        {"delay": 100, "loss": 0.02},
        {"delay": 5, "rate": 1000, "queue": 20000},
    ],
    ids=lambda wire: ",".join("%s=%s" % item for item in wire.items()) or "clean",
)
def test_transfer(wire, seed, upload):
    queue = dict(wire).pop("queue", None)
    there = Wire(**{k: v for k, v in wire.items() if k != "queue"})
    sim = Simulator(seed, there)
    if queue:
        sim.link_a.wire.queue = sim.link_b.wire.queue = queue
    client, server, listener = sim.connect()
    sender, receiver = (client, server) if upload else (server, client)
    transfer = Transfer(sender, receiver, 200000)
    assert sim.run(600000, transfer.pump)
    assert transfer.received == transfer.total
    receiver.close(sim.now)
    # The side that closes first ends in TIME-WAIT, the other is gone before.
    assert sim.run(200000, lambda: sender.state == state.TIME_WAIT)
    assert sim.run(200000, lambda: receiver.state == state.CLOSED)
    sender.close(sim.now)
    assert sender.error == 0 and receiver.error == 0
    check_clean(sim, listener)


@pytest.mark.parametrize("seed", [3, 4, 5])
def test_both_directions_at_once(seed):
    sim = Simulator(seed, Wire(delay=20, loss=0.03, reorder=0.1, duplicate=0.05))
    client, server, listener = sim.connect()
    there = Transfer(client, server, 100000)
    back = Transfer(server, client, 150000, chunk=777)

    def both():
        done = there.pump()
        return back.pump() and done

    assert sim.run(600000, both)
    client.close(sim.now)
    server.close(sim.now)
    check_clean(sim, listener)


def test_throughput_follows_the_window():
    # 1 MiB over a round trip of 20 ms with 64 KiB in flight: 16 round trips and a slow start.
    sim = Simulator(1, Wire(delay=10))
    client, server, _ = sim.connect()
    start = sim.now
    transfer = Transfer(client, server, MiB)
    assert sim.run(60000, transfer.pump)
    assert sim.now - start < 2 * 16 * 20


def test_loss_is_repaired_without_a_timeout():
    sim = Simulator(1, Wire(delay=10))
    client, server, _ = sim.connect()
    first = sim.link_a.wire.count
    sim.link_a.wire.drop = lambda number, _: number - first in (30, 33, 60)
    start = sim.now
    transfer = Transfer(client, server, 300000)
    assert sim.run(60000, transfer.pump)
    assert sim.now - start < 1000
    # Three segments more than a transfer without loss.
    assert sim.link_a.wire.count - first < 300000 // 1460 + 20


def test_spurious_retransmissions_are_few():
    sim = Simulator(7, Wire(delay=30, reorder=0.02))
    client, server, _ = sim.connect()
    transfer = Transfer(client, server, 500000)
    assert sim.run(120000, transfer.pump)
    assert sim.link_a.wire.count < 1.2 * 500000 / 1460


def test_slow_reader_stops_the_sender():
    sim = Simulator(1)
    client, server, listener = sim.connect()
    sent = 0
    for _ in range(200):
        sent += client.send(bytes(4096), 0, 4096)
        sim.run(50)
    # What both buffers hold, and no more; a scaled window is even.
    assert 2 * 65536 - 2 < sent <= 2 * 65536
    got = 0
    while got < sent:
        got += len(server.receive_bytes(5000) or b"")
        sim.run(20)
    assert sim.run(1000, lambda: client.snd_una == client.snd_max)
    client.close(sim.now)
    server.close(sim.now)
    check_clean(sim, listener)


def test_window_update_is_lost():
    # The update that opens a closed window gets lost: the probe must find out.
    sim = Simulator(1)
    client, server, _ = sim.connect()
    while client.send(bytes(4096), 0, 4096):
        sim.run(50)
    sim.link_b.wire.drop = lambda *_: True
    while server.receive_bytes(65536):
        pass
    sim.run(100)
    sim.link_b.wire.drop = None
    assert sim.run(30000, lambda: client.snd_una == client.snd_end)


def test_small_buffers():
    sim = Simulator(9, Wire(delay=3, loss=0.02), buffer_size=4096)
    client, server, listener = sim.connect()
    transfer = Transfer(client, server, 60000, chunk=1111)
    assert sim.run(600000, transfer.pump)
    client.close(sim.now)
    server.close(sim.now)
    check_clean(sim, listener)


def test_large_buffers_use_the_scale():
    sim = Simulator(1, Wire(delay=50), buffer_size=1 << 20)
    client, server, _ = sim.connect()
    start = sim.now
    transfer = Transfer(client, server, 4 * MiB)
    assert sim.run(60000, transfer.pump)
    # Without scaling, 64 KiB for each 100 ms would take 6.4 s.
    assert sim.now - start < 2500


def test_peer_vanishes():
    sim = Simulator(1)
    client, server, _ = sim.connect()
    sim.link_b.wire.drop = lambda *_: True
    client.send(b"hello?", 0, 6)
    assert sim.run(400000, lambda: client.state == state.CLOSED)
    assert client.error == errors.ETIMEDOUT


def test_peer_restarts():
    sim = Simulator(1)
    client, server, _ = sim.connect()
    # The server forgets everything; the client's next segment is answered by a reset.
    server.end(0)
    client.send(b"hello", 0, 5)
    assert sim.run(1000, lambda: client.state == state.CLOSED)
    assert client.error == errors.ECONNRESET


@pytest.mark.parametrize("wire", [{}, {"loss": 0.1, "reorder": 0.1}], ids=["clean", "bad"])
def test_simultaneous_close(wire):
    sim = Simulator(5, Wire(delay=10, **wire))
    client, server, listener = sim.connect()
    client.close(sim.now)
    server.close(sim.now)
    check_clean(sim, listener)


def test_simultaneous_open():
    sim = Simulator(1, Wire(delay=10))
    one = sim.a.tcp.connect(sim.address_b, 2000, sim.a.tcp.bind(1000), sim.now)
    other = sim.b.tcp.connect(sim.address_a, 1000, sim.b.tcp.bind(2000), sim.now)
    assert sim.run(5000, lambda: one.state == other.state == state.ESTABLISHED)
    transfer = Transfer(one, other, 20000)
    assert sim.run(5000, transfer.pump)


def test_many_connections_one_after_another():
    sim = Simulator(1)
    listener = sim.b.tcp.listen(0, sim.b.tcp.bind(80), 5)
    ports = set()
    for _ in range(700):
        client = sim.a.tcp.connect(sim.address_b, 80, 0, sim.now)
        ports.add(client.port)
        assert sim.run(1000, listener.ready)
        server = listener.accept()
        client.send(b"GET", 0, 3)
        assert sim.run(1000, lambda: server.available() == 3)
        assert server.receive_bytes(10) == b"GET"
        server.close(sim.now)
        assert sim.run(1000, client.at_end)
        client.close(sim.now)
    assert len(ports) > 600
    # TIME-WAITs are bounded, whatever the rate; the last connection is on its way there.
    assert len(sim.b.tcp.connections()) <= 512 + 1
    check_clean(sim, listener)


def test_many_connections_at_once():
    sim = Simulator(2, Wire(delay=5, loss=0.02))
    listener = sim.b.tcp.listen(0, sim.b.tcp.bind(80), 100)
    clients = [sim.a.tcp.connect(sim.address_b, 80, 0, sim.now) for _ in range(50)]
    servers = []

    def accept():
        while listener.ready():
            servers.append(listener.accept())
        return len(servers) == len(clients)

    assert sim.run(60000, accept)
    by_port = {server.remote_port: server for server in servers}
    transfers = [Transfer(c, by_port[c.port], 5000) for c in clients]
    assert sim.run(200000, lambda: all([t.pump() for t in transfers]))
    for connection in clients + servers:
        connection.close(sim.now)
    check_clean(sim, listener)


def test_loopback():
    sim = Simulator(1)
    stack = sim.a
    sim.settle()
    before = sim.link_a.wire.count
    for address in (loopback(), sim.address_a):
        listener = stack.tcp.listen(0, stack.tcp.bind(0), 5)
        client = stack.tcp.connect(address, listener.port, 0, sim.now)
        assert sim.run(100, listener.ready)
        server = listener.accept()
        assert server.local == server.remote == address
        transfer = Transfer(client, server, 300000)
        assert sim.run(10000, transfer.pump)
        client.close(sim.now)
        server.close(sim.now)
        listener.close()
    # Nothing but the announcement, or the trial, of the addresses.
    assert sim.link_a.wire.count == before
    check_clean(sim)


def test_a_stack_without_a_link_has_itself():
    sim = Simulator(1)
    sim.a.attach(None)
    listener = sim.a.tcp.listen(0, sim.a.tcp.bind(80), 5)
    client = sim.a.tcp.connect(loopback(), 80, 0, sim.now)
    assert sim.run(100, listener.ready)
    with pytest.raises(OSError):
        sim.a.tcp.connect(sim.address_b, 80, 0, sim.now)
    client.close(sim.now)
