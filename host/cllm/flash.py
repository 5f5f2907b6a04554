"""`cllm flash`: writes a disk image to a whole disk, and reads it back.

Only what cannot be meant is refused: a partition, a disk that is mounted or that the system runs
from, one that is too small, the disk that holds the image. All else is shown, and then asked for.
"""

import contextlib
import dataclasses
import fcntl
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path

from . import CllmError, gpt
from .progress import Progress

MIB = 1 << 20
CHUNK = 4 * MIB
BLKRRPART = 0x125F  # ioctl(2): read the partition table again
SYS = Path("/sys")
PROC = Path("/proc")


@dataclasses.dataclass
class Target:
    """A disk to write to. size: bytes. uses: reasons against it. about: lines that describe it."""

    path: Path
    size: int
    uses: list[str]
    about: list[str]


def flash(
    device: str,
    image: str,
    *,
    yes: bool = False,
    ask: Callable[[str], str] = input,
    sys_folder: Path = SYS,
    proc: Path = PROC,
) -> None:
    """Write `image` to `device`; raises CllmError when it is refused, or the user says no.

    ask: as input(). sys_folder, proc: where the kernel says what disks there are; for tests.
    """
    source = Path(image)
    content = _image(source)
    target = look(Path(device), sys_folder, proc)
    say("\n".join(target.about))
    for reason in target.uses:
        raise CllmError(f"{device} stays as it is: {reason}")
    if content > target.size:
        raise CllmError(
            f"{device} has {target.size / MIB:.0f} MiB, and {source} takes {content / MIB:.0f}"
        )
    say(f"All of it will be overwritten by {source} ({content / MIB:.0f} MiB).")
    if not yes:
        if ask is input and not sys.stdin.isatty():
            raise CllmError("nobody can be asked here: say --yes, if that is what you want")
        if ask(f"Type the name of the disk ({target.path.name}) to go on: ") != target.path.name:
            raise CllmError(f"{device} stays as it is")
    write(source, target)
    say(
        f"{device} has been written and read back. Take it out, boot the machine from it with "
        "Secure Boot off; the volume CLLM on it has the settings."
    )


def say(text: str) -> None:
    print(text, file=sys.stderr)


