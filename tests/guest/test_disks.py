"""Disks: models from three controllers and from FAT, /flash, and what goes wrong with them."""

import functools
import json
import re

import gguf
import pytest
import requests
from cllm.disks import Disk
from support import disk_images, killing, on_cpython  # noqa: F401, the last for fat_images
from support import tiny_model as tiny

from fat_images import Volume  # isort: skip

TIMEOUT = 120
PROMPT = {"prompt": "abc", "n_predict": 12, "temperature": 0, "return_tokens": True}


def tokens(guest):
    answer = requests.post(guest.url + "/completion", json=PROMPT, timeout=TIMEOUT)
    assert answer.status_code == 200
    return answer.json()["tokens"]


def prompt(guest):
    guest.serial.send("\r")
    guest.serial.expect(">>> ")
    return guest.serial


# Counts in what is laid over the configuration, and in a handler that comes from /flash.
APP = "from cllm import app\n@app.get('/kept')\ndef kept(request):\n    return 'of flash'\n"


@pytest.mark.parametrize("kind", ["virtio", "nvme", "ahci"])
def test_a_model_and_flash(boot, guest, tiny_model, tmp_path, kind):
    wanted = tokens(guest)
    image = tmp_path / "disk.img"
    damage = "first" if kind == "virtio" else None
    parts = [("MODEL", "other.gguf", tiny_model), ("FLASH", "flash", 1 << 20)]
    disk_images.make(image, parts, damage)
    machine = boot(disk=[Disk(image, kind)], on_crash="reboot")
    assert machine.verdict is None and tokens(machine) == wanted
    log = machine.log().decode()
    assert ("second partition table: wrong CRC of the header" in log) == (kind == "virtio")
    assert "made a file system for /flash" in log and "disks" in log
    model = requests.get(machine.url + "/v1/models", timeout=TIMEOUT).json()["data"][0]
    assert model["id"] == "other"
    repl = prompt(machine)
    repl.run("import os")
    assert "'/boot/other.gguf'" not in repl.run("os.listdir('/flash')")
    repl.run("f = open('/flash/app.py', 'w'); f.write(%r); f.close()" % APP)
    settings = json.dumps({"model": {"alias": "flashed"}, "network": {"hostname": "kept"}})
    repl.run("f = open('/flash/config.json', 'w'); f.write(%r); f.close()" % settings)
    repl.run("f = open('/flash/boot.py', 'w'); f.write('print(6 * 7, \"boots\")'); f.close()")
    # A soft reset has the model still, a reset reads it again.
    repl.send("\x04")
    repl.expect("MPY: soft reboot")
    repl.expect("42 boots")
    repl.expect("is ready")
    assert "reading" not in repl.before.decode()
    prompt(machine).sendline("import machine; machine.reset()")
    repl.expect("42 boots")
    repl.expect("reading other.gguf")
    repl.expect("is ready")
    assert requests.get(machine.url + "/kept", timeout=TIMEOUT).text == "of flash"
    model = requests.get(machine.url + "/v1/models", timeout=TIMEOUT).json()["data"][0]
    assert model["id"] == "flashed" and tokens(machine) == wanted
    if kind == "virtio":
        machine.stop()
        again = boot(disk=[Disk(image, "virtio", readonly=True)], wait=False)
        again.serial.booted()
        assert "OSError: 30" in again.serial.run("open('/flash/x', 'w')")
        assert "boots" in again.log().decode()


@pytest.mark.parametrize(
    "kind, words",
    [
        ("virtio", "input or output error"),
        ("nvme", "media error 81h"),
        ("ahci", r"failed|aborted|uncorrectable"),
    ],
)
def test_a_read_error_is_a_503_with_its_cause(boot, tiny_model, tmp_path, kind, words):
    image, rules = tmp_path / "disk.img", tmp_path / "rules"
    first = disk_images.make(image, [("MODEL", "model.gguf", tiny_model)])["model.gguf"]
    rules.write_text(
        f'[inject-error]\nevent = "read_aio"\nerrno = "5"\nsector = "{first + 100}"\nonce = "off"\n'
    )
    machine = boot(disk=[Disk(f"blkdebug:{rules}:{image}", kind)])
    assert re.search(words, machine.verdict) and f"{kind}0: read at sector" in machine.verdict
    answer = requests.post(machine.url + "/completion", json=PROMPT, timeout=TIMEOUT)
    assert answer.status_code == 503 and machine.verdict in answer.json()["error"]["message"]
    # The disk goes on, and so does the machine.
    repl = prompt(machine)
    repl.run("import disks; d = disks.disks[0]; b = bytearray(512)")
    assert repl.run(f"d.read({first}, b); b[:4]") == "bytearray(b'GGUF')"
    assert repl.run("d.dead, len(d._free) == d.depth") == "(None, True)"


