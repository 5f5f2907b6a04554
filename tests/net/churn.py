"""Connections by the hundred thousand, floods and idle crowds, in the simulator.

    .venv/bin/python tests/net/churn.py [--connections 100000] [--syns 10000] [--idle 1000]

It checks that ports and memory are released, that clients are served during a flood of SYNs, and
that a transfer goes on beside idle connections; and prints figures.
"""

import argparse
import gc
import time
import tracemalloc

import support.on_cpython  # noqa: F401, makes the next ones importable

# isort: split
from net import arp, ethernet, ipv4
from net.tcp import wire as tcp
from netsim import B_IP, Simulator, Transfer, Wire


def churn(count, report=print):
    """Open, use and close `count` connections one after another; returns bytes that were added."""
    sim = Simulator(1)
    listener = sim.b.tcp.listen(0, sim.b.tcp.bind(80), 5)
    ports = set()
    before = None
    tracemalloc.start()
    for number in range(count):
        client = sim.a.tcp.connect(B_IP, 80, 0, sim.now)
        ports.add(client.port)
        assert sim.run(1000, listener.ready)
        server = listener.accept()
        client.send(b"GET", 0, 3)
        assert sim.run(1000, lambda: server.available() == 3)
        server.send(b"answer", 0, 6)
        # Either side closes first.
        first, second = (client, server) if number & 1 else (server, client)
        first.close(sim.now)
        assert sim.run(1000, second.at_end)
        assert client.receive_bytes(10) == b"answer" or first is client
        second.receive_bytes(10)
        second.close(sim.now)
        # The closed one waits 60 s in TIME-WAIT, of which at most 512 are kept.
        sim.run(20)
        if number == count // 10:
            gc.collect()
            before = tracemalloc.get_traced_memory()[0]
        if number and number % 20000 == 0:
            report(f"{number} connections, {tracemalloc.get_traced_memory()[0]} bytes")
    gc.collect()
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    listener.close()
    assert sim.run(300000, lambda: not sim.connections())
    for stack in (sim.a, sim.b):
        assert stack.send_pool.lent == 0 and stack.receive_pool.lent == 0
        assert not stack.tcp.table and not stack.tcp.time_waits and not stack.tcp.bound - {80}
    return grown, len(ports)


def flood(syns, clients=20):
    """`syns` SYNs without an ACK, with clients between them; returns how many were served."""
    sim = Simulator(2)
    listener = sim.b.tcp.listen(0, sim.b.tcp.bind(80), 100)
    source = ipv4.address("10.0.0.99")
    frame = bytearray(42)
    ethernet.emit(frame, ethernet.BROADCAST, b"\2\0\0\0\0\x99", ethernet.TYPE_ARP)
    arp.emit(frame, 14, arp.REQUEST, b"\2\0\0\0\0\x99", source, bytes(6), B_IP)
    sim.b.input(memoryview(frame), sim.now)
    pseudo = ipv4.pseudo_header_sum(ipv4.TCP, source, B_IP)
    served = 0
    most = 0
    for number in range(syns):
        syn = bytearray(54)
        ethernet.emit(syn, sim.link_b.mac, b"\2\0\0\0\0\x99", ethernet.TYPE_IPV4)
        tcp.emit(syn, 34, 1024 + number % 60000, 80, number, 0, tcp.SYN, 1000, 20, 0, pseudo)
        ipv4.emit(syn, 14, ipv4.TCP, source, B_IP, 20)
        sim.b.input(memoryview(syn), sim.now)
        if number % 10 == 0:
            sim.run(1)
        most = max(most, len(sim.b.tcp.connections()))
        if number % (syns // clients) == 0:
            client = sim.a.tcp.connect(B_IP, 80, 0, sim.now)
            assert sim.run(1000, listener.ready), "a client was kept out"
            transfer = Transfer(client, listener.accept(), 20000)
            assert sim.run(5000, transfer.pump)
            transfer.receiver.close(sim.now)
            client.close(sim.now)
            served += 1
    assert most <= 128 + clients * 2
    return served, most


def crowd(idle, total=4 << 20):
    """A transfer beside `idle` connections, which must still be alive; returns bytes/s of it."""
    sim = Simulator(3, Wire(delay=5))
    listener = sim.b.tcp.listen(0, sim.b.tcp.bind(80), 200)
    pairs = []
    for _ in range(idle):
        client = sim.a.tcp.connect(B_IP, 80, 0, sim.now)
        assert sim.run(1000, listener.ready)
        pairs.append((client, listener.accept()))
    # An idle connection holds no buffers.
    assert sim.a.send_pool.lent == sim.b.receive_pool.lent == 0
    start = sim.now
    client, server = pairs[0]
    transfer = Transfer(client, server, total)
    assert sim.run(1000000, transfer.pump)
    rate = total * 1000 // (sim.now - start)
    for client, server in pairs:
        if client is not transfer.sender:
            client.send(b"alive?", 0, 6)
            assert sim.run(1000, lambda: server.available() == 6)
            server.receive_bytes(6)
    return rate


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--connections", type=int, default=100000)
    parser.add_argument("--syns", type=int, default=10000)
    parser.add_argument("--idle", type=int, default=1000)
    arguments = parser.parse_args()
    start = time.monotonic()
    served, most = flood(arguments.syns)
    print(f"{arguments.syns} SYNs: {served} clients served, {most} connections at most")
    print(f"{arguments.idle} idle: {crowd(arguments.idle)} bytes/s beside them, all alive")
    grown, ports = churn(arguments.connections)
    print(f"{arguments.connections} connections over {ports} ports: {grown} bytes more")
    print(f"{time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
