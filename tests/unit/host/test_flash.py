"""`cllm flash`: what it refuses, what it asks, what ends up on the disk. The disks are files."""

import os
import uuid

import pytest
from cllm import CllmError, cli, flash, gpt

MIB = 1 << 20
SECTORS = 20480  # of the image: 10 MiB


@pytest.fixture
def image(tmp_path):
    """A disk image with a partition to boot from."""
    path = tmp_path / "out.img"
    part = gpt.Partition("cllm boot", gpt.ESP, 2048, 4096)
    head, tail = gpt.build([part], SECTORS, uuid.UUID(int=7), b"code")
    with open(path, "wb") as file:
        file.truncate(SECTORS * gpt.SECTOR)
        file.write(head)
        file.seek(part.offset)
        file.write(os.urandom(3 * MIB // 2))
        file.seek(SECTORS * gpt.SECTOR - len(tail))
        file.write(tail)
    return path


@pytest.fixture
def disk(tmp_path):
    """A file in place of a disk, full of something else."""
    path = tmp_path / "disk"
    path.write_bytes(b"\xa5" * (16 * MIB))
    return path


def test_the_disk_then_holds_the_image_and_a_table_at_its_end(image, disk):
    flash.flash(str(disk), str(image), yes=True)
    new, old = disk.read_bytes(), image.read_bytes()
    assert len(new) == 16 * MIB
    start, end = gpt.FIRST * gpt.SECTOR, len(old) - gpt.LAST * gpt.SECTOR
    assert new[start:end] == old[start:end]
    assert new[len(old) : -gpt.LAST * gpt.SECTOR].strip(b"\xa5") == b""
    assert new[:4] == b"code"
    with open(disk, "rb") as file:
        table = gpt.read(file, len(new) // gpt.SECTOR)
        assert not table.backup and [part.name for part in table.partitions] == ["cllm boot"]
    with open(disk, "r+b") as file:
        file.write(bytes(gpt.FIRST * gpt.SECTOR))
        assert gpt.read(file, len(new) // gpt.SECTOR).backup


def test_a_disk_of_the_image_s_size_gets_exactly_the_image(image, disk):
    os.truncate(disk, SECTORS * gpt.SECTOR)
    flash.flash(str(disk), str(image), yes=True)
    assert disk.read_bytes() == image.read_bytes()


def test_it_asks_for_the_disk_s_name(image, disk):
    asked = []

    def answer(text):
        return lambda question: asked.append(question) or text

    before = disk.read_bytes()
    for text in ("", "y", "yes", "disk2"):
        with pytest.raises(CllmError, match="stays as it is"):
            flash.flash(str(disk), str(image), ask=answer(text))
    assert disk.read_bytes() == before and "(disk)" in asked[0]
    flash.flash(str(disk), str(image), ask=answer("disk"))
    assert disk.read_bytes() != before


def test_without_a_terminal_it_wants_yes(image, disk, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", open(os.devnull))
    assert cli.main(["flash", str(disk), "-i", str(image)]) == 1
    assert "--yes" in capsys.readouterr().err
    assert cli.main(["flash", str(disk), "-i", str(image), "--yes"]) == 0
    shown = capsys.readouterr().err
    assert f"{disk}: a file of 16 MiB" in shown and "will be overwritten" in shown
    assert "read back: done" in shown


def test_too_small_a_disk_and_no_image_are_refused(image, disk, tmp_path):
    os.truncate(disk, 5 * MIB)
    with pytest.raises(CllmError, match="has 5 MiB, and .* takes 10"):
        flash.flash(str(disk), str(image), yes=True)
    for content in (b"", bytes(MIB)):
        (tmp_path / "no.img").write_bytes(content)
        with pytest.raises(CllmError, match="is no disk image"):
            flash.flash(str(disk), str(tmp_path / "no.img"), yes=True)
    with pytest.raises(CllmError, match="No such file"):
        flash.flash(str(tmp_path / "absent"), str(image), yes=True)
    with pytest.raises(CllmError, match="is no disk"):
        flash.flash(os.devnull, str(image), yes=True)


def test_a_disk_that_forgets_is_found_out(image, disk, monkeypatch):
    real = os.pwrite
    lost = 5 * MIB

    def pwrite(descriptor, data, at):
        data = bytes(data)
        if at <= lost < at + len(data):
            data = data[: lost - at] + b"?" + data[lost - at + 1 :]
        return real(descriptor, data, at)

    monkeypatch.setattr(os, "pwrite", pwrite)
    with pytest.raises(CllmError, match="written at 4 MiB does not come back"):
        flash.flash(str(disk), str(image), yes=True)


def test_an_interrupted_write_leaves_no_table(image, disk, monkeypatch):
    disk.write_bytes(image.read_bytes().ljust(16 * MIB, b"\0"))
    real = os.pwrite

    def pwrite(descriptor, data, at):
        if at >= 4 * MIB:
            raise OSError(5, "Input/output error")
        return real(descriptor, data, at)

    monkeypatch.setattr(os, "pwrite", pwrite)
    with pytest.raises(CllmError, match="Input/output error; it is half written"):
        flash.flash(str(disk), str(image), yes=True)
    assert disk.read_bytes()[: gpt.FIRST * gpt.SECTOR].strip(b"\0") == b""


# --- What the kernel says of disks ------------------------------------------------------------


class Kernel:
    """/sys and /proc with one disk of two partitions."""

    def __init__(self, folder):
        self.node = folder / "sys" / "sdb"
        self.proc = folder / "proc"
        files = {
            "sys/sdb/size": "31116288",
            "sys/sdb/dev": "8:16",
            "sys/sdb/removable": "1",
            "sys/sdb/ro": "0",
            "sys/sdb/queue/logical_block_size": "512",
            "sys/sdb/device/vendor": "SanDisk ",
            "sys/sdb/device/model": "Ultra Fit",
            "proc/swaps": "Filename\t\tType\nfile\n",
        }
        for number, label in ((1, "photos"), (2, "more")):
            part = f"sys/sdb/sdb{number}"
            files |= {f"{part}/partition": str(number), f"{part}/size": "2048000"}
            files |= {f"{part}/dev": f"8:{16 + number}", f"{part}/uevent": f"PARTNAME={label}"}
        for name, text in files.items():
            self.write(folder / name, text)
        self.mounts("22 1 8:2 / / rw - ext4 /dev/sda2 rw")

    def write(self, path, text):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")

    def mounts(self, *lines):
        self.write(self.proc / "self" / "mountinfo", "\n".join(lines))

    def look(self, node=None):
        node = node or self.node
        return flash.look_at(flash.Path("/dev") / node.name, node, self.proc)


@pytest.fixture
def kernel(tmp_path):
    return Kernel(tmp_path)


def test_a_free_disk_is_described(kernel):
    target = kernel.look()
    assert target.uses == [] and target.size == 31116288 * 512
    assert target.about[0] == "/dev/sdb: SanDisk Ultra Fit, 15.9 GB, removable"
    assert target.about[1].split() == ["sdb1", "1.0", "GB", "photos"]


@pytest.mark.parametrize(
    "line, why",
    [
        ("30 1 8:16 / /mnt rw - vfat /dev/sdb rw", "sdb is mounted at /mnt"),
        ("30 1 8:18 / /media/my\\040photos rw shared:1 - vfat x rw", "at /media/my photos"),
        ("30 1 0:44 / / rw - btrfs /dev/sdb1 rw", "sdb1 is mounted at /"),
    ],
)
def test_a_mounted_disk_is_refused(kernel, line, why):
    kernel.mounts(line)
    (reason,) = kernel.look().uses
    assert why in reason


def test_other_uses_are_refused(kernel):
    holders = kernel.node / "sdb2" / "holders"
    holders.mkdir()
    (holders / "dm-0").mkdir()
    assert kernel.look().uses == ["sdb2 belongs to dm-0"]
    kernel.write(kernel.proc / "swaps", "Filename\tType\n/dev/sdb1\tpartition")
    assert kernel.look().uses == ["sdb1 is swap space", "sdb2 belongs to dm-0"]


@pytest.mark.parametrize(
    "name, value, why",
    [
        ("ro", "1", "it is read-only"),
        ("size", "0", "it has no medium"),
        ("queue/logical_block_size", "4096", "its sectors have 4096 bytes"),
    ],
)
def test_disks_that_cannot_be_written_are_refused(kernel, name, value, why):
    kernel.write(kernel.node / name, value)
    (reason,) = kernel.look().uses
    assert why in reason


def test_a_partition_is_no_disk(kernel):
    with pytest.raises(CllmError, match=r"name the whole disk, /dev/sdb$"):
        kernel.look(kernel.node / "sdb1")
