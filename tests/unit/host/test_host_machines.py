"""QEMU's options for --machine."""

import pytest
from cllm import CllmError, config, qemu, run
from cllm.disks import Disk
from cllm.machines import MACHINES


def arguments(tmp_path, **options):
    image = tmp_path / "image"
    image.write_bytes(b"")
    return qemu.Guest(image, port=qemu.free_port(), **options).arguments()


def test_the_machine_is_named(tmp_path):
    for machine, name in (("auto", "pc"), ("pc", "pc"), ("q35", "q35"), ("microvm", "microvm")):
        line = arguments(tmp_path, machine=machine)
        assert line[line.index("-machine") + 1] == name


def test_microvm_has_virtio_devices_in_slots_that_the_guest_is_told(tmp_path):
    disk = Disk("a.img")
    line = arguments(tmp_path, machine="microvm", disks=[disk], monitor=tmp_path / "monitor")
    assert "virtio-net-device,netdev=net0,bus=virtio-mmio-bus.1" in line
    assert "virtio-blk-device,drive=disk0,serial=cllm0,bus=virtio-mmio-bus.2" in line
    words = line[line.index("-append") + 1].split()
    assert "virtio_mmio.device=512@0xfeb00200:25" in words
    assert "virtio_mmio.device=512@0xfeb00400:26" in words
    assert "virtio-mmio.force-legacy=false" in line
    assert "-vga" not in line and not any("romfile" in word for word in line)
    assert "virtio_mmio" not in " ".join(arguments(tmp_path, machine="q35"))


def test_microvm_loads_what_others_map(tmp_path):
    model = tmp_path / "m"
    model.write_bytes(bytes(qemu.LEAST_MAPPED))
    line = arguments(tmp_path, machine="microvm", modules={"m": model})
    assert line[line.index("-initrd") + 1] == "m"
    assert not any("nvdimm" in word for word in line)
    # Beside what a model needs: the file itself.
    settings = {**config.DEFAULTS, "port": 0, "accel": "tcg"}
    guests = [
        run.make_guest({**settings, "machine": machine}, image=tmp_path / "image")
        for machine in ("pc", "microvm")
    ]
    assert guests[0].memory == guests[1].memory
    assert run._loaded(model, None) == 2


@pytest.mark.parametrize(
    "options, named",
    [
        ({"nic": "e1000"}, "--nic e1000"),
        ({"disks": [Disk("a.img", "nvme")]}, "--disk a.img:nvme"),
        ({"gpu": "socket"}, "--gpu"),
        ({"disks": [Disk("a.img")] * 23}, "22 disks"),
    ],
)
def test_what_microvm_cannot_have(tmp_path, options, named):
    with pytest.raises(CllmError, match=named):
        arguments(tmp_path, machine="microvm", **options)


@pytest.mark.parametrize(
    "machine, mib, low",
    [
        ("pc", 3583, 3583),
        ("pc", 3584, 3072),
        ("q35", 2815, 2815),
        ("q35", 2816, 2048),
        ("q35", 8192, 2048),
    ],
)
def test_where_memory_is_split(machine, mib, low):
    assert MACHINES[machine].low_memory(mib) == low << 20
