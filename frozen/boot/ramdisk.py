"""The file system in RAM: littlefs on memory that lies outside Python's heap.

Its files outlive soft resets and are gone after any other.
"""

import vfs
from micropython import const

import _x86

_BLOCK = const(4096)  # bytes
_SMALLEST = const(64 * 4096)
_LARGEST = const(16 * 1024 * 1024)


class RAMBlockDev:
    """Block device with the extended interface (offset within a block) over a writable buffer.

    Args: memory: memoryview, a whole number of blocks of 4096 bytes.
    """

    def __init__(self, memory):
        self._memory = memory

    def readblocks(self, block, buf, offset=0):
        start = block * _BLOCK + offset
        buf[:] = self._memory[start : start + len(buf)]

    def writeblocks(self, block, buf, offset=0):
        start = block * _BLOCK + offset
        self._memory[start : start + len(buf)] = buf

    def ioctl(self, op, arg):
        if op == 4:  # block count
            return len(self._memory) // _BLOCK
        if op == 5:  # block size
            return _BLOCK
        return 0  # init, deinit, sync; erase, which memory needs not


def mount():
    """Mount the RAM file system at /, formatting it where there is none."""
    # A 32nd of what is free, as whole blocks; the model and Python's heap have the rest.
    size = min(max(_x86.memory()[1] // 32, _SMALLEST), _LARGEST) // _BLOCK * _BLOCK
    device = RAMBlockDev(_x86.ram_disk(size))
    try:
        vfs.mount(vfs.VfsLfs2(device, progsize=256, readsize=256), "/")
    except OSError:  # first boot, or a file system that a script has spoilt
        vfs.VfsLfs2.mkfs(device, progsize=256, readsize=256)
        vfs.mount(vfs.VfsLfs2(device, progsize=256, readsize=256), "/")
