"""The file system in RAM: FAT on memory outside of Python's heap.

Its files outlive soft resets, and no other reset.
"""
# SPDX-License-Identifier: MIT

import vfs
from micropython import const

import _x86

_BLOCK = const(512)  # bytes
_SMALLEST = const(256 * 1024)
_LARGEST = const(16 * 1024 * 1024)


class RAMBlockDev:
    """Block device over a writable buffer.

    Args: memory: memoryview of whole blocks of 512 bytes.
    """

    def __init__(self, memory):
        self._memory = memory

    def readblocks(self, block, buf):
        start = block * _BLOCK
        buf[:] = self._memory[start : start + len(buf)]

    def writeblocks(self, block, buf):
        start = block * _BLOCK
        # Use a view of these blocks: an assignment to a slice would copy all that follows it, too.
        view = self._memory[start : start + len(buf)]
        view[:] = buf

    def ioctl(self, op, arg):
        if op == 4:  # block count
            return len(self._memory) // _BLOCK
        if op == 5:  # block size
            return _BLOCK
        return 0  # init, deinit, sync


def mount():
    """Mount the RAM file system at /. Format it if there is none."""
    # A 32nd of the free memory, in whole blocks. The model and Python's heap get the rest.
    size = min(max(_x86.memory()[1] // 32, _SMALLEST), _LARGEST) // _BLOCK * _BLOCK
    device = RAMBlockDev(_x86.ram_disk(size))
    try:
        vfs.mount(vfs.VfsFat(device), "/")
    except OSError:  # the first boot, or a script has damaged it
        vfs.VfsFat.mkfs(device)
        vfs.mount(vfs.VfsFat(device), "/")
