"""Other machines than QEMU's pc: q35 by its I/O APIC, microvm without PCI, PVH, other clocks."""

import re
import struct
import time

import pytest
import requests
from cllm import qemu
from cllm.disks import Disk
from cllm.run import IMAGE, UNPACKED

FIRST_LINE = r"cllm [\w.]+: ([\w ]+), .*, TSC (\d+) MHz by (\w+)\r\n"


@pytest.fixture
def patch(monkeypatch):
    """patch(change): QEMU's command line is what change(line) returns."""

    def patch(change):
        arguments = qemu.Guest.arguments
        monkeypatch.setattr(qemu.Guest, "arguments", lambda guest: change(arguments(guest)))

    return patch


def with_words(words):
    """Return a change that adds words to the guest's command line."""

    def change(line):
        at = line.index("-append") + 1
        return [*line[:at], line[at] + " " + words, *line[at + 1 :]]

    return change


def first_line(guest):
    """Return (boot protocol, TSC in MHz, what it was measured by)."""
    found = re.search(FIRST_LINE, guest.log().decode())
    return found[1], int(found[2]), found[3]


def generates(guest):
    answer = requests.post(
        f"{guest.url}/completion", json={"prompt": "Hello", "n_predict": 4}, timeout=60
    )
    return answer.status_code == 200 and answer.json()["tokens_predicted"] == 4


def test_q35_by_its_io_apic(boot, patch, tiny_model):
    patch(with_words("irq=ioapic irq=lines"))
    # The line interrupt of a card that has no other.
    guest = boot(machine="q35", nic="e1000e", smp=2, model=str(tiny_model))
    assert guest.verdict is None and generates(guest)
    assert b"irq: no 8259s, 24 inputs of I/O APICs" in guest.log()
    assert b"smp: 2 of 2 cores" in guest.log()
    # The serial line interrupts, too.
    assert guest.serial.run("6 * 7") == "42"


def test_microvm(boot, tiny_model, tmp_path):
    (tmp_path / "disk.img").write_bytes(bytes(1 << 20))
    disk = Disk(str(tmp_path / "disk.img"))
    guest = boot(machine="microvm", smp=2, model=str(tiny_model), disk=[disk])
    assert guest.verdict is None and generates(guest)
    assert first_line(guest)[::2] == ("multiboot", "8254")
    assert b"smp: 2 of 2 cores" in guest.log()
    assert guest.serial.run("import drivers; drivers.find_cards() + drivers.find_disks()") == (
        "[('virtio_net', (4272947712, 512, 25)), ('disk_virtio', (4272948224, 512, 26))]"
    )
    # Time runs as fast as here.
    guest.serial.run("import time; began = time.ticks_ms()")
    began = time.monotonic()
    time.sleep(2)
    passed = int(guest.serial.run("time.ticks_diff(time.ticks_ms(), began)"))
    assert 1900 < passed < 1000 * (time.monotonic() - began) + 1000
    # A soft reset ends what the devices do, and starts them again.
    guest.serial.send(b"\x04")
    guest.serial.expect("soft reboot")
    guest.serial.booted()
    assert generates(guest)


def test_microvm_without_timers_and_8259s(boot, patch):
    patch(lambda line: ["microvm,pit=off,pic=off" if w == "microvm" else w for w in line])
    guest = boot(machine="microvm", smp=1)
    assert requests.get(f"{guest.url}/health", timeout=60).status_code == 503
    assert first_line(guest)[2] == "apic"
    assert b"irq: no 8259s, 48 inputs of I/O APICs" in guest.log()
    assert guest.serial.run("6 * 7") == "42"


@pytest.fixture(scope="module")
def pvh_image(tmp_path_factory):
    """The image without its Multiboot header, so that QEMU enters it by PVH."""
    data = IMAGE.with_suffix(UNPACKED).read_bytes()
    header = struct.pack("<II", 0x1BADB002, 1 << 16 | 3)
    assert data.count(header) == 1
    path = tmp_path_factory.mktemp("pvh") / "cllm.elf"
    path.write_bytes(data.replace(header, bytes(8)))
    return path


def named_by_qemu(line):
    """Without ACPI, QEMU itself names the slots on the command line that PVH brings."""
    at = line.index("-append") + 1
    words = [word for word in line[at].split() if not word.startswith("virtio_mmio")]
    line = [*line[:at], " ".join(words), *line[at + 1 :]]
    return ["microvm,acpi=off" if word == "microvm" else word for word in line]


@pytest.mark.parametrize("machine, cores", [("pc", 2), ("microvm", 1)])
def test_pvh(boot, patch, pvh_image, machine, cores):
    if machine == "microvm":
        patch(named_by_qemu)
    settings = {"network": {"hostname": "by-pvh"}}
    guest = boot(machine=machine, smp=2, image=pvh_image, config_json=settings)
    assert requests.get(f"{guest.url}/health", timeout=60).status_code == 503
    assert first_line(guest)[0] == "PVH"
    # ACPI's root pointer came along, and the one module is the configuration.
    assert b"smp: %d of %d cores" % (cores, cores) in guest.log()
    assert guest.serial.run("import network; network.hostname()") == "'by-pvh'"


def test_all_clocks_agree(boot):
    clocks = ("hpet", "acpi", "8254", "apic", "cmos")
    found = {}
    for clock in clocks:
        with pytest.MonkeyPatch.context() as context:
            boot_arguments = qemu.Guest.boot_arguments
            change = with_words(f"clock={clock}")
            context.setattr(
                qemu.Guest,
                "boot_arguments",
                lambda guest, old=boot_arguments, change=change: change(old(guest)),
            )
            guest = boot(wait=False, smp=1)
        guest.serial.expect(FIRST_LINE)
        _, found[clock], by = first_line(guest)
        assert by == clock
        guest.stop()
    wanted = found["hpet"]
    assert all(abs(mhz - wanted) < wanted * 0.01 for mhz in list(found.values())[:4]), found
    # Seconds of the CMOS clock come when the host gets round to them.
    assert abs(found["cmos"] - wanted) < wanted * 0.25, found
