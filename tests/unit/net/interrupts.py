"""The host's stack with a card whose interrupts come when a test wants them: before any bytecode.

On the machine an interrupt may come between any two bytecodes, also in the middle of a call of the
socket module. CPython's tracing lets a test try each place in turn. MicroPython has no tracing;
there, interrupts come when code waits for one.
"""

import gc
import sys

import _x86
from api_modules import MICROPYTHON, load
from net import host, ipv4
from net.tcp import wire as tcp
from scripted import HOST_IP, HOST_MAC, PEER_IP, PEER_MAC, Peer

socket = load("socket")

# Where interrupts come. What else there is of the stack runs while it is entered, and is let be;
# but these two have what the socket module asks without entering.
TRACED = ("net/aio.py", "net/host.py", "lib/socket.py", "net/buffers.py", "net/udp_endpoint.py")


class Stuck(Exception):
    """The loop sleeps, and nothing will wake it."""


class Card:
    """A network card whose frames the test makes; a Peer sends to it in place of a stack."""

    irq = 5
    mtu = 1500
    mac = HOST_MAC

    def __init__(self):
        self.frames = []
        self._queue = []

    def tx_alloc(self):
        self._frame = bytearray(1514)
        return memoryview(self._frame)

    def tx_commit(self, length):
        self.frames.append(bytes(self._frame[:length]))

    def receive(self, handler, _segment_handler, now):
        while self._queue:
            handler(memoryview(bytearray(self._queue.pop(0))), now)
        return False

    def interrupt(self):
        pass

    def input(self, frame, _now):
        self._queue.append(bytes(frame))
        _x86.raise_irq(self.irq)

    def poll(self, _now):
        host.pump()


class World:
    """The host's stack with a card, a peer on the wire, and `events`, functions that interrupt.

    wait() stands for _x86.wait(), which returns at once if an interrupt came since its last return.
    """

    def __init__(self):
        self.events = []
        self.steps = 0
        # The time in ms, which goes on when somebody waits.
        self.now = 1000000
        self._happened = False
        self.sockets = []
        host.stack.touched = []
        self.card = Card()
        host.attach(self.card)
        host.stack.configure(HOST_IP, ipv4.mask(24), 0, [])
        self.peer = Peer()
        self.peer.stack = self.peer.link = self.card
        self.peer.learn(PEER_IP, PEER_MAC)
        self.peer.frames()

    def end(self):
        for s in self.sockets:
            s.close()
        for connection in host.stack.tcp.connections():
            connection.end(0)
        host.attach(None)
        host.stack.configure(0, 0, 0, [])

    def socket(self, kind=socket.SOCK_STREAM):
        s = socket.socket(socket.AF_INET, kind)
        s.setblocking(False)
        self.sockets.append(s)
        return s

    def handshake(self):
        """A listener to which the peer's connection lacks only its last acknowledgement."""
        listener = self.socket()
        listener.bind(("", self.peer.port))
        listener.listen(5)
        self.peer.send(tcp.SYN, options=tcp.emit_syn_options(1460, None))
        self.peer.seq += 1
        self.peer.ack = (self.peer.segment().seq + 1) & 0xFFFFFFFF
        return listener

    def connection(self):
        """A socket that is connected to the peer."""
        listener = self.handshake()
        self.peer.send(tcp.ACK)
        s = listener.accept()[0]
        s.setblocking(False)
        self.sockets.append(s)
        return s

    def interrupt(self):
        self._happened = True
        self.events.pop(0)()

    def wait(self, timeout):
        if not self._happened:
            if self.events:
                self.interrupt()
            elif timeout is None:
                raise Stuck
            else:
                self.now += timeout
        self._happened = False

    def run(self, function, at):
        """Call function(), with an interrupt before bytecode number `at`, 0 for none."""

        def trace(frame, event, _):
            if event == "call":
                if not frame.f_code.co_filename.endswith(TRACED):
                    return None
                frame.f_trace_opcodes = True
            elif event == "opcode":
                self.steps += 1
                if self.steps == at and self.events:
                    self.interrupt()
            return trace

        if MICROPYTHON:
            return function()
        # The collector would close sockets of earlier worlds, in traced code and anywhere.
        gc.disable()
        sys.settrace(trace)
        try:
            return function()
        finally:
            sys.settrace(None)
            gc.enable()
