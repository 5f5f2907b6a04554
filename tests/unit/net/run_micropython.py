"""Runs the network core on MicroPython's unix build: the same code, the other interpreter.

    micropython -X heapsize=64m tests/unit/net/run_micropython.py

Transfers over bad wires, connections one after another, and the socket module over the loopback
under asyncio. Prints a line for each and raises on the first failure.
"""

import sys
import time

_here = __file__.rsplit("/", 1)[0] if "/" in __file__ else "."
_root = _here + "/../../.."
# MicroPython looks for a module in each folder in turn: ours go before its own `socket`. The
# folder of this file must come late, for it is called `net` itself.
sys.path[:] = [_root + "/frozen", _root + "/frozen/lib", ".frozen", _here + "/../shim", _here]

import asyncio  # noqa: E402
import socket  # noqa: E402

from netsim import Simulator, Transfer, Wire  # noqa: E402


def transfers():
    for wire in (
        Wire(delay=10),
        Wire(delay=10, loss=0.05),
        Wire(delay=5, reorder=0.2, duplicate=0.1),
        Wire(delay=5, loss=0.02, corrupt=0.02, reorder=0.1),
    ):
        start = time.ticks_ms()
        sim = Simulator(1, wire)
        client, server, listener = sim.connect()
        transfer = Transfer(client, server, 1000000)
        assert sim.run(600000, transfer.pump) and transfer.received == transfer.total
        client.close(sim.now)
        server.close(sim.now)
        listener.close()
        assert sim.run(300000, lambda: not sim.connections())
        for stack in (sim.a, sim.b):
            assert stack.send_pool.lent == 0 and stack.receive_pool.lent == 0
        frames = sim.link_a.wire.count + sim.link_b.wire.count
        took = time.ticks_diff(time.ticks_ms(), start)
        print("transfer", wire.loss, wire.reorder, "frames", frames, "ms", took)


def churn():
    sim = Simulator(1)
    listener = sim.b.tcp.listen(0, sim.b.tcp.bind(80), 5)
    for _ in range(500):
        client = sim.a.tcp.connect(0x0A000002, 80, 0, sim.now)
        assert sim.run(1000, listener.ready)
        server = listener.accept()
        client.send(b"GET", 0, 3)
        assert sim.run(1000, lambda: server.available() == 3)
        client.close(sim.now)
        server.close(sim.now)
    listener.close()
    assert sim.run(300000, lambda: not sim.connections())
    print("churn")


async def sockets():
    total = 300000

    async def serve(reader, writer):
        line = await reader.readline()
        assert line == b"send please\n", line
        writer.write(Transfer.PATTERN * (total // len(Transfer.PATTERN)))
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 8080)
    reader, writer = await asyncio.open_connection("127.0.0.1", 8080)
    writer.write(b"send please\n")
    await writer.drain()
    got = await reader.read(-1)
    assert got == Transfer.PATTERN * (total // len(Transfer.PATTERN)), len(got)
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()
    print("sockets", len(got))


assert socket.__file__.endswith("frozen/lib/socket.py")
transfers()
churn()
asyncio.run(sockets())
print("ok")
