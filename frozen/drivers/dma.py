"""DMA memory that outlives the driver that asked for it."""

import _x86

# {(bus address, purpose): memory}. The kernel frees DMA memory at soft resets only, so a card that
# is started again gets the memory that it had, even if it had failed to start for lack of more.
_memory = {}


def block(bdf, name, size, align=4096):
    """Return `size` bytes of DMA memory, the same for the same `bdf` and `name`."""
    memory = _memory.get((bdf, name))
    if memory is None:
        memory = _memory[bdf, name] = _x86.dma_alloc(size, align)
    return memory
