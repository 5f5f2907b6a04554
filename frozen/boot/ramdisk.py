"""The file system in RAM: FAT on memory that lies outside Python's heap.

Its files outlive soft resets and are gone after any other.
"""

import vfs
from micropython import const

import _x86

_BLOCK = const(512)  # bytes
_SMALLEST = const(256 * 1024)
_LARGEST = const(16 * 1024 * 1024)


class RAMBlockDev:
    """Block device over a writable buffer.

    Args: memory: memoryview, a whole number of blocks of 512 bytes.
    """

    def __init__(self, memory):
        self._memory = memory

    def readblocks(self, block, buf):
        start = block * _BLOCK
        buf[:] = self._memory[start : start + len(buf)]

    def writeblocks(self, block, buf):
        start = block * _BLOCK
        # A view of these blocks alone: storing into a slice moves all that follows it onto itself.
        view = self._memory[start : start + len(buf)]
        view[:] = buf

    def ioctl(self, op, arg):
        if op == 4:  # block count
            return len(self._memory) // _BLOCK
        if op == 5:  # block size
            return _BLOCK
        return 0  # init, deinit, sync


def mount():
    """Mount the RAM file system at /, formatting it where there is none."""
    # A 32nd of what is free, as whole blocks; the model and Python's heap have the rest.
    size = min(max(_x86.memory()[1] // 32, _SMALLEST), _LARGEST) // _BLOCK * _BLOCK
    device = RAMBlockDev(_x86.ram_disk(size))
    try:
        vfs.mount(vfs.VfsFat(device), "/")
    except OSError:  # first boot, or a file system that a script has spoilt
        vfs.VfsFat.mkfs(device)
        vfs.mount(vfs.VfsFat(device), "/")