def test_files_of_the_fat_volume(boot, guest, tmp_path, monkeypatch):
    wanted = tokens(guest)
    with monkeypatch.context() as patched:
        splitting = functools.partial(gguf.GGUFWriter, split_max_tensors=8)
        patched.setattr(gguf, "GGUFWriter", splitting)
        tiny.make(tmp_path / "split.gguf")
    first, second, *rest = sorted(tmp_path.glob("split-*-of-*.gguf"))
    config = {"model": {"file": first.name, "alias": "of fat"}}
    app = b"from cllm import app\n@app.get('/of/fat')\ndef f(request):\n    return 'of fat'\n"
    files = {
        "cllm.json": (json.dumps(config).encode(), 0),
        "apps/one.py": (app, 0),
        "models/a.gguf": (b"another", 0),
    }
    # One part of the model is a partition, and the others have holes between their clusters.
    for part in (first, *rest):
        files[f"models/{part.name}"] = (part.read_bytes(), 50)
    volume = Volume(files, cluster=4)
    image = tmp_path / "disk.img"
    parts = [("DATA", "CLLM", volume.size), ("MODEL", second.name, second)]
    places = disk_images.make(image, parts)
    with open(image, "r+b") as file:
        volume.write(file, places["CLLM"] * 512)
    machine = boot(disk=[Disk(image, "nvme")])
    assert machine.verdict is None and tokens(machine) == wanted
    assert requests.get(machine.url + "/of/fat", timeout=TIMEOUT).text == "of fat"
    repl = prompt(machine)
    assert repl.run("import os; sorted(os.listdir('/disk'))") == "['apps', 'cllm.json', 'models']"
    assert "OSError: 30" in repl.run("open('/disk/x', 'w')")


def test_what_does_not_fit_is_refused_with_the_numbers(boot, tmp_path):
    image = tmp_path / "disk.img"
    disk_images.make(image, [("MODEL", "model.gguf", 500 << 20)])
    machine = boot(disk=[Disk(image)], memory=256)
    found = re.search(
        r"does not fit: it has 500 MiB, (\d+) MiB of memory are free", machine.verdict
    )
    assert found and 150 < int(found[1]) < 256
    assert "reading" not in machine.log().decode()


@pytest.mark.usefixtures("selftest")
def test_safe_mode_after_three_deaths(boot, tmp_path):
    image = tmp_path / "disk.img"
    disk_images.make(image, [("FLASH", "flash", 1 << 17)])
    machine = boot(disk=[Disk(image)], on_crash="reboot", wait=False)
    machine.serial.booted()
    text = "import _x86; _x86.crash('null')"
    machine.serial.run("f = open('/flash/boot.py', 'w'); f.write(%r); f.close()" % text)
    machine.serial.sendline("import machine; machine.reset()")
    for _ in range(3):
        machine.serial.expect("cllm: rebooting")
    machine.serial.expect("died 3 times in a row: safe mode, without /flash")
    machine.serial.booted()
    assert "boot.py" not in machine.serial.run("import os; os.listdir('/')")
    machine.serial.run("import disks; disks.mount_flash(); os.remove('/flash/boot.py')")
    machine.serial.sendline("import machine; machine.reset()")
    machine.serial.booted()
    assert "boot.py" not in machine.serial.run("import os; os.listdir('/flash')")


@pytest.mark.parametrize("kind", ["virtio", "nvme", "ahci"])
def test_killed_while_flash_is_written(boot, tmp_path, kind):
    rounds = killing.Rounds(boot, tmp_path, kind, seed=16)
    for _ in range({"virtio": 4}.get(kind, 3)):
        rounds.one()
    assert rounds.written > 0
