"""Disk images that boot by BIOS and by UEFI: layout, files, other formats. No root, no loop device.

| partition | GPT name | what it has |
|---|---|---|
| 1 | `CLLM` | FAT32, for its user: `cllm.json`, `apps/`, `models/` |
| 2 | `cllm boot` | FAT32, the EFI system partition: GRUB, its menu, the kernel |
| 3 | `cllm bios` | GRUB's core image for a BIOS |
| 4 | `flash` | LittleFS2, the state that the machine keeps |
| 5 … | `NAME.gguf` | one file each, as it is: models that FAT or GRUB cannot take |

The user's volume is not the EFI system partition, because Windows, macOS and Linux hide those. It
is the first one, because older Windows shows no other of a stick. On the disk it comes behind the
others, so that it may grow.
"""

import contextlib
import gzip
import os
import subprocess
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from . import CllmError, debs, gpt, grub
from .progress import Progress, Task

MIB, GIB = 1 << 20, 1 << 30
# Above this a model gets a partition. GRUB puts what it loads below 4 GiB, where a PC has 2 to 3
# GiB of memory, and FAT32 ends a file at 4 GiB.
LOADED = 2 * GIB
ROOM = 128  # MiB that are free on the user's volume
STATE = 16  # MiB of the partition `flash`
# FAT32 has at least 65,525 clusters, FAT16 from 4,085 to 65,524 (Microsoft's FAT specification
# 1.03, 3.5). GRUB looks up each, so they are as large as that allows, and a FAT32 volume is large
# enough for clusters of 4 KiB.
FAT32_CLUSTERS = 66_000
LEAST_FAT32 = 272 * MIB
# The EFI system partition is FAT16. El Torito counts the sectors of a CD's in 16 bits.
BOOT_FAT, CD_BOOT_FAT = 80 * MIB, 16 * MIB
FAT16_CLUSTERS = 4200
FORMATS = {".img": "raw", ".raw": "raw", ".iso": "iso"} | {
    f".{name}": name for name in ("qcow2", "vmdk", "vhdx")
}
CHUNK = 4 * MIB
LABEL = "CLLM"
KERNEL = "cllm.elf.gz"
COMPRESSED = 64 * MIB  # kernels above it have a model inside
PREFIX = "(,gpt2)/boot/grub"  # the second partition, whatever the disk is

READ_ME = """\
This volume belongs to a machine that runs cllm. It reads these files when it starts:

  cllm.json      the configuration: network, keys, limits, model (docs/configuration.md)
  apps/*.py      request handlers; app.py first, then the others by name
  models/*.gguf  the model, up to 2 GiB; with more than one, cllm.json says which:
                 {"model": {"file": "NAME.gguf"}}

Edit them, take the disk out safely, start the machine again. A mistake in cllm.json is named at
http://ADDRESS/health and on the screen. File names have no spaces.
"""


class Content:
    """What goes into an image.

    kernel: path. files: {path on the user's volume: path of a file, or bytes}. partitions: {GPT
    name: path of a file}.
    """

    def __init__(
        self,
        kernel: Path,
        files: Mapping[str, Path | bytes],
        partitions: Mapping[str, Path] | None = None,
    ) -> None:
        self.kernel = kernel
        self.files = {"README.txt": READ_ME.replace("\n", "\r\n").encode(), **files}
        self.partitions = dict(partitions or {})

    def bytes_of_files(self) -> int:
        """Return about how many bytes the files take on a volume."""
        return sum(
            len(content) if isinstance(content, bytes) else content.stat().st_size
            for content in self.files.values()
        )


def check_format(output: Path) -> str:
    """Return the format that an output's suffix stands for; raises CllmError for another one."""
    kind = FORMATS.get(output.suffix.lower())
    if kind is None:
        raise CllmError(f"{output}: the name of an image ends with one of {', '.join(FORMATS)}")
    return kind


