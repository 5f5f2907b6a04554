"""A wire between two Stacks, in simulated time: delay, loss, reordering, duplication, corruption.
It carries the IP that scripted.use() says.

Runs on CPython and on MicroPython. Everything follows from the seed.
"""

import heapq
import random

import scripted
from net import ipv4
from net.stack import Stack

A_IP = ipv4.address("10.0.0.1")
B_IP = ipv4.address("10.0.0.2")
NETMASK = ipv4.mask(24)


class Wire:
    """What one direction of a link does to frames. Times in ms, chances from 0 to 1.

    `rate` is in bytes per ms (None: no limit), `queue` the bytes that wait for it at most.
    `drop`, if set, is a function of (frame number, frame) that returns True to lose the frame.
    """

    def __init__(self, delay=1, loss=0.0, reorder=0.0, duplicate=0.0, corrupt=0.0, rate=None):
        self.delay = delay
        self.loss = loss
        self.reorder = reorder
        self.duplicate = duplicate
        self.corrupt = corrupt
        self.rate = rate
        self.queue = 1 << 30
        self.free_at = 0
        self.drop = None
        self.count = 0


class Link:
    """A link object (see net.stack) whose frames go to the simulator."""

    mtu = 1500

    def __init__(self, simulator, mac, wire):
        self.simulator = simulator
        self.mac = mac
        self.wire = wire
        self.peer = None
        self.sent = []
        self.keep = False
        self.full = False
        self._frame = None

    def tx_alloc(self):
        if self.full:
            return None
        self._frame = bytearray(self.mtu + 14)
        return memoryview(self._frame)

    def tx_commit(self, length):
        self.simulator.send(self, bytes(self._frame[:length]))


class Simulator:
    """Two stacks, `a` and `b`, configured and joined; a runs at A_IP, b at B_IP."""

    def __init__(self, seed=1, there=None, back=None, **stack_options):
        self.random = random
        random.seed(seed)
        self.now = 1000
        self._events = []
        self._serial = 0
        there = there or Wire()
        back = back or Wire(
            there.delay, there.loss, there.reorder, there.duplicate, there.corrupt, there.rate
        )
        self.link_a = Link(self, b"\x02\0\0\0\0\x01", there)
        self.link_b = Link(self, b"\x02\0\0\0\0\x02", back)
        self.a = Stack(self.link_a, self._bytes, **stack_options)
        self.b = Stack(self.link_b, self._bytes, **stack_options)
        self.link_a.peer = self.b
        self.link_b.peer = self.a
        self.address_a, self.address_b = scripted.host(1), scripted.host(2)
        if scripted.speaks_ipv6():
            self.link_a.mtu = self.link_b.mtu = 1520  # so that segments have the same size
            scripted.start_ipv6(self.a, self.address_a, self.now)
            scripted.start_ipv6(self.b, self.address_b, self.now)
            self._events = []
        else:
            self.a.configure(A_IP, NETMASK, 0, [])
            self.b.configure(B_IP, NETMASK, 0, [])
        self._next = {}

    @staticmethod
    def _bytes(count):
        return bytes(random.getrandbits(8) for _ in range(count))

    def _chance(self, probability):
        return probability > 0 and random.random() < probability

    def send(self, link, frame):
        wire = link.wire
        wire.count += 1
        if link.keep:
            link.sent.append((self.now, frame))
        if self._chance(wire.loss) or (wire.drop and wire.drop(wire.count, frame)):
            return
        if self._chance(wire.corrupt):
            frame = bytearray(frame)
            frame[random.getrandbits(16) % len(frame)] ^= 1 << random.getrandbits(3)
        at = self.now + wire.delay
        if wire.rate:
            start = max(self.now, wire.free_at)
            if (start - self.now) * wire.rate > wire.queue:
                return
            wire.free_at = start + len(frame) / wire.rate
            at = wire.free_at + wire.delay
        if self._chance(wire.reorder):
            at += 1 + random.getrandbits(4)
        for _ in range(2 if self._chance(wire.duplicate) else 1):
            self._serial += 1
            heapq.heappush(self._events, (at, self._serial, link.peer, frame))

    def settle(self):
        """Let both stacks do what is due now."""
        self._next[0] = self.a.poll(self.now)
        self._next[1] = self.b.poll(self.now)

    def step(self, until):
        """Go on to the next event, at most to time `until`; False when nothing is left."""
        self.settle()
        times = [time for time in self._next.values() if time is not None]
        if self._events:
            times.append(self._events[0][0])
        if not times:
            self.now = until
            return False
        self.now = max(self.now, min(int(-(-min(times) // 1)), until))
        while self._events and self._events[0][0] <= self.now:
            _, _, stack, frame = heapq.heappop(self._events)
            stack.input(memoryview(frame), self.now)
        self.settle()
        return True

    def run(self, duration=0, until=None):
        """Run for `duration` ms, or until `until()` holds. Returns whether it came to hold."""
        end = self.now + duration
        while True:
            if until and until():
                return True
            if self.now >= end:
                return False
            self.step(end)

    def connect(self, port=80, duration=200000):
        """Connect a to a listener on b; returns (client, server, listener)."""
        listener = self.b.tcp.listen(0, self.b.tcp.bind(port), 5)
        client = self.a.tcp.connect(self.address_b, port, 0, self.now)
        assert self.run(duration, listener.ready)
        return client, listener.accept(), listener

    def connections(self):
        return self.a.tcp.connections() + self.b.tcp.connections()


class Transfer:
    """Sends `total` bytes of a pattern through a connection and checks them at the other end."""

    # Coprime with every ring and segment size, so that a misplaced byte shows.
    PERIOD = 251
    PATTERN = bytes((i * 7 + 3) % 251 for i in range(251)) * 40

    def __init__(self, sender, receiver, total, chunk=4000):
        self.sender = sender
        self.receiver = receiver
        self.total = total
        self.chunk = chunk
        self.sent = 0
        self.received = 0
        self.ended = False
        self._buf = bytearray(chunk)

    def pump(self):
        """Send and receive what is possible now; True when all is there."""
        while self.sent < self.total:
            start = self.sent % self.PERIOD
            count = self.sender.send(self.PATTERN, start, min(self.chunk, self.total - self.sent))
            if count == 0:
                break
            self.sent += count
            if self.sent == self.total:
                self.sender.shutdown()
        while True:
            count = self.receiver.receive(self._buf, 0, self.chunk)
            if count is None:
                break
            if count == 0:
                self.ended = True
                break
            start = self.received % self.PERIOD
            if self._buf[:count] != self.PATTERN[start : start + count]:
                raise AssertionError("wrong bytes after %d" % self.received)
            self.received += count
        return self.ended
