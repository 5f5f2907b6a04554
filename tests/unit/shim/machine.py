"""CPython stand-in for `machine`: 32-bit registers, which a test's model of a device serves."""


class _Memory:
    def __init__(self):
        self._devices = []

    def attach(self, base, size, device):
        """For tests: device.read(offset) and device.write(offset, value) serve this region."""
        self._devices = [(base, size, device)]

    def _find(self, address):
        for base, size, device in self._devices:
            if base <= address < base + size:
                return device, address - base
        raise ValueError("no device at %#x" % address)

    def __getitem__(self, address):
        device, offset = self._find(address)
        return device.read(offset)

    def __setitem__(self, address, value):
        device, offset = self._find(address)
        device.write(offset, value & 0xFFFFFFFF)


mem32 = _Memory()
