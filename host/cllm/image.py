"""Makes the images from the linked ELF file: adds a table of function names, packs.

finish()  build/port/cllm.elf -> build/cllm.debug.elf (with symbols), build/cllm.unpacked.elf
pack()    build/cllm.unpacked.elf -> build/cllm.elf, which unpacks itself
"""

import hashlib
import io
import os
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

from . import TOP, CllmError, symbols
from .steps import Steps

KERNEL = TOP / "kernel"
PACKED_SOURCES = (
    "boot/packed_entry.S",
    "boot/multiboot2_header.inc",
    "boot/unpack.c",
    "dev/nic.c",
    "dev/nic.h",
    "cpu/io.h",
    "boot/packed.ld",
)
PAGE = 4096
# Fields of the ELF header that describe sections (ELF-64 object file format 1.5, figure 2).
E_SHOFF, E_SHNUM = 40, 60


def finish(linked: Path, image: Path, debug_image: Path) -> None:
    """Split the linker's output into the image and a copy of it with symbols.

    Both get the table of function names. The image ends with its last loaded segment: no section
    headers, symbols and debug information. Loaded segments keep their place in the file, because
    the Multiboot header, from which QEMU takes the load address, depends on it.
    """
    newest = linked.stat().st_mtime_ns
    if all(path.exists() and path.stat().st_mtime_ns > newest for path in (image, debug_image)):
        return
    data = bytearray(linked.read_bytes())
    try:
        elf = ELFFile(io.BytesIO(bytes(data)))
        wanted = elf.elfclass == 64 and elf.little_endian
    except ELFError:
        wanted = False
    if not wanted:
        raise CllmError(f"{linked} is not a 64-bit little-endian ELF file")
    end = elf["e_phoff"] + elf["e_phentsize"] * elf["e_phnum"]
    for segment in elf.iter_segments("PT_LOAD"):
        end = max(end, segment["p_offset"] + segment["p_filesz"])
    symbols.write_into(data, elf)
    kept = bytearray(data[:end])
    struct.pack_into("<Q", kept, E_SHOFF, 0)
    struct.pack_into("<HH", kept, E_SHNUM, 0, 0)  # and e_shstrndx
    for path, content in ((debug_image, data), (image, kept)):
        fresh = path.with_name(path.name + ".new")
        fresh.write_bytes(content)
        os.replace(fresh, path)


def pack(steps: Steps, zig: Path, image: Path, packed: Path) -> None:
    """Make the compressed image: an ELF file for any Multiboot loader that unpacks itself.

    image: made by finish(). The code around the compressed content is boot/packed_entry.S and
    boot/unpack.c.
    """
    parts = [*(KERNEL / name for name in PACKED_SOURCES), Path(__file__), image]
    newest = max(path.stat().st_mtime_ns for path in parts)
    if packed.exists() and packed.stat().st_mtime_ns > newest:
        return
    data = image.read_bytes()
    # Multiboot 0.6.96, 3.1.1 to 3.1.3: flags with the addresses in the header.
    at = data.index(struct.pack("<II", 0x1BADB002, 1 << 16 | 3), 0, 8192)
    header, load, load_end, end, entry = struct.unpack_from("<5I", data, at + 12)
    if header - load != at or load_end - load > len(data):
        raise CllmError(f"{image} is not laid out as its Multiboot header says")
    content = data[: load_end - load]
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15, 9)
    payload = compressor.compress(content) + compressor.flush()
    folder = packed.with_name("packed")
    folder.mkdir(exist_ok=True)
    (folder / "payload").write_bytes(payload)
    flags = [
        "-target",
        "x86-freestanding",
        "-mcpu=i686",
        "-O2",
        "-c",
        "-ffreestanding",
        "-fno-pic",
        "-fno-stack-protector",
        "-fno-sanitize=undefined",
        "-Wall",
        "-Wextra",
        f"-I{KERNEL}",
        f"-DTARGET={load:#x}",
        f"-DSIZE={len(content):#x}",
        f"-DEND={end:#x}",
        f"-DENTRY={entry:#x}",
        f'-DPAYLOAD="{folder / "payload"}"',
        # The compiler's cache ignores .incbin files: let each payload change the command.
        f"-DDIGEST={hashlib.sha256(payload).hexdigest()}",
    ]
    objects = []
    for source in (name for name in PACKED_SOURCES if name.endswith((".c", ".S"))):
        objects.append(folder / (Path(source).stem + ".o"))
        command: Sequence[str | Path] = [zig, "cc", *flags, "-o", objects[-1], KERNEL / source]
        steps.run(f"pack {Path(source).name}", command)
    # After the image, page-aligned as modules are.
    address = -(-end // PAGE) * PAGE
    fresh = packed.with_name(packed.name + ".new")
    steps.run(
        "pack",
        [
            zig,
            "ld.lld",
            "-m",
            "elf_i386",
            "-static",
            "-s",
            "-T",
            KERNEL / "boot/packed.ld",
            f"--defsym=LOAD_ADDRESS={address:#x}",
            f"--defsym=TARGET={load:#x}",
            "-o",
            fresh,
            *objects,
        ],
    )
    os.replace(fresh, packed)
