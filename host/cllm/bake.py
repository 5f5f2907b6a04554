"""A model inside the kernel's file: one file that boots, and no other.

Behind the loaded part of the image come its .bss as zeros, then the model on a page boundary. The
addresses in the Multiboot headers and the ELF header then cover all of it, so every loader puts
the model where it stays: the guest sees it as /boot/model.gguf without a copy. kernel/boot/baked.c
reads a record in the image that says where.
"""

import os
import struct
from pathlib import Path

from . import CllmError
from .progress import Progress

PAGE = 4096
MIB = 1 << 20
# The record of kernel/boot/baked.c: this mark, the model's address and its bytes.
MARK = b"cllm baked model"
RECORD = struct.Struct("<16sQQ")
# A loader needs the whole of it as one piece of memory below the hole for devices, which begins at
# 2 GiB on some machines, and has its own copy of a part meanwhile.
LARGEST = 1024 * MIB
MULTIBOOT, MULTIBOOT_FLAGS = 0x1BADB002, 1 << 16 | 3
MULTIBOOT2, TAG_ADDRESS = 0xE85250D6, 2
# Fields of a 64-bit ELF header and of its program headers (ELF-64 object file format 1.5).
E_PHOFF, E_PHENTSIZE, PT_LOAD = 32, 54, 1
PROGRAM = struct.Struct("<IIQQQQQQ")
CHUNK = 4 * MIB


def ensure(kernel: Path, model: Path, output: Path | None = None) -> Path:
    """Return the path of `kernel` with `model` inside; make it unless it is up to date.

    output: default `KERNEL` with "baked" in its name. Raises CllmError when the model is too large.
    """
    output = output or kernel.with_name("cllm.baked.elf")
    size = model.stat().st_size
    if size > LARGEST:
        raise CllmError(
            f"{model} has {size >> 20} MiB, and a model inside the kernel at most "
            f"{LARGEST >> 20}: give it with --model"
        )
    progress = Progress()
    fresh = output.with_name(f"{output.name}.{os.getpid()}")
    try:
        with progress.task(f"bake {model.name}", size) as task, open(fresh, "wb") as file:
            head = header(kernel.read_bytes(), size)
            file.write(head)
            with open(model, "rb") as source:
                while data := source.read(CHUNK):
                    file.write(data)
                    task.update(file.tell() - len(head))
            if file.tell() != len(head) + size:
                raise CllmError(f"{model} changed while it was read")
        os.replace(fresh, output)
    finally:
        fresh.unlink(missing_ok=True)
    return output


def header(kernel: bytes, size: int) -> bytes:
    """Return the kernel with the record of a model of `size` bytes, which is to follow it."""
    # Multiboot 0.6.96, 3.1.1 to 3.1.3: the header is in the first 8 KiB.
    at = kernel.find(struct.pack("<II", MULTIBOOT, MULTIBOOT_FLAGS), 0, 8192)
    record = kernel.find(MARK)
    if at < 0 or record < 0 or kernel.find(MARK, record + 1) >= 0:
        raise CllmError("this kernel takes no model inside: build it anew")
    own, load, load_end, bss_end, _ = struct.unpack_from("<5I", kernel, at + 12)
    if own - load != at or load_end - load > len(kernel):
        raise CllmError("this kernel is not laid out as its Multiboot header says")
    address = -(-bss_end // PAGE) * PAGE
    end = address + size
    if RECORD.unpack_from(kernel, record)[1:] != (0, 0):
        raise CllmError("this kernel has a model inside already")
    made = bytearray(kernel[: load_end - load].ljust(address - load, b"\0"))
    struct.pack_into("<II", made, at + 20, end, end)
    RECORD.pack_into(made, record, MARK, address, size)
    _patch_multiboot2(made, end)
    _patch_elf(made, end)
    return bytes(made)


def _patch_multiboot2(image: bytearray, end: int) -> None:
    """Put the new end into the address tag of a Multiboot2 header, where there is one."""
    # Multiboot2 2.0, 3.1.1 to 3.1.5; the checksum covers only the header's first fields.
    for at in range(0, 32768, 8):
        magic, architecture, length, checksum = struct.unpack_from("<4I", image, at)
        if magic != MULTIBOOT2 or (magic + architecture + length + checksum) % (1 << 32):
            continue
        tag = at + 16
        while tag < at + length:
            kind, _, size = struct.unpack_from("<HHI", image, tag)
            if kind == TAG_ADDRESS:
                struct.pack_into("<II", image, tag + 16, end, end)
            if not kind or not size:
                break
            tag += -(-size // 8) * 8
        return


def _patch_elf(image: bytearray, end: int) -> None:
    """Let the loaded segment reach to the new end, for loaders that go by the ELF header."""
    (table,) = struct.unpack_from("<Q", image, E_PHOFF)
    width, count = struct.unpack_from("<HH", image, E_PHENTSIZE)
    for at in range(table, table + width * count, width):
        kind, flags, offset, address, physical, _, _, align = PROGRAM.unpack_from(image, at)
        if kind == PT_LOAD:
            size = end - physical
            PROGRAM.pack_into(image, at, kind, flags, offset, address, physical, size, size, align)
