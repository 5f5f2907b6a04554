"""CPython stand-in for `machine`: memory, and registers that a test's model of a device serves."""

import ctypes


class _Memory:
    def __init__(self, kind):
        self._kind = kind
        self._size = ctypes.sizeof(kind)
        self._devices = []

    def attach(self, base, size, device):
        """For tests: device.read(offset) and device.write(offset, value) serve this region."""
        self._devices = [(base, size, device)]

    def _find(self, address):
        for base, size, device in self._devices:
            if base <= address < base + size:
                return device, address - base
        return None, 0

    def __getitem__(self, address):
        assert address % self._size == 0
        device, offset = self._find(address)
        return device.read(offset) if device else self._kind.from_address(address).value

    def __setitem__(self, address, value):
        assert address % self._size == 0
        device, offset = self._find(address)
        if device:
            device.write(offset, value & (1 << 8 * self._size) - 1)
        else:
            self._kind.from_address(address).value = value


# Elsewhere they are the process's own memory, where the shim's DMA memory lies.
mem8 = _Memory(ctypes.c_uint8)
mem16 = _Memory(ctypes.c_uint16)
mem32 = _Memory(ctypes.c_uint32)
