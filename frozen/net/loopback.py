"""The loopback link: frames wait here until the stack takes them back."""

from micropython import const
from net import ethernet

_MAX_FRAMES = const(256)


class Loopback:
    """A link object (see net.stack) that returns its frames."""

    mac = bytes(6)
    mtu = 1500

    def __init__(self):
        self._frame = None
        self.frames = []

    def tx_alloc(self):
        if len(self.frames) >= _MAX_FRAMES:
            return None
        self._frame = bytearray(self.mtu + ethernet.HEADER)
        return self._frame

    def tx_commit(self, length):
        self.frames.append(memoryview(self._frame)[:length])
        self._frame = None


class Discard:
    """A link object for packets without a route."""

    mac = bytes(6)
    mtu = 1500

    def __init__(self):
        self._frame = bytearray(self.mtu + ethernet.HEADER)

    def tx_alloc(self):
        return self._frame

    def tx_commit(self, length):
        pass
