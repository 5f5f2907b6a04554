"""Give back the host's memory that a model's file takes, once the guest has a copy of its weights.

With the kernels `tcg` the weights are repacked into the guest's RAM and nobody reads the originals
again, but the file is mapped into QEMU (qemu.Guest.mapped), where its pages stay resident. The
guest cannot drop its host's pages. The host can, by process_madvise(2) with MADV_PAGEOUT: clean
pages of a file are unmapped and leave the page cache. What is read from the file after all
(embeddings, norms, all of it after a soft reset) comes back page by page, and stays.

It takes Linux 5.10 and CAP_SYS_NICE, and a file that one owns or may write to. Without, nothing is
lost: clean pages are the kernel's to take when it needs memory. Pages that another process maps as
well stay, and so do those of a tmpfs without swap.
"""

import ctypes
import os
from pathlib import Path

SYS_PROCESS_MADVISE = 440  # on x86, ARM and RISC-V alike
MADV_PAGEOUT = 21  # madvise(2)
LIBC = ctypes.CDLL(None)
LIBC.syscall.restype = ctypes.c_long


class Iovec(ctypes.Structure):
    """struct iovec; process_madvise(2)."""

    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


def give_back(guest):
    """Drop the pages of all files that the qemu.Guest has mapped, where the kernel does that."""
    for content in guest.modules.values():
        if not isinstance(content, bytes):
            drop(guest.pid, content)


def drop(pid, path):
    """Drop the pages of the file `path` that the process has mapped; False: not allowed here."""
    try:
        process = os.pidfd_open(pid)
        try:
            return all(_page_out(process, *area) for area in _areas(pid, path))
        finally:
            os.close(process)
    except OSError:
        return False


def _areas(pid, path):
    """[(start, end)] where the process has the file in its memory; proc_pid_maps(5)."""
    name = os.fsencode(Path(path).resolve())
    found = []
    for line in Path(f"/proc/{pid}/maps").read_bytes().splitlines():
        area, _, _, _, _, *rest = line.split(maxsplit=5)
        if rest == [name]:
            found.append(tuple(int(number, 16) for number in area.split(b"-")))
    return found


def _page_out(process, start, end):
    while start < end:
        area = Iovec(start, end - start)
        # Of more than 2 GiB the kernel does a part, and says how much.
        done = LIBC.syscall(
            SYS_PROCESS_MADVISE, process, ctypes.byref(area), ctypes.c_size_t(1), MADV_PAGEOUT,
            ctypes.c_uint(0),
        )
        if done <= 0:
            return False
        start += done
    return True
