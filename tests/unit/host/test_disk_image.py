"""`cllm image`: the partition table, GRUB's places, the volume, other formats, a baked model.

What is made is read by other programs: sgdisk, mtools, qemu-img, xorriso, pyelftools.
"""

import json
import os
import random
import struct
import subprocess
import uuid
from pathlib import Path

import pytest
from cllm import CllmError, bake, build, cli, debs, disk_image, gpt, grub
from elftools.elf.elffile import ELFFile
from support import tiny_model

SECTOR = gpt.SECTOR
MIB = 1 << 20


def has_multiboot2(kernel):
    kernel.write_bytes(bytes(64) + struct.pack("<4I", 0xE85250D6, 0, 16, 0x17ADAF1A) + bytes(64))


@pytest.fixture
def grub_packages():
    try:
        return grub.ensure()
    except CllmError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def tools():
    """Programs that read what `cllm image` makes."""
    try:
        return debs.ensure(
            ("gdisk", "qemu-utils", "xorriso"), "the tests", ("sgdisk", "qemu-img", "xorriso")
        )
    except CllmError as error:
        pytest.skip(str(error))


def output_of(packages, *command):
    words = [packages.program(command[0]), *map(str, command[1:])]
    ended = subprocess.run(words, env=packages.environment(), capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout + ended.stderr


@pytest.fixture
def kernel(tmp_path):
    """A file in place of a kernel that can be compressed by half."""
    path = tmp_path / "kernel.elf"
    path.write_bytes(random.Random(1).randbytes(1 << 20) + bytes(1 << 20))
    return path


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "tiny.gguf"
    tiny_model.make(path)
    return path


# --- The table --------------------------------------------------------------------------------

PARTS = [
    gpt.Partition("CLLM", gpt.BASIC_DATA, 4096, 8192),
    gpt.Partition("bios", gpt.BIOS_BOOT, 34, 2014),
    gpt.Partition("Grüße.gguf", gpt.CLLM_FILE, 2048, 2048),
]


def disk_with(path, partitions=PARTS, sectors=20480, code=b""):
    head, tail = gpt.build(partitions, sectors, uuid.UUID(int=7), code)
    with open(path, "wb") as file:
        file.write(head)
        file.truncate(sectors * SECTOR)
        file.seek(sectors * SECTOR - len(tail))
        file.write(tail)
    return sectors


def test_a_table_is_read_as_it_was_written(tmp_path):
    sectors = disk_with(tmp_path / "disk")
    with open(tmp_path / "disk", "rb") as file:
        assert gpt.read(file, sectors) == gpt.Table(uuid.UUID(int=7), PARTS, False)


def test_another_program_finds_no_fault_with_the_table(tmp_path, tools):
    disk_with(tmp_path / "disk")
    said = output_of(tools, "sgdisk", "-v", "-p", tmp_path / "disk")
    assert "No problems found" in said
    for part in PARTS:
        assert f"{part.first:>16}  {part.first + part.count - 1:>14}" in said
        assert part.name in said


@pytest.mark.parametrize("at", [SECTOR, SECTOR + 16, SECTOR + 72, 2 * SECTOR + 40])
def test_the_second_table_stands_in_for_a_damaged_one(tmp_path, at):
    sectors = disk_with(tmp_path / "disk")
    with open(tmp_path / "disk", "r+b") as file:
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 1]))
    with open(tmp_path / "disk", "rb") as file:
        assert gpt.read(file, sectors) == gpt.Table(uuid.UUID(int=7), PARTS, True)


def test_a_disk_without_a_table_has_none(tmp_path):
    (tmp_path / "disk").write_bytes(bytes(20480 * SECTOR))
    with open(tmp_path / "disk", "rb") as file, pytest.raises(CllmError, match="no GUID"):
        gpt.read(file, 20480)


@pytest.mark.parametrize(
    "part, why",
    [
        (gpt.Partition("late", gpt.ESP, 20480 - 33, 1), "late: no room"),
        (gpt.Partition("early", gpt.ESP, 33, 1), "early: no room"),
        (gpt.Partition("over", gpt.ESP, 4000, 200), "no room"),
        (gpt.Partition("empty", gpt.ESP, 16384, 0), "empty: no room"),
        (gpt.Partition("n" * 37, gpt.ESP, 16384, 1), "at most 36 characters"),
    ],
)
def test_partitions_that_cannot_be_are_refused(part, why):
    with pytest.raises(CllmError, match=why):
        gpt.build([*PARTS, part], 20480, uuid.uuid4())


# --- GRUB -------------------------------------------------------------------------------------


