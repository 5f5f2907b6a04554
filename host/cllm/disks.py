"""Disks of a guest: --disk FILE[:virtio|nvme|ahci][,ro] as QEMU's options."""

import os
from dataclasses import dataclass
from pathlib import Path

from . import CllmError

KINDS = ("virtio", "nvme", "ahci")
FORMATS = {".qcow2": "qcow2", ".vmdk": "vmdk", ".vhdx": "vhdx"}  # anything else is raw
CACHES = 512  # MiB for a model's caches and graphs
WORDS = "FILE[:virtio|nvme|ahci][,ro]"


@dataclass
class Disk:
    """A disk of a guest.

    file: an image, or a name of QEMU's for anything that it reads ("blkdebug:..."). kind: one of
    KINDS. readonly: the guest cannot write. options: more of QEMU's -drive.
    """

    file: str | Path
    kind: str = "virtio"
    readonly: bool = False
    options: str = ""

    def arguments(self, number: int, bus: str = "") -> list[str]:
        """Return QEMU's options for the machine's disk `number`; bus: a slot off the PCI bus."""
        name = f"disk{number}"
        path = str(self.file)
        layout = FORMATS.get(Path(path).suffix.lower(), "raw")
        drive = f"if=none,id={name},format={layout},file={path.replace(',', ',,')}"
        if self.readonly:
            # QEMU refuses a read-only SATA disk: what the guest writes goes to a temporary file.
            drive += ",snapshot=on" if self.kind == "ahci" else ",readonly=on"
        if self.options:
            drive += "," + self.options
        serial = f"serial=cllm{number}"
        if bus:
            devices = [f"virtio-blk-device,drive={name},{serial},bus={bus}"]
        elif self.kind == "virtio":
            devices = [f"virtio-blk-pci,drive={name},{serial},romfile="]
        elif self.kind == "nvme":
            devices = [f"nvme,drive={name},{serial}"]
        else:
            devices = [f"ahci,id=ahci{number}", f"ide-hd,drive={name},{serial},bus=ahci{number}.0"]
        line = ["-drive", drive]
        for device in devices:
            line += ["-device", device]
        return line

    def check(self) -> None:
        """Raise CllmError for a file that the guest cannot have."""
        path = Path(self.file)
        if not path.is_file() and not path.is_block_device():
            raise CllmError(f"there is no disk image {path}")
        if not os.access(path, os.R_OK if self.readonly else os.R_OK | os.W_OK):
            raise CllmError(
                f"{path} may not be {'read' if self.readonly else 'written'} by this user"
                + ("" if self.readonly else ": add ,ro to have it read only")
            )


def parse(text: str) -> Disk:
    """Return the Disk of FILE[:virtio|nvme|ahci][,ro]; raises ValueError with what is wrong."""
    file, readonly = text, False
    if file.endswith(",ro"):
        file, readonly = file[:-3], True
    kind = "virtio"
    head, colon, tail = file.rpartition(":")
    if colon and tail in KINDS:
        file, kind = head, tail
    elif colon and tail.isalpha() and not Path(file).exists():
        raise ValueError(f"{tail} is no kind of disk: {', '.join(KINDS)}")
    if not file:
        raise ValueError(f"{text!r} names no file: {WORDS}")
    return Disk(str(Path(file).absolute()), kind, readonly)


def memory(disks: list[Disk]) -> int:
    """Return the MiB that a guest gets for models on its disks, if nobody names its memory.

    A model may fill a disk. Memory that the guest never uses costs the host nothing.
    """
    if not disks:
        return 0
    size = sum(Path(disk.file).stat().st_size for disk in disks if Path(disk.file).is_file())
    mib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20
    return min((size >> 20) + CACHES, mib // 2)
