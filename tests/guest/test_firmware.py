"""A machine that starts by firmware and GRUB: UEFI, which has no BIOS, and SeaBIOS."""

import re
import time

import pytest
import requests
from cllm import TOP, health, qemu
from cllm.build import IMAGE, UNPACKED
from support.firmware import FirmwareGuest, missing
from support.qemu_monitor import Monitor
from support.screen_text import Screenshot, font

PATIENCE = 240  # OVMF takes a while when it is emulated
WHITE, BLUE, BLACK, GREY = (255, 255, 255), (0, 0, 170), (0, 0, 0), (170, 170, 170)


@pytest.fixture
def start(adopt, tmp_path, tiny_model):
    """start(firmware, image, words, ...) -> a guest with the tiny model, ready."""

    def start(firmware, image, words, **options):
        if lacking := missing(firmware):
            pytest.skip(f"this machine lacks {lacking}: `host/bootstrap.py test` installs them")
        disk = tmp_path / "disk"
        disk.mkdir()
        (disk / "cllm.elf").write_bytes(image.read_bytes())
        (disk / "model.gguf").write_bytes(tiny_model.read_bytes())
        # GRUB puts a small file below 1 MiB, where cores begin.
        (disk / "padding").write_bytes(bytes(200_000))
        commands = (
            f"multiboot2 /cllm.elf {words}\n"
            "module2 /padding padding\nmodule2 /model.gguf x/y model.gguf\n"
        )
        guest = FirmwareGuest(disk, commands, firmware=firmware, port=qemu.free_port(), **options)
        adopt(guest)
        assert health.wait_until_decided(guest.port, guest.ended, PATIENCE) is None, guest.log()
        guest.serial.booted()
        return guest

    return start


def ask(guest):
    body = {"prompt": "a", "n_predict": 4}
    answer = requests.post(guest.url + "/completion", json=body, timeout=60)
    assert answer.status_code == 200 and answer.json()["tokens_predicted"] == 4


def irqs(guest):
    """The lines of the network card and the disk controllers."""
    said = guest.serial.run("import network; print('irq', network.host._card.irq)")
    return int(re.search(r"irq (\d+)", said).group(1))


def screen(monitor, path):
    monitor.command("screendump", filename=str(path))
    return Screenshot(path, font(TOP / "micropython" / "src"))


def test_uefi_has_all_cores_a_screen_messages_and_a_power_button(start, tmp_path):
    socket = tmp_path / "monitor"
    guest = start(
        "uefi", IMAGE.with_suffix(UNPACKED), "crash=exit", smp=2, nic="e1000e", qmp=socket
    )
    log = guest.log()
    assert b": multiboot2, UEFI, " in log
    assert b"smp: 2 of 2 cores" in log
    assert re.search(rb"console: a screen of \d+ x \d+ pixels at ", log)
    assert b"boot: module model.gguf, " in log
    ask(guest)
    # By message (kernel/include/machine.h, IRQ_MESSAGE), and configuration space in memory: an
    # extended capability lies behind what the ports reach.
    assert irqs(guest) >= 48
    find = (
        "import pci; print([hex(pci.read(d[0], 256, 2)) for d in pci.devices() if d[2] == 0x10D3])"
    )
    assert "['0x1']" in guest.serial.run(find)
    shown = [
        re.compile(line)
        for line in (
            r" cllm on .*",
            r" http://10\.0\.2\.15   up 0:0\d:\d\d$",
            r" model .*: ready   0 running, 0 waiting, \d+ steps$",
            r" memory \d+ of \d+ MiB free, Python \d+ KiB$",
        )
    ]
    with Monitor(socket) as monitor:
        until = time.monotonic() + 60
        rows = [""] * 4
        # It is drawn once a second, and may be looked at in the middle of that.
        while not all(map(re.match, shown, rows)) and time.monotonic() < until:
            shot = screen(monitor, tmp_path / "shot.ppm")
            rows = shot.rows()
        assert [bool(line.match(row)) for line, row in zip(shown, rows)] == [True] * 4, rows
        assert shot.cell(0, 1) == ("c", WHITE, BLUE)
        assert "['0x1']" in rows[4:], rows
        assert "\0" not in "".join(rows)
        assert shot.pixel(shot.width - 1, shot.height - 1) == BLACK
        monitor.command("system_powerdown")
    guest.serial.expect("cllm: off")
    assert guest.ended.wait(60)
    assert guest.status() == 0, guest.reason()


def test_a_bios_by_multiboot2_packed_without_screen_messages_and_ecam(start):
    guest = start("bios", IMAGE, "crash=exit irq=lines pci=ports", smp=2, nic="virtio")
    log = guest.log()
    assert b": multiboot2, QEMU" in log
    assert b"smp: 2 of 2 cores" in log
    assert b"console: no screen" in log
    ask(guest)
    assert irqs(guest) < 16
    find = "import pci; print(hex(pci.read(0, 256, 4)), hex(pci.read(0, 0, 2)))"
    assert "0xffffffff 0x8086" in guest.serial.run(find)
    guest.serial.sendline("import machine; machine.reset()")
    assert guest.ended.wait(60)
    assert guest.status() == 0, guest.reason()