def test_the_bios_code_names_where_the_core_image_is(grub_packages):
    core = grub.program(grub_packages, "i386-pc", "(,gpt2)/boot/grub")
    code, padded = grub.bios_code(grub_packages, core, 34)
    assert len(code) == 440 and len(padded) % SECTOR == 0 and len(padded) - len(core) < SECTOR
    assert struct.unpack_from("<QB", code, 0x5C) == (34, 0xFF)
    assert struct.unpack_from("<QHH", padded, 500) == (35, len(padded) // SECTOR - 1, 0x820)
    assert padded[SECTOR : len(core)] == core[SECTOR:]


def test_the_menu_takes_multiboot2_where_the_kernel_has_it(tmp_path):
    kernel = tmp_path / "kernel"
    kernel.write_bytes(bytes(1000))
    assert b'    multiboot "($root)' in grub.menu(kernel) and b" module2 " not in grub.menu(kernel)
    has_multiboot2(kernel)
    assert b'    multiboot2 "($root)' in grub.menu(kernel) and b" module2 " in grub.menu(kernel)


# --- The disk ---------------------------------------------------------------------------------


def listing(image, part, path=""):
    """The names in a folder of a FAT volume, by mtools."""
    packages = grub.ensure()
    said = output_of(packages, "mdir", "-b", "-i", f"{image}@@{part.offset}", f"::{path}")
    return {line.removeprefix("::/").rstrip("/") for line in said.split()}


def content(image, part, path):
    packages = grub.ensure()
    command = [packages.program("mtype"), "-i", f"{image}@@{part.offset}", f"::{path}"]
    return subprocess.run(command, env=packages.environment(), capture_output=True).stdout


def table_of(image):
    with open(image, "rb") as file:
        return gpt.read(file, os.path.getsize(image) // SECTOR)


def test_the_disk_has_all_its_parts(tmp_path, kernel, model, tools):
    image = tmp_path / "out.img"
    big = tmp_path / "big.gguf"
    with open(big, "wb") as file:
        file.write(b"GGUF")
        file.truncate(3 << 30)
    files = {"cllm.json": b"{}\n", "apps/app.py": b"print(1)\n", "models/tiny.gguf": model}
    made = disk_image.Content(kernel, files, {"big.gguf": big})
    lines = disk_image.make(image, made, room=8, state=4)
    assert any("big.gguf" in line and "3072.0" in line for line in lines)
    assert "No problems found" in output_of(tools, "sgdisk", "-v", image)
    volume, esp, bios, flash, raw = table_of(image).partitions
    assert [volume.kind, esp.kind, bios.kind] == [gpt.BASIC_DATA, gpt.ESP, gpt.BIOS_BOOT]
    assert [flash.kind, raw.kind] == [gpt.CLLM_FLASH, gpt.CLLM_FILE]
    assert (flash.name, flash.size, raw.name) == ("flash", 4 * MIB, "big.gguf")
    assert all(part.offset % MIB == 0 for part in (volume, esp, flash, raw))
    assert listing(image, volume) == {"README.txt", "cllm.json", "apps", "models"}
    assert content(image, volume, "models/tiny.gguf") == model.read_bytes()
    assert content(image, volume, "apps/app.py") == b"print(1)\n"
    assert listing(image, esp) == {"EFI", "boot", "cllm.elf.gz"}
    assert content(image, esp, "EFI/BOOT/BOOTX64.EFI")[:2] == b"MZ"
    with open(image, "rb") as file:
        assert file.read(440)[:2] == b"\xeb\x63"  # GRUB's boot.img jumps over the BPB
        file.seek(volume.offset)
        start = file.read(512)
        assert start[82:90] == b"FAT32   " and start[71:82] == b"CLLM       "
        file.seek(raw.offset)
        assert file.read(4) == b"GGUF"
    assert image.stat().st_blocks * 512 < 64 * MIB  # holes stay holes


@pytest.mark.parametrize("size", [272 * MIB, 520 * MIB, 3 << 30, 40 << 30])
def test_fat32_has_as_large_clusters_as_it_can(size):
    cluster = disk_image.cluster_size(size, disk_image.FAT32_CLUSTERS)
    assert cluster >= 4096 and size // cluster > 65_525
    assert cluster == 32768 or size // (2 * cluster) < 66_000


def test_a_failure_leaves_no_half_an_image(tmp_path, kernel, grub_packages):
    image = tmp_path / "out.img"
    with pytest.raises(CllmError, match="mcopy failed"):
        disk_image.make(image, disk_image.Content(kernel, {"models/a?:b.gguf/": b"x"}))
    assert [path.name for path in tmp_path.iterdir()] == ["kernel.elf"]


@pytest.mark.parametrize("form", ["qcow2", "vmdk", "vhdx"])
def test_other_formats_hold_the_same_disk(tmp_path, kernel, tools, form):
    image = tmp_path / f"out.{form}"
    disk_image.make(image, disk_image.Content(kernel, {"cllm.json": b"{}"}), room=1, state=1)
    output_of(tools, "qemu-img", "convert", "-O", "raw", image, tmp_path / "raw")
    assert [part.name for part in table_of(tmp_path / "raw").partitions][0] == "CLLM"


def test_an_iso_has_a_start_for_both_firmwares(tmp_path, kernel, tools, grub_packages):
    image = tmp_path / "out.iso"
    disk_image.make(image, disk_image.Content(kernel, {"cllm.json": b"{}", "apps/a.py": b"1"}))
    said = output_of(tools, "xorriso", "-indev", image, "-report_el_torito", "plain", "-find", "/")
    assert "BIOS" in said and "UEFI" in said
    assert "'/apps/a.py'" in said and "'/cllm.elf.gz'" in said
    big = disk_image.Content(kernel, {}, {"big.gguf": kernel})
    with pytest.raises(CllmError, match=r"big\.gguf: an ISO has no partitions"):
        disk_image.make(image, big)


def test_the_suffix_chooses_the_format(tmp_path):
    assert disk_image.check_format(Path("a.IMG")) == "raw"
    with pytest.raises(CllmError, match=r"ends with one of \.img"):
        disk_image.check_format(Path("a.zip"))


# --- The command ------------------------------------------------------------------------------


def run_image(*arguments):
    return cli.main(["image", *map(str, arguments)])


@pytest.fixture
def real_kernel():
    if not build.IMAGE.with_suffix(build.UNPACKED).exists():
        pytest.skip("no image is built")


def test_the_command_puts_files_where_the_machine_looks(
    tmp_path, model, grub_packages, real_kernel, capfd
):
    config, app = tmp_path / "c.json", tmp_path / "handlers.py"
    config.write_text('{"n_ctx": 512, "keys": ["k"], "network": {"hostname": "box"}}')
    app.write_text("x = 1\n")
    image = tmp_path / "out.img"
    flags = ("--model", model, "--config", config, "--app", app, "--room", 1)
    assert run_image(*flags, "-o", image) == 0
    out, err = capfd.readouterr()
    assert out == f"{image}\n"
    assert f"cllm flash /dev/sdX -i {image}" in err and "MiB of memory" in err
    volume = table_of(image).partitions[0]
    assert json.loads(content(image, volume, "cllm.json")) == {
        "model": {"n_ctx": 512},
        "keys": ["k"],
        "network": {"hostname": "box"},
    }
    assert content(image, volume, "apps/app.py") == b"x = 1\n"
    assert listing(image, volume, "models") == {"models/tiny.gguf"}


@pytest.mark.parametrize(
    "flags, why",
    [
        (["--model", "missing.gguf"], "no model file missing.gguf"),
        (["-o", "out.zip"], "ends with one of"),
        (["--bake", "missing.gguf"], "no model file missing.gguf"),
    ],
)
def test_mistakes_are_named(tmp_path, monkeypatch, capsys, real_kernel, flags, why):
    monkeypatch.chdir(tmp_path)
    assert run_image(*flags) == 1
    assert why in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


# --- A model inside ---------------------------------------------------------------------------


def test_every_header_covers_a_baked_model(tmp_path, model, real_kernel):
    kernel = build.IMAGE.with_suffix(build.UNPACKED)
    made = bake.ensure(kernel, model, tmp_path / "baked.elf")
    data, size = made.read_bytes(), model.stat().st_size
    record = data.index(bake.MARK)
    _, address, length = bake.RECORD.unpack_from(data, record)
    at = data.index(struct.pack("<II", 0x1BADB002, 1 << 16 | 3))
    own, load, load_end, bss_end, entry = struct.unpack_from("<5I", data, at + 12)
    assert length == size and address % 4096 == 0 and address >= load
    assert own - load == at and load_end == bss_end == address + size
    assert data[address - load :] == model.read_bytes()
    with open(made, "rb") as file:
        (segment,) = ELFFile(file).iter_segments("PT_LOAD")
        assert segment["p_paddr"] == load and segment["p_offset"] == 0
        assert segment["p_filesz"] == segment["p_memsz"] == len(data)
    with open(kernel, "rb") as file:
        (before,) = ELFFile(file).iter_segments("PT_LOAD")
        assert address >= before["p_paddr"] + before["p_memsz"]


def test_what_takes_no_model_is_refused(tmp_path, model, real_kernel):
    baked = bake.ensure(build.IMAGE.with_suffix(build.UNPACKED), model, tmp_path / "baked.elf")
    with pytest.raises(CllmError, match="has a model inside already"):
        bake.ensure(baked, model, tmp_path / "twice.elf")
    (tmp_path / "other").write_bytes(bytes(1000))
    with pytest.raises(CllmError, match="takes no model inside"):
        bake.ensure(tmp_path / "other", model, tmp_path / "new.elf")
    with open(tmp_path / "large.gguf", "wb") as file:
        file.truncate(bake.LARGEST + 1)
    with pytest.raises(CllmError, match="1024 MiB, and a model inside the kernel at most 1024"):
        bake.ensure(baked, tmp_path / "large.gguf", tmp_path / "new.elf")
    assert not (tmp_path / "new.elf").exists()
