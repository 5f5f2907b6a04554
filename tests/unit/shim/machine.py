"""Stand-in for `machine`: memory, and registers that a test's model of a device serves."""

import struct

import uctypes


class _Memory:
    def __init__(self, form):
        self._form = form
        self._size = struct.calcsize(form)
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
        if device:
            return device.read(offset)
        return struct.unpack(self._form, uctypes.bytearray_at(address, self._size))[0]

    def __setitem__(self, address, value):
        assert address % self._size == 0
        device, offset = self._find(address)
        value &= (1 << 8 * self._size) - 1
        if device:
            device.write(offset, value)
        else:
            struct.pack_into(self._form, uctypes.bytearray_at(address, self._size), 0, value)


# Elsewhere they are the process's own memory, where the shim's DMA memory lies.
mem8 = _Memory("<B")
mem16 = _Memory("<H")
mem32 = _Memory("<I")