def _image(path: Path) -> int:
    """Return the bytes of an image; raises CllmError for what boots no machine."""
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            if path.suffix.lower() == ".iso":
                return size
            table = gpt.read(file, size // gpt.SECTOR)
    except OSError as error:
        raise CllmError(f"cannot read {path}: {error.strerror}") from None
    except CllmError:
        raise CllmError(f"{path} is no disk image: make one by `cllm image -o NAME.img`") from None
    if not any(part.kind == gpt.ESP for part in table.partitions):
        raise CllmError(f"{path} has no partition that a machine could boot from")
    return size


def look(path: Path, sys_folder: Path = SYS, proc: Path = PROC) -> Target:
    """Return what is known of a disk, with the reasons not to write to it."""
    path = path.resolve()
    try:
        status = path.stat()
    except OSError as error:
        raise CllmError(f"{path}: {error.strerror}") from None
    if stat.S_ISREG(status.st_mode):
        # A file in place of a disk: another program's image, or a test.
        return Target(path, status.st_size, [], [f"{path}: a file of {status.st_size >> 20} MiB"])
    if not stat.S_ISBLK(status.st_mode):
        raise CllmError(f"{path} is no disk")
    number = f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
    return look_at(path, (sys_folder / "dev" / "block" / number).resolve(), proc)


def look_at(path: Path, node: Path, proc: Path = PROC) -> Target:
    """Return a Target for a disk. node: its folder below /sys/devices."""

    def read(name: str, folder: Path = node) -> str:
        try:
            return (folder / name).read_text().strip()
        except OSError:
            return ""

    if (node / "partition").exists():
        whole = node.parent.name
        raise CllmError(f"{path} is a partition: name the whole disk, /dev/{whole}")
    size = int(read("size") or 0) * gpt.SECTOR
    words = [read("device/vendor"), read("device/model"), read("device/serial")]
    where = " ".join(word for word in words if word) or "a disk without a name"
    removable = ", removable" if read("removable") == "1" else ""
    about = [f"{path}: {where}, {size / 1e9:.1f} GB{removable}"]
    uses = ["it is read-only"] if read("ro") == "1" else []
    if not size:
        uses.append("it has no medium")
    if (sector := read("queue/logical_block_size") or "512") != str(gpt.SECTOR):
        uses.append(f"its sectors have {sector} bytes, and images are made for {gpt.SECTOR}")
    names = {node.name: read("dev")}
    for part in sorted(node.glob(node.name + "*")):
        if (part / "partition").exists():
            names[part.name] = read("dev", part)
            label = _uevent(part).get("PARTNAME", "")
            count = int(read("size", part) or 0) * gpt.SECTOR
            about.append(f"  {part.name:14} {count / 1e9:8.1f} GB  {label}".rstrip())
    for name, number in names.items():
        for place in _mounts(name, number, proc):
            uses.append(f"{name} is mounted at {place}; `umount` it, if it is the right disk")
        folder = node if name == node.name else node / name
        if holders := sorted(path.name for path in (folder / "holders").glob("*")):
            uses.append(f"{name} belongs to {', '.join(holders)}")
        if _is_swap(name, proc):
            uses.append(f"{name} is swap space")
    return Target(path, size, uses, about)


def _uevent(folder: Path) -> dict[str, str]:
    try:
        lines = (folder / "uevent").read_text().splitlines()
    except OSError:
        return {}
    return dict(line.split("=", 1) for line in lines if "=" in line)


def _mounts(name: str, number: str, proc: Path) -> list[str]:
    """Return where a device is mounted. number: "MAJOR:MINOR"."""
    # proc_pid_mountinfo(5): id, parent, major:minor, root, mount point, options, ... "-", type,
    # source. File systems such as btrfs have numbers of their own, but name the device.
    found = []
    for line in (proc / "self" / "mountinfo").read_text().splitlines():
        fields = line.split()
        source = fields[fields.index("-") + 2 :][:1]
        if fields[2] == number or source == [f"/dev/{name}"]:
            found.append(fields[4].replace("\\040", " "))
    return found


def _is_swap(name: str, proc: Path) -> bool:
    try:
        lines = (proc / "swaps").read_text().splitlines()[1:]
    except OSError:
        return False
    return any(Path(line.split()[0]).name == name for line in lines if line)


def write(source: Path, target: Target) -> None:
    """Write the image and read it back; raises CllmError when another content comes back."""
    progress = Progress()
    try:
        # O_EXCL: the kernel refuses a block device that something uses (open(2)).
        exclusive = os.O_EXCL if target.path.is_block_device() else 0
        descriptor = os.open(target.path, os.O_RDWR | exclusive)
    except OSError as error:
        hint = ": run it as root (sudo)" if error.errno in (1, 13) else ""
        raise CllmError(f"cannot open {target.path}: {error.strerror}{hint}") from None
    try:
        with open(source, "rb", buffering=0) as file:
            exact = Exact(file, descriptor, target)
            exact.write(progress)
            exact.verify(progress)
        _read_table_again(descriptor)
    except OSError as error:
        raise CllmError(f"{target.path}: {error.strerror}; it is half written") from None
    finally:
        os.close(descriptor)


class Exact:
    """The bytes that a disk is to hold: the image's, with the second table moved to the end.

    file: the image. descriptor, target: of the disk. Firmware looks for the second table in the
    last sectors of the disk, where the image, which is smaller, does not have it.
    """

    def __init__(self, file, descriptor: int, target: Target) -> None:
        self._file = file
        self._descriptor = descriptor
        self.size = file.seek(0, os.SEEK_END)
        # (offset, bytes) that replace the image's.
        self._changes: list[tuple[int, bytes]] = []
        sectors = target.size // gpt.SECTOR
        try:
            table = gpt.read(file, self.size // gpt.SECTOR)
        except CllmError:
            table = None  # an ISO without a table of this kind
        if table and target.size > self.size and Path(file.name).suffix.lower() != ".iso":
            file.seek(0)
            code = file.read(440)
            head, tail = gpt.build(table.partitions, sectors, table.guid, code)
            self._changes = [(0, head), (sectors * gpt.SECTOR - len(tail), tail)]

    def _wanted(self, at: int, data: bytes) -> bytes:
        """Return what belongs at offset `at`, where the image has `data`."""
        for start, change in self._changes:
            first, last = max(start, at), min(start + len(change), at + len(data))
            if first < last:
                part = change[first - start : last - start]
                data = data[: first - at] + part + data[last - at :]
        return data

    def write(self, progress: Progress) -> None:
        """Write it all, the partition table last: a disk that is half written boots nothing."""
        with progress.task(f"write {self._file.name}", self.size) as task:
            first = b""
            self._file.seek(0)
            at = 0
            while data := self._file.read(CHUNK):
                data = self._wanted(at, data)
                if at:
                    self._put(at, data)
                else:
                    first = data
                    self._put(0, bytes(gpt.SECTOR * gpt.FIRST))
                at += len(data)
                task.update(at, f"{at / MIB:.0f} of {self.size / MIB:.0f} MiB")
            for start, change in self._changes[1:]:
                self._put(start, change)
            task.update(text="waiting for the disk")
            os.fsync(self._descriptor)
            self._put(0, first)
            os.fsync(self._descriptor)

    def _put(self, at: int, data: bytes) -> None:
        view = memoryview(data)
        while view:
            done = os.pwrite(self._descriptor, view, at)
            view = view[done:]
            at += done

    def verify(self, progress: Progress) -> None:
        """Read it all back, from the disk itself; raises CllmError at the first difference."""
        _forget(self._descriptor)
        with progress.task("read back", self.size) as task:
            self._file.seek(0)
            at = 0
            while data := self._file.read(CHUNK):
                wanted = self._wanted(at, data)
                if os.pread(self._descriptor, len(wanted), at) != wanted:
                    self._differs(at)
                at += len(data)
                task.update(at, f"{at / MIB:.0f} of {self.size / MIB:.0f} MiB")
            for start, change in self._changes[1:]:
                if os.pread(self._descriptor, len(change), start) != change:
                    self._differs(start)

    def _differs(self, at: int) -> None:
        raise CllmError(
            f"what was written at {at >> 20} MiB does not come back: the disk is broken, or "
            "smaller than it says"
        )


def _forget(descriptor: int) -> None:
    """Have reads come from the disk, not from the page cache."""
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def _read_table_again(descriptor: int) -> None:
    """Let the kernel see the new partitions; a file has none, and a busy disk keeps the old."""
    with contextlib.suppress(OSError):
        fcntl.ioctl(descriptor, BLKRRPART)
