"""The machine's disks: what is mounted from them, and models that are read into memory.

/flash: LittleFS2 on a partition of its own, for what outlives the power. /disk: the FAT volume
that any other machine can edit, read-only here. A model is a partition, whose name is the file's,
or a file in /disk/models.
"""
# SPDX-License-Identifier: MIT

import os
import vfs

import _x86
import drivers
import machine
import uctypes
from drivers import fat, gpt
from drivers import gpt_types as types
from drivers.disk import Part
from micropython import const
from serve.scheduling.engine import NoModel

FLASH = "/flash"
VOLUME = "/disk"
_MODELS = VOLUME + "/models/"
_BOOT = "/boot/"
_DEFAULT = "model.gguf"

# After this many deaths in a row, each soon after its boot, the machine boots without /flash.
_SAFE_AFTER = const(3)
# What the machine wants besides a model: caches, graphs, Python.
RESERVE = const(128 << 20)
_MIB = const(1 << 20)

disks = []  # drivers.disk.Disk
models = {}  # {name: Part}
safe_mode = False
volume = None  # the Part that is mounted at /disk


def start():
    """Open all disks and mount what is on them. Prints what it finds; raises nothing."""
    found = drivers.find_disks()
    for text in drivers.unknown_disks():
        print("cllm: no driver for the disk controller " + text)
    if not found:
        return
    counts = {}
    for name, bdf in found:
        number = counts.get(name, 0)
        counts[name] = number + 1
        try:
            disks.extend(drivers.open_disks(name, bdf, number))
        except (OSError, MemoryError) as exc:
            print("cllm: disk at %s: %s" % (drivers.address_text(bdf), exc))
    for disk in disks:
        try:
            _look(disk)
        except (OSError, MemoryError) as exc:
            print("cllm: %s" % exc)
    _x86.boot_phase("disks")


def _look(disk):
    print(
        "cllm: %s: %d MiB%s%s"
        % (
            disk.name,
            disk.sectors * disk.sector // _MIB,
            ", read-only" if disk.readonly else "",
            ", " + disk.serial if disk.serial else "",
        )
    )
    try:
        parts, words = gpt.read(disk)
    except gpt.TableError as exc:
        if not _is_bare(disk):
            print("cllm: %s: no partition table: %s" % (disk.name, exc))
        return
    if words:
        print("cllm: %s: using the second partition table: %s" % (disk.name, words))
    for part in parts:
        if part.kind == types.MODEL:
            models.setdefault(part.name, part)
        elif part.kind == types.FLASH:
            _mount_flash(part)
        elif part.kind in (types.ESP, types.DATA):
            _mount_volume(part)


def _is_bare(disk):
    """Return whether the disk is used whole: a model, or a FAT volume."""
    sector = bytearray(disk.sector)
    disk.read(0, sector)
    part = Part(disk, 0, disk.sectors, _DEFAULT)
    if sector[:4] == b"GGUF":
        models.setdefault(_DEFAULT, part)
        return True
    return _mount_volume(part)


def _is_mounted(path):
    try:
        return bool(os.statvfs(path)) and path[1:] in os.listdir("/")
    except OSError:
        return False


def _mount_flash(part):
    global safe_mode
    if _is_mounted(FLASH):
        return
    crash = machine.last_crash()
    if crash and crash["boots"] == 1 and crash["streak"] >= _SAFE_AFTER:
        safe_mode = True
        print(
            "cllm: died %d times in a row: safe mode, without /flash; "
            "disks.mount_flash() mounts it" % crash["streak"]
        )
        _skipped.append(part)
        return
    mount_flash(part)


_skipped = []


def mount_flash(part=None):
    """Mount a partition at /flash, in safe mode the one that was skipped. An empty one gets a file
    system; one that holds anything else is left alone. OSError as the disk's.
    """
    part = part or _skipped[0]
    device = Part(part.disk, part.first, part.count, part.name, part.kind, types.FLASH_BLOCK)
    least = max(types.FLASH_PROG, part.disk.sector)
    options = {"readsize": least, "progsize": least}
    try:
        files = vfs.VfsLfs2(device, **options)
    except OSError as exc:
        if not _is_empty(device):
            print("cllm: %s: the file system of /flash is damaged: %s" % (part.disk.name, exc))
            return
        if part.disk.readonly:
            print("cllm: %s: /flash is empty and read-only" % part.disk.name)
            return
        vfs.VfsLfs2.mkfs(device, **options)
        device.ioctl(3, 0)
        files = vfs.VfsLfs2(device, **options)
        print("cllm: %s: made a file system for /flash" % part.disk.name)
    vfs.mount(files, FLASH, readonly=part.disk.readonly)


def _is_empty(device):
    # LittleFS has its root in the first two blocks.
    block = bytearray(device.block)
    for number in (0, 1):
        device.readblocks(number, block)
        if any(block):
            return False
    return True


