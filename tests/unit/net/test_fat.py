"""Where files of FAT32 volumes lie, against volumes made by hand."""

import struct

import pytest
from drivers import fat
from drivers.disk import Part
from fat_images import Volume
from test_gpt import Memory

FIRST = 8  # the sector of the disk where the volume begins


def content(size):
    return b"".join([struct.pack("<I", n) for n in range((size + 3) // 4)])[:size]


FILES = {
    "cllm.json": (b"{}", 0),
    "models/a-model-with-a-long-name.gguf": (content(700_001), 0),
    "models/torn.gguf": (content(300 * 512), 130),
    "models/shreds.gguf": (content(40 * 512 + 1), 1),
    "models/nothing.gguf": (b"", 0),
}


@pytest.fixture
def volume():
    return Volume(FILES)


def disk_of(volume):
    data = bytearray(FIRST * 512 + 1_600_000)
    volume.size = len(data) - FIRST * 512
    volume.write(data, FIRST * 512)
    return Memory(data)


def open_volume(disk, sectors=None):
    return fat.Volume(Part(disk, FIRST, sectors or disk.sectors - FIRST))


def test_runs(volume):
    disk = disk_of(volume)
    found = open_volume(disk)
    for path in FILES:
        runs, size = found.runs(path)
        data = b"".join([bytes(disk.data[lba * 512 : lba * 512 + length]) for lba, length in runs])
        assert size == len(data) and data == FILES[path][0]
    runs = [len(found.runs("models/%s.gguf" % name)[0]) for name in ("torn", "shreds", "nothing")]
    assert runs == [3, 41, 0]
    assert len(found.runs("MODELS/A-Model-With-A-Long-Name.GGUF")[0]) == 1
    assert found.runs("models/F0000005.BIN")[1] == len(FILES[sorted(FILES)[4]][0])


@pytest.mark.parametrize("path", ["absent", "models/absent.gguf", "models", "cllm.json/x"])
def test_names_that_are_not_there(volume, path):
    with pytest.raises(OSError):
        open_volume(disk_of(volume)).runs(path)


def test_damage(volume):
    chain = volume.chains["models/torn.gguf"]
    for entry in (0, 1, 66_003, 0x0FFFFFF7):
        volume.table[chain[129]] = entry
        damaged = Volume(FILES)
        damaged.table = volume.table
        for at in list(damaged.parts):
            if at == 32 * 512 + 4 * chain[129]:
                damaged.parts[at] = struct.pack("<I", entry)
        with pytest.raises(OSError, match="damaged"):
            open_volume(disk_of(damaged)).runs("models/torn.gguf")


def test_a_folder_in_a_circle(volume):
    (cluster,) = volume.chains["models/"][-1:]
    for at in list(volume.parts):
        if at == 32 * 512 + 4 * cluster:
            volume.parts[at] = struct.pack("<I", volume.chains["models/"][0])
    with pytest.raises(OSError, match="damaged"):
        open_volume(disk_of(volume)).runs("models/absent")


def test_no_fat32():
    with pytest.raises(OSError, match="no FAT32"):
        open_volume(Memory(bytearray(64 * 512)))