def make(output: Path, content: Content, *, room: int = ROOM, state: int = STATE) -> list[str]:
    """Write an image; return lines that describe it.

    room, state: MiB, as ROOM and STATE. The output appears only when it is whole.
    """
    kind = check_format(output)
    progress = Progress()
    fresh = output.with_name(f".{output.name}.{os.getpid()}")
    raw = fresh if kind in ("raw", "iso") else fresh.with_name(fresh.name + ".raw")
    try:
        if kind == "iso":
            lines = _make_iso(fresh, content, progress)
        else:
            lines = _make_disk(raw, content, room, state, progress)
            if raw != fresh:
                _convert(raw, fresh, kind, progress)
        os.replace(fresh, output)
    finally:
        for path in (fresh, raw):
            path.unlink(missing_ok=True)
    return lines


def layout(content: Content, core: int, room: int, state: int) -> tuple[list[gpt.Partition], int]:
    """Return (partitions, sectors of the disk). core: bytes of GRUB's core image."""
    aligned = gpt.ALIGNED
    at = aligned

    def place(name: str, kind: uuid.UUID, size: int) -> gpt.Partition:
        nonlocal at
        count = _up(size, MIB) // gpt.SECTOR
        part = gpt.Partition(name, kind, at, count)
        at += count
        return part

    if core > (aligned - gpt.FIRST) * gpt.SECTOR:
        raise CllmError(f"GRUB's core image has {core} bytes and does not fit below 1 MiB")
    bios = gpt.Partition("cllm bios", gpt.BIOS_BOOT, gpt.FIRST, aligned - gpt.FIRST)
    kernel = content.kernel.stat().st_size
    esp = place("cllm boot", gpt.ESP, max(BOOT_FAT, kernel + 32 * MIB))
    flash = place("flash", gpt.CLLM_FLASH, state * MIB)
    models = [
        place(name, gpt.CLLM_FILE, path.stat().st_size)
        for name, path in content.partitions.items()
    ]
    # A 64th for the file allocation tables and half-filled clusters.
    size = content.bytes_of_files() * 65 // 64 + room * MIB
    volume = place(LABEL, gpt.BASIC_DATA, max(LEAST_FAT32, size))
    return [volume, esp, bios, flash, *models], at + aligned


