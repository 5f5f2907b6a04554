"""Frees the host's memory of a model's file, once the guest has a copy of the weights.

With the kernels `tcg` the guest repacks the weights into its RAM and does not read the originals
again, but the pages of the mapped file (qemu.Guest.mapped) stay resident. The guest cannot drop its
host's pages; the host can, by process_madvise(2) with MADV_PAGEOUT: clean pages of a file are
unmapped and leave the page cache. Pages that are read again (embeddings, norms, everything after a
soft reset) come back one by one, and stay.

This needs Linux 5.10, CAP_SYS_NICE, and a file that the user owns or may write to. Elsewhere
nothing is lost: the kernel takes clean pages when it needs memory. Pages that another process maps
stay, and so do those of a tmpfs without swap.
"""

import ctypes
import os
from pathlib import Path

from .qemu import Guest

SYS_PROCESS_MADVISE = 440  # on x86, ARM and RISC-V alike
MADV_PAGEOUT = 21  # madvise(2)
LIBC = ctypes.CDLL(None)
LIBC.syscall.restype = ctypes.c_long


class Iovec(ctypes.Structure):
    """struct iovec; process_madvise(2)."""

    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


def give_back(guest: Guest) -> None:
    """Drop the pages of all files that the qemu.Guest has mapped, where the kernel allows it."""
    for content in guest.modules.values():
        if not isinstance(content, bytes):
            drop(guest.pid, content)


def drop(pid: int, path: str | Path) -> bool:
    """Drop the pages of `path` that the process has mapped; return False where not allowed."""
    try:
        process = os.pidfd_open(pid)
        try:
            return all(_page_out(process, *area) for area in _areas(pid, path))
        finally:
            os.close(process)
    except OSError:
        return False


def _areas(pid: int, path: str | Path) -> list[tuple[int, int]]:
    """Return [(start, end)] of the file in the process' memory; proc_pid_maps(5)."""
    name = os.fsencode(Path(path).resolve())
    found = []
    for line in Path(f"/proc/{pid}/maps").read_bytes().splitlines():
        area, _, _, _, _, *rest = line.split(maxsplit=5)
        if rest == [name]:
            start, _, end = area.partition(b"-")
            found.append((int(start, 16), int(end, 16)))
    return found


def _page_out(process: int, start: int, end: int) -> bool:
    while start < end:
        area = Iovec(start, end - start)
        # The kernel does at most 2 GiB at a time, and returns how much it did.
        done = LIBC.syscall(
            SYS_PROCESS_MADVISE,
            process,
            ctypes.byref(area),
            ctypes.c_size_t(1),
            MADV_PAGEOUT,
            ctypes.c_uint(0),
        )
        if done <= 0:
            return False
        start += done
    return True
