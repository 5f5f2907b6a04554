"""--disk FILE[:virtio|nvme|ahci][,ro] and what QEMU is asked for."""

import json

import pytest
from cllm import CllmError, config, disks
from cllm.disks import Disk


@pytest.mark.parametrize(
    "text, kind, readonly",
    [
        ("{}", "virtio", False),
        ("{}:nvme", "nvme", False),
        ("{}:ahci,ro", "ahci", True),
        ("{},ro", "virtio", True),
        ("{}:virtio", "virtio", False),
    ],
)
def test_a_disk(tmp_path, text, kind, readonly):
    path = tmp_path / "a, b.img"
    path.write_bytes(bytes(512))
    settings, _ = config.settings({"disk": [text.format(path)]})
    assert settings["disk"] == [Disk(str(path), kind, readonly)]
    line = settings["disk"][0].arguments(3)
    assert line[0] == "-drive" and "id=disk3" in line[1] and "format=raw" in line[1]
    protects = "snapshot=on" if kind == "ahci" else "readonly=on"
    assert "a,, b.img" in line[1] and (protects in line[1]) == readonly
    assert any("drive=disk3" in word for word in line[2:])


def test_paths_in_a_file_are_relative_to_it(tmp_path):
    (tmp_path / "x.qcow2").write_bytes(bytes(512))
    file = tmp_path / "my.json"
    file.write_text(json.dumps({"disk": ["x.qcow2:ahci,ro"]}))
    settings, _ = config.settings({}, file)
    assert settings["disk"] == [Disk(str(tmp_path / "x.qcow2"), "ahci", True)]
    assert "format=qcow2" in settings["disk"][0].arguments(0)[1]
    file.write_text('{"disk": "x.img"}')
    with pytest.raises(CllmError, match="array of strings"):
        config.settings({}, file)


@pytest.mark.parametrize(
    "text, words",
    [
        ("{}/absent.img", "no disk image"),
        ("{}", "no disk image"),
        ("{}/x.img:scsi", "scsi is no kind of disk"),
        (":nvme", "names no file"),
        (",ro", "names no file"),
    ],
)
def test_mistakes(tmp_path, text, words):
    (tmp_path / "x.img").write_bytes(bytes(512))
    with pytest.raises(CllmError, match=words):
        config.settings({"disk": [text.format(tmp_path)]})


def test_a_guest_has_room_for_a_model_on_its_disks(tmp_path):
    path = tmp_path / "x.img"
    with open(path, "wb") as file:
        file.truncate(100 << 20)
    assert disks.memory([]) == 0
    assert disks.memory([Disk(path)]) == 100 + disks.CACHES
    with open(path, "wb") as file:
        file.truncate(1 << 42)
    assert disks.memory([Disk(path)]) < 1 << 20