def _up(size: int, step: int) -> int:
    return -(-size // step) * step


def _make_disk(
    path: Path, content: Content, room: int, state: int, progress: Progress
) -> list[str]:
    packages = grub.ensure()
    with progress.task("boot loader"):
        core = grub.program(packages, "i386-pc", PREFIX)
        efi = grub.program(packages, "x86_64-efi", PREFIX)
    partitions, sectors = layout(content, len(core), room, state)
    volume, esp, bios = partitions[:3]
    code, core = grub.bios_code(packages, core, bios.first)
    head, tail = gpt.build(partitions, sectors, uuid.uuid4(), code)
    with open(path, "wb") as image:
        image.truncate(sectors * gpt.SECTOR)
        image.write(head)
        image.seek(bios.offset)
        image.write(core)
        image.seek(sectors * gpt.SECTOR - len(tail))
        image.write(tail)
    fat = Fat(packages, path)
    fat.format(esp, "CLLM BOOT")
    boot: dict[str, Path | bytes] = {
        "EFI/BOOT/BOOTX64.EFI": efi,
        "boot/grub/grub.cfg": grub.menu(content.kernel),
        KERNEL: _compressed(content),
    }
    fat.copy(esp, boot, progress)
    fat.format(volume, LABEL)
    fat.copy(volume, content.files, progress)
    for part in partitions[4:]:
        source = content.partitions[part.name]
        with progress.task(f"partition {part.name}", source.stat().st_size) as task:
            copy_into(path, source, part.offset, task)
    return describe(partitions, sectors)


def _compressed(content: Content) -> bytes:
    """Return the kernel as GRUB reads it: a BIOS may take seconds for each 10 MB of a stick."""
    # A model inside takes as long to be unpacked as to be read.
    level = 9 if content.kernel.stat().st_size < COMPRESSED else 0
    return gzip.compress(content.kernel.read_bytes(), level, mtime=0)


def cluster_size(size: int, least: int) -> int:
    """Return the bytes of a cluster with which a volume of `size` bytes has `least` clusters."""
    cluster = gpt.SECTOR
    while cluster < 32768 and size // (2 * cluster) >= least:
        cluster *= 2
    return cluster


class Fat:
    """FAT volumes in partitions of the file `image`, written by mtools."""

    def __init__(self, packages: debs.Packages, image: Path) -> None:
        self._packages = packages
        self._image = image

    def format(self, part: gpt.Partition, label: str) -> None:
        """Make an empty volume of a partition: FAT32, but FAT16 of the EFI system partition."""
        is_boot = part.kind == gpt.ESP
        kind = [] if is_boot else ["-F"]
        cluster = cluster_size(part.size, FAT16_CLUSTERS if is_boot else FAT32_CLUSTERS)
        # Heads and sectors as in Linux' own tools; nothing reads them any more.
        geometry = ["-T", str(part.count), "-H", str(part.first), "-h", "255", "-s", "63"]
        size = ["-c", str(cluster // gpt.SECTOR)]
        self._run("mformat", part, *kind, *size, "-v", label, *geometry, "::")

    def copy(
        self, part: gpt.Partition, files: Mapping[str, Path | bytes], progress: Progress
    ) -> None:
        """Put {path: path of a file, or bytes} into a volume."""
        folders = {
            str(folder) for name in files for folder in Path(name).parents if str(folder) != "."
        } | ({"apps", "models"} if part.name == LABEL else set())
        if folders:
            self._run("mmd", part, *(f"::{folder}" for folder in sorted(folders)))
        with tempfile.TemporaryDirectory(prefix="cllm-") as temporary:
            for name, content in files.items():
                source = Path(temporary) / "file"
                if isinstance(content, bytes):
                    source.write_bytes(content)
                else:
                    source = content
                self._copy_file(part, source, name, progress)

    def _copy_file(self, part: gpt.Partition, source: Path, name: str, progress: Progress) -> None:
        size = source.stat().st_size
        before = _allocated(self._image)

        def look() -> tuple[float, str]:
            return _allocated(self._image) - before, ""

        shown: Any = contextlib.nullcontext()
        if size >= MIB:
            shown = progress.task(f"{part.name}: {Path(name).name}", size, look)
        with shown:
            self._run("mcopy", part, "-o", source, f"::{name}")

    def _run(self, program: str, part: gpt.Partition, *arguments: str | Path) -> None:
        command = [self._packages.program(program), "-i", f"{self._image}@@{part.offset}"]
        # mtools asks when names clash or geometry looks odd; nobody would answer.
        environment = {
            **self._packages.environment(),
            "MTOOLS_SKIP_CHECK": "1",
            "LC_ALL": "C.UTF-8",
        }
        run(self._packages, [*command, *arguments], environment)


def _allocated(path: Path) -> int:
    return path.stat().st_blocks * 512


def copy_into(image: Path, source: Path, offset: int, task: Task | None = None) -> None:
    """Copy a file to an offset of another one, which has zeros there; holes stay holes."""
    with open(source, "rb", buffering=0) as read, open(image, "r+b", buffering=0) as write:
        for start, end in extents(read.fileno()):
            read.seek(start)
            write.seek(offset + start)
            while start < end:
                data = read.read(min(CHUNK, end - start))
                if not data:
                    raise CllmError(f"{source} became shorter while it was copied")
                write.write(data)
                start += len(data)
                if task:
                    task.update(start)


def extents(descriptor: int) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of the parts of an open file that are not holes."""
    at, size = 0, os.fstat(descriptor).st_size
    while at < size:
        try:
            start = os.lseek(descriptor, at, os.SEEK_DATA)
        except OSError:  # ENXIO: only a hole is left
            return
        at = os.lseek(descriptor, start, os.SEEK_HOLE)
        yield start, at


def describe(partitions: Iterable[gpt.Partition], sectors: int) -> list[str]:
    """Return a table of the partitions as lines."""
    lines = [f"{'':3}{'partition':24}{'MiB':>10}"]
    for number, part in enumerate(partitions, 1):
        lines.append(f"{number:2} {part.name:24}{part.size / MIB:10.1f}")
    return [*lines, f"{'':3}{'disk':24}{sectors * gpt.SECTOR / MIB:10.1f}"]


# Other formats.


def _make_iso(path: Path, content: Content, progress: Progress) -> list[str]:
    """Write a CD that boots by BIOS and by UEFI, also from a stick. Nothing on it can be edited."""
    if content.partitions:
        raise CllmError(
            f"{', '.join(content.partitions)}: an ISO has no partitions for models above "
            f"{LOADED >> 30} GiB; make an .img"
        )
    packages = grub.ensure()
    maker = debs.ensure(("xorriso",), "an ISO", ("xorriso",))
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".cllm-iso-") as temporary:
        efi, tree = Path(temporary) / "efi.img", Path(temporary) / "tree"
        mark = f"boot/cllm-{uuid.uuid4()}"
        _make_efi_volume(efi, packages, mark, progress)
        files: dict[str, Path | bytes] = {
            "boot/grub/eltorito.img": grub.program(packages, "i386-pc-eltorito", "/boot/grub"),
            "boot/grub/grub.cfg": grub.menu(content.kernel),
            mark: b"UEFI's GRUB finds the CD by this file.\n",
            KERNEL: _compressed(content),
            **content.files,
        }
        for name, source in files.items():
            place = tree / name
            place.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(source, bytes):
                place.write_bytes(source)
            else:
                place.symlink_to(source.resolve())
        hybrid = packages.file("/usr/lib/grub/i386-pc/boot_hybrid.img")
        # -f follows the links. The EFI volume is a partition too, for firmware that finds the CD's
        # content on a stick.
        command: list[str | Path] = [maker.program("xorriso"), "-as", "mkisofs", "-quiet", "-f"]
        command += ["-o", path]
        command += ["-V", LABEL, "-iso-level", "3", "-R", "-J", "-joliet-long"]
        command += ["-b", "boot/grub/eltorito.img", "-no-emul-boot", "-boot-load-size", "4"]
        command += ["-boot-info-table", "--grub2-boot-info", "--grub2-mbr", hybrid]
        command += ["-append_partition", "2", "0xef", efi, "-appended_part_as_gpt"]
        command += ["--eltorito-alt-boot", "-e", "--interval:appended_partition_2:all::"]
        command += ["-no-emul-boot", tree]
        with progress.task("ISO", look=lambda: _growth(path)):
            run(maker, command)
    return [f"a CD of {path.stat().st_size / MIB:.1f} MiB, labelled {LABEL}"]


def _make_efi_volume(path: Path, packages: debs.Packages, mark: str, progress: Progress) -> None:
    """Write the FAT volume that UEFI starts from a CD (UEFI 2.10, 13.3.2.1).

    mark: path of a file by which its GRUB finds the CD itself.
    """
    early = f"search --set=root --file /{mark}\nset volume=($root)\n"
    early += "set prefix=($root)/boot/grub\n"
    part = gpt.Partition("efi.img", gpt.ESP, 0, CD_BOOT_FAT // gpt.SECTOR)
    with open(path, "wb") as file:
        file.truncate(part.size)
    fat = Fat(packages, path)
    fat.format(part, "CLLM BOOT")
    program = grub.program(packages, "x86_64-efi", "/boot/grub", early)
    fat.copy(part, {"EFI/BOOT/BOOTX64.EFI": program}, progress)


def _growth(path: Path) -> tuple[float, str]:
    size = path.stat().st_size if path.exists() else 0
    return size, f"{size >> 20} MiB"


def _convert(raw: Path, output: Path, kind: str, progress: Progress) -> None:
    """Write a raw image as qcow2, VMDK or VHDX."""
    packages = debs.ensure(("qemu-utils",), f"a {kind} image", ("qemu-img",))
    command = [packages.program("qemu-img"), "convert", "-f", "raw", "-O", kind]
    with progress.task(f"{kind} image", look=lambda: _growth(output)):
        run(packages, [*command, raw, output])


def run(
    packages: debs.Packages,
    command: Sequence[str | Path],
    environment: Mapping[str, str] | None = None,
) -> None:
    """Run a program of some packages; raises CllmError with its words when it fails."""
    ended = subprocess.run(
        [str(word) for word in command],
        env=environment or packages.environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
    )
    if ended.returncode != 0:
        words = " ".join((ended.stderr.strip() or ended.stdout.strip()).split())
        raise CllmError(f"{Path(command[0]).name} failed: {words}")
