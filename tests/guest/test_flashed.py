"""Machines that boot from an image of `cllm image`: each firmware from each kind of disk.

What a user sees is looked at: an answer over HTTP with the settings of the volume CLLM, all cores,
and the status lines on the screen.
"""

import json
import os
import re
import shutil
import subprocess
import time

import pytest
import requests
from cllm import TOP, CllmError, bake, build, disk_image, gpt, grub, health, qemu
from support import tiny_model
from support.disk_machine import DiskMachine, ovmf
from support.qemu_monitor import Monitor
from support.screen_text import Screenshot, font

PATIENCE = 300  # GRUB and OVMF take a while when they are emulated
KERNEL = build.IMAGE.with_suffix(build.UNPACKED)
APP = """\
from cllm import app

@app.get("/where")
def where(request):
    import os
    return {"file": __file__, "flash": "flash" in os.listdir("/")}
"""
COLUMNS, STATUS = 80, 4


def machines():
    return [("bios", "pc", "virtio")] + [
        (firmware, "q35", controller)
        for firmware in ("bios", "uefi")
        for controller in ("virtio", "nvme", "ahci", "usb")
        if (firmware, controller) != ("bios", "virtio")
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    if not KERNEL.exists():
        pytest.fail(f"there is no {KERNEL}: run `make build`", pytrace=False)
    try:
        grub.ensure()
    except CllmError as error:
        pytest.skip(str(error))
    return tmp_path_factory.mktemp("images")


@pytest.fixture(scope="module")
def model(folder):
    path = folder / "small.gguf"
    tiny_model.make(path)
    return path


@pytest.fixture(scope="module")
def content(model):
    files = {
        "cllm.json": b'{"model": {"alias": "first"}}',
        "apps/app.py": APP.encode(),
        "models/small.gguf": model,
    }
    return disk_image.Content(KERNEL, files)


@pytest.fixture(scope="module")
def disk(folder, content):
    """An image whose files of the volume CLLM were edited after it was made."""
    path = folder / "out.img"
    disk_image.make(path, content, room=1, state=1)
    edited = folder / "cllm.json"
    edited.write_text(json.dumps({"model": {"alias": "edited", "n_ctx": 256}}))
    edit(path, edited, "::cllm.json")
    return path


@pytest.fixture(scope="module")
def cd(folder, content):
    path = folder / "out.iso"
    disk_image.make(path, content)
    return path


def edit(image, file, place):
    """Replace a file of the volume CLLM, as a laptop would."""
    with open(image, "rb") as raw:
        volume = gpt.read(raw, os.path.getsize(image) // gpt.SECTOR).partitions[0]
    packages = grub.ensure()
    command = [packages.program("mcopy"), "-o", "-i", f"{image}@@{volume.offset}", file, place]
    subprocess.run(command, env=packages.environment(), check=True)


@pytest.fixture
def boot_from(adopt):
    """boot_from(IMAGE, firmware=..., ...) -> a machine that is ready."""

    def boot_from(image, **options):
        if options.get("firmware") == "uefi":
            try:
                ovmf()
            except CllmError as error:
                pytest.skip(str(error))
        options = {"smp": 2, "memory": 384, "port": qemu.free_port(), **options}
        machine = adopt(DiskMachine(image, **options))
        verdict = health.wait_until_decided(machine.port, machine.ended, PATIENCE)
        assert verdict is None, machine.log()[-3000:].decode("utf-8", "replace")
        return machine

    return boot_from


def answers(machine, alias):
    """Check that the machine serves the model under that name, and where its handlers are."""
    listed = requests.get(machine.url + "/v1/models", timeout=60).json()
    assert listed["data"][0]["id"] == alias
    body = {"prompt": "Hello", "max_tokens": 4, "temperature": 0}
    answer = requests.post(machine.url + "/v1/completions", json=body, timeout=60)
    assert answer.status_code == 200 and answer.json()["usage"]["completion_tokens"] == 4
    return requests.get(machine.url + "/where", timeout=60).json()


# --- The screen -------------------------------------------------------------------------------


def status_lines():
    return [
        re.compile(line)
        for line in (
            r"cllm on \S.*",
            r"http://10\.0\.2\.15   up \d:\d\d:\d\d$",
            r"model edited: ready   \d+ running, \d+ waiting, \d+ steps$",
            r"memory \d+ of \d+ MiB free, Python \d+ KiB$",
        )
    ]


def text_of_vga(monitor, shot, memory):
    """Return the lines of VGA's text memory, once each letter on the picture has one shape.

    VGA's letters come from the firmware's font, which is not at hand here: that the same letter
    looks the same, and two letters do not, shows that the picture has the text.
    """
    monitor.command("pmemsave", val=0xB8000, size=COLUMNS * 25 * 2, filename=str(memory))
    monitor.command("screendump", filename=str(shot))
    picture = Screenshot(shot, {})
    letters = memory.read_bytes()[::2]
    shapes = {}
    for row in range(STATUS):
        for column in range(COLUMNS):
            cell = [
                picture.pixel(column * 9 + x, row * 16 + y) for y in range(16) for x in range(8)
            ]
            ground = cell[0]
            shape = tuple(pixel != ground for pixel in cell)
            shapes.setdefault(letters[row * COLUMNS + column], set()).add(shape)
    shapes = {letter: drawn for letter, drawn in shapes.items() if letter != ord(" ")}
    if not all(len(drawn) == 1 for drawn in shapes.values()):
        return []  # drawn anew between the two looks
    assert len(set(map(tuple, shapes.values()))) == len(shapes) and len(shapes) > 20
    return [letters[at : at + COLUMNS].decode("cp437") for at in range(0, 2000, COLUMNS)]


def shows_status(monitor, folder):
    """Wait until the four status lines are on the screen, a framebuffer or VGA's 720 x 400."""
    wanted = status_lines()
    letters = font(TOP / "micropython" / "src")
    until = time.monotonic() + 60
    while True:
        monitor.command("screendump", filename=str(folder / "shot.ppm"))
        picture = Screenshot(folder / "shot.ppm", letters)
        if (picture.width, picture.height) != (720, 400):
            rows = picture.rows()
        else:
            rows = text_of_vga(monitor, folder / "shot.ppm", folder / "text")
        rows = [row.strip() for row in rows[:STATUS]]
        if len(rows) == STATUS and all(map(re.Pattern.match, wanted, rows)):
            return
        assert time.monotonic() < until, rows
        time.sleep(0.3)


# --- Machines ---------------------------------------------------------------------------------


@pytest.mark.parametrize("firmware, board, controller", machines())
def test_it_boots_with_the_user_s_settings(boot_from, disk, tmp_path, firmware, board, controller):
    machine = boot_from(
        disk, firmware=firmware, board=board, controller=controller, qmp=tmp_path / "monitor"
    )
    log = machine.log()
    assert b": multiboot2, " in log and (b", UEFI, " in log) == (firmware == "uefi")
    assert b"smp: 2 of 2 cores" in log
    where = answers(machine, "edited")
    # GRUB's copy stands for the file. The machine has drivers for all but the stick.
    assert where == {"file": "/boot/app.py", "flash": controller != "usb"}
    with Monitor(tmp_path / "monitor") as monitor:
        shows_status(monitor, tmp_path)


@pytest.mark.parametrize("firmware", ["bios", "uefi"])
def test_a_cd_boots(boot_from, cd, firmware):
    machine = boot_from(cd, firmware=firmware, controller="cd")
    assert answers(machine, "first") == {"file": "/boot/app.py", "flash": False}


def test_a_model_in_a_partition_is_read_by_the_machine(boot_from, folder, model):
    raw = folder / "raw.img"
    content = disk_image.Content(KERNEL, {"apps/app.py": APP.encode()}, {"big.gguf": model})
    disk_image.make(raw, content, room=1, state=1)
    machine = boot_from(raw, controller="nvme")
    answers(machine, "big")
    assert b"cllm: reading big.gguf" in machine.log()


def test_a_mistake_in_the_settings_is_named(boot_from, folder, disk):
    broken = folder / "broken.img"
    shutil.copy(disk, broken)
    (folder / "broken.json").write_text('{"keys": 5}')
    edit(broken, folder / "broken.json", "::cllm.json")
    machine = DiskMachine(broken, port=qemu.free_port(), memory=384, controller="usb")
    machine.start()
    try:
        verdict = health.wait_until_decided(machine.port, machine.ended, PATIENCE)
        assert "keys" in verdict, machine.log()[-2000:]
    finally:
        machine.stop()


def test_a_model_inside_the_kernel_needs_no_disk(adopt, folder, model):
    kernel = bake.ensure(KERNEL, model, folder / "baked.elf")
    machine = adopt(qemu.Guest(kernel, port=qemu.free_port(), smp=2, memory=256))
    verdict = health.wait_until_decided(machine.port, machine.ended, PATIENCE)
    assert verdict is None, machine.log()[-3000:]
    assert re.search(rb"boot: module model\.gguf, \d+ KiB at [0-9a-f]+000\r", machine.log())
    body = {"prompt": "Hello", "max_tokens": 4, "temperature": 0}
    answer = requests.post(machine.url + "/v1/completions", json=body, timeout=60)
    assert answer.status_code == 200 and answer.json()["usage"]["completion_tokens"] == 4
