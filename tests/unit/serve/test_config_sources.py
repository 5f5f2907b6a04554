"""Configurations from the command line and from QEMU's fw_cfg, and the order of all sources."""

import struct

import pytest
from serve import config_sources, settings
from serve.config_keys import ConfigError


class FwCfg:
    """The device of QEMU's docs/specs/fw_cfg.rst: a selector, and a byte at a time."""

    def __init__(self, **files):
        self.items = {0: b"QEMU"}
        directory = struct.pack(">I", len(files))
        for number, (name, data) in enumerate(files.items()):
            key = 0x20 + number
            directory += struct.pack(">IHH56s", len(data), key, 0, name.encode())
            self.items[key] = data
        self.items[0x19] = directory
        self.left = b""

    def outw(self, port, value):
        assert port == 0x510
        self.left = self.items.get(value, b"")

    def inb(self, port):
        assert port == 0x511
        byte, self.left = self.left[:1] or b"\0", self.left[1:]
        return byte[0]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("", {}),
        ("crash=exit pmem=a@1+2 cllm cllm.x", {}),
        ("cllm.n_ctx=512 cllm.access_log=true", {"n_ctx": 512, "access_log": True}),
        (
            "cllm.network.address=192.0.2.1/24 cllm.network.mdns=false cllm.alias=a=b",
            {"network": {"address": "192.0.2.1/24", "mdns": False}, "alias": "a=b"},
        ),
        ('cllm.keys=["a","b"] cllm.url=http://h/m.gguf',
         {"keys": ["a", "b"], "url": "http://h/m.gguf"}),
        ("cllm.port=1 cllm.port=2", {"port": 2}),
    ],
)  # fmt: skip
def test_words_of_the_command_line(line, found):
    assert config_sources.of_command_line(line) == found


def test_a_section_that_is_no_section():
    with pytest.raises(ConfigError):
        config_sources.of_command_line("cllm.network=5 cllm.network.mdns=true")


def test_fw_cfg(monkeypatch):
    device = FwCfg(**{"etc/e820": b"x" * 20, "opt/cllm/config": b'{"port": 81}', "z": b""})
    monkeypatch.setattr(config_sources, "machine", device)
    assert config_sources.of_fw_cfg() == b'{"port": 81}'
    monkeypatch.setattr(config_sources, "machine", FwCfg(**{"etc/e820": b"x"}))
    assert config_sources.of_fw_cfg() == b""
    # Real machines have nothing at these ports: all ones.
    device.items = {}
    device.inb = lambda port: 0xFF
    monkeypatch.setattr(config_sources, "machine", device)
    assert config_sources.of_fw_cfg() == b""


def test_the_order(monkeypatch, tmp_path):
    monkeypatch.setattr(settings, "BOOT", f"{tmp_path}/")
    monkeypatch.setattr(settings, "VOLUME", f"{tmp_path}/none/")
    monkeypatch.setattr(settings, "FLASH", f"{tmp_path}/none/")
    text = b'{"port": 82, "model": {"alias": "fw", "n_ctx": 256}}'
    monkeypatch.setattr(config_sources, "machine", FwCfg(**{"opt/cllm/config": text}))
    line = "cllm.alias=words"
    monkeypatch.setattr(settings._x86, "cmdline", lambda: line, raising=False)
    monkeypatch.setattr(settings._x86, "cpu_count", lambda: 1, raising=False)
    (tmp_path / "config.json").write_text('{"port": 81, "n_ctx": 512, "slots": 2}')
    found = settings.read_settings()
    assert (found.mistake, found.port, found.alias) == (None, 82, "words")
    assert found.options["n_ctx"] == 256 and found.bounds.slots == 2
    line = "cllm.slotz=3"
    found = settings.read_settings()
    assert found.mistake.startswith('the command line: "slotz" is unknown, did you mean "slots"')
    assert found.port == 82
    (tmp_path / "config.json").write_text("{")
    line = ""
    found = settings.read_settings()
    assert "config.json" in found.mistake and found.port == 82
