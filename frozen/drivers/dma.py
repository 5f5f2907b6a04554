"""DMA memory that outlives the driver that asked for it."""

import _x86
import pci
from micropython import const

# PCI Local Bus 3.0, 6.2.2: the command register.
_COMMAND = const(0x04)
_MEMORY = const(1 << 1)
_MASTER = const(1 << 2)

# {(bus address, purpose): memory}. The kernel frees DMA memory at soft resets only, so a card that
# is started again gets the memory that it had, even if it had failed to start for lack of more.
_memory = {}


def block(bdf, name, size, align=4096):
    """Return `size` bytes of DMA memory, the same for the same `bdf` and `name`."""
    memory = _memory.get((bdf, name))
    if memory is None:
        memory = _memory[bdf, name] = _x86.dma_alloc(size, align)
    return memory


def keep_out(bdf):
    """Let a device's registers answer and the device not reach memory, until pci.enable(): before a
    reset it may still have commands, for memory that has another owner by now.
    """
    command = pci.read(bdf, _COMMAND, 2)
    pci.write(bdf, _COMMAND, 2, command & ~_MASTER | _MEMORY)