def _mount_volume(part):
    """Mount a FAT volume with the right label at /disk; return whether it has that."""
    global volume
    sector = bytearray(part.disk.sector)
    part.readblocks(0, sector)
    # FAT 1.03, "BPB": the label of FAT32.
    if sector[82:90] != b"FAT32   " or bytes(sector[71:82]).rstrip() != types.VOLUME_NAME.encode():
        return False
    if not _is_mounted(VOLUME):
        try:
            vfs.mount(vfs.VfsFat(part), VOLUME, readonly=True)
            volume = part
        except OSError as exc:
            print("cllm: %s: volume %s: %s" % (part.disk.name, types.VOLUME_NAME, exc))
    return True


# --- Models -----------------------------------------------------------------------------------


def _files():
    """Return {name: bytes} of the models on the FAT volume."""
    try:
        return {
            entry[0]: entry[3]
            for entry in os.ilistdir(_MODELS[:-1])
            if entry[1] == 0x8000 and entry[0].endswith(".gguf")
        }
    except OSError:
        return {}


def _split(name):
    """Return (stem, number, count) of "stem-00001-of-00003.gguf", or None."""
    stem = name[: -len("-00001-of-00001.gguf")]
    tail = name[len(stem) :]
    if (
        stem
        and name.endswith(".gguf")
        and tail[0] == "-"
        and tail[6:10] == "-of-"
        and tail[1:6].isdigit()
        and tail[10:15].isdigit()
    ):
        return stem, int(tail[1:6]), int(tail[10:15])
    return None


def _parts_of(name, files):
    """Return the names of all files of a model. NoModel if one is missing."""
    split = _split(name)
    if not split:
        return [name]
    stem, _, count = split
    names = ["%s-%05d-of-%05d.gguf" % (stem, number + 1, count) for number in range(count)]
    for part in names:
        if part not in files and part not in models:
            raise NoModel("%s is missing, a part of %s" % (part, name))
    return names


def _choose(name, files):
    """Return the model to take for `name`: that one, or the only one where it is the default."""
    if name in models or name in files or name != _DEFAULT:
        return name
    known = sorted(set(models) | set(files))
    firsts = [other for other in known if not _split(other) or _split(other)[1] == 1]
    firsts = [other for other in firsts if not other.startswith("draft")]
    return firsts[0] if len(firsts) == 1 else name


async def find_model(path, progress):
    """Read the model at a path of /boot from a disk, unless it is there. Return its path, which is
    another where the only model on the disks stands in for the default one.

    progress(fraction): called meanwhile. NoModel: why it is not there and cannot be read.
    """
    if not path.startswith(_BOOT):
        return path
    name = path[len(_BOOT) :]
    present = [module[0] for module in _x86.modules()]
    if name in present:
        return path
    files = _files()
    name = _choose(name, files)
    if name not in models and name not in files:
        raise NoModel(_lack(path, files))
    names = [part for part in _parts_of(name, files) if part not in present]
    sizes = [models[part].size if part in models else files[part] for part in names]
    total = sum(sizes)
    free = _x86.memory()[1]
    if total + RESERVE > free:
        raise NoModel(
            "%s does not fit: it has %d MiB, %d MiB of memory are free, and %d MiB are for the "
            "rest" % (name, total // _MIB, free // _MIB, RESERVE // _MIB)
        )
    before = 0
    for part, size in zip(names, sizes):
        await _read(part, size, lambda done: progress((before + done) / total))
        before += size
    return _BOOT + name


def _lack(path, files):
    known = sorted(set(models) | set(files))
    if known:
        return "there is no file %s; the disks have %s" % (path, ", ".join(known))
    if disks:
        return "there is no file %s, and no model on the disks" % path
    return "there is no file %s, and no disk" % path


async def _read(name, size, progress):
    # Into memory of its own, which becomes a file of /boot once it is complete.
    try:
        memory = _x86.module(name, size)
    except OSError as exc:
        raise NoModel(
            "%s does not fit: it needs %d MiB in one piece, and the %d MiB that are free are in "
            "pieces, below and above 4 GiB: %s"
            % (name, size // _MIB, _x86.memory()[1] // _MIB, exc)
        )
    print("cllm: reading %s (%d MiB)" % (name, size // _MIB))
    complete = False
    try:
        part = models.get(name)
        if part:
            runs = [(part.first, size)]
        else:
            part = volume
            runs, there = fat.Volume(volume).runs("models/" + name)
            if there != size:
                raise OSError("%d bytes of %d" % (there, size))
        address = uctypes.addressof(memory)
        before = 0
        for first, length in runs:
            # The last sector of a file is read whole. It fits into the memory's last page.
            whole = -(-length // part.disk.sector) * part.disk.sector
            await part.disk.read_physical(
                first, address + before, whole, lambda done: progress(before + done)
            )
            before += length
        complete = True
    except OSError as exc:
        raise NoModel("cannot read %s: %s" % (name, exc))
    finally:
        if not complete:  # also when cancelled
            _x86.module_release(name)
    _x86.module_publish(name)
