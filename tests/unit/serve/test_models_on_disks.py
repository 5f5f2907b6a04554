"""Models that are read from disks, and configurations and handlers that lie on them."""

import asyncio

import pytest
from fake_engine import FakeEngine
from serve import main, settings
from serve.config_keys import ConfigError
from serve.scheduling.engine import NONE, READY, EngineHost, NoModel


def load(host):
    asyncio.run(host.load())
    return host


def test_a_model_is_read_first_and_the_progress_never_goes_back(tmp_path, capsys):
    path, seen = tmp_path / "only.gguf", []

    async def find(wanted, progress):
        assert wanted == "/boot/model.gguf"
        for tenths in range(11):
            progress(tenths / 10)
            seen.append(host.progress)
        path.write_bytes(b"x")
        return str(path)

    host = EngineHost("/boot/model.gguf", None, {}, FakeEngine)
    host.find = find
    load(host)
    assert host.state == READY and host.path == str(path) and host.alias == "only"
    assert seen == sorted(seen) and seen[0] == 0 and 0.8 < seen[-1] < 1 and host.progress == 1
    assert "loading 90%" in capsys.readouterr().out


def test_a_name_that_was_given_stays(tmp_path):
    path = tmp_path / "a.gguf"
    path.write_bytes(b"x")

    async def find(wanted, progress):
        return str(path)

    host = EngineHost("/boot/model.gguf", "mine", {}, FakeEngine)
    host.find = find
    assert load(host).alias == "mine"


def test_a_model_that_cannot_be_read(tmp_path):
    async def find(wanted, progress):
        progress(0.5)
        raise NoModel("cannot read it: nvme0: read at sector 7: media error 81h")

    host = EngineHost("/boot/model.gguf", None, {}, FakeEngine)
    host.find = find
    load(host)
    assert host.state == NONE and "media error 81h" in host.reason


def test_a_draft_model_that_is_not_there_costs_the_drafts_only(tmp_path, capsys):
    path = tmp_path / "a.gguf"
    path.write_bytes(b"x")

    async def find(wanted, progress):
        if "draft" in wanted:
            raise NoModel("there is no file " + wanted)
        return str(path)

    host = EngineHost("/boot/model.gguf", None, {}, FakeEngine, draft="/boot/draft.gguf")
    host.find = find
    load(host)
    assert host.state == READY and host.drafter is None
    assert "no drafts: there is no file" in capsys.readouterr().out


@pytest.fixture
def folders(tmp_path, monkeypatch):
    made = {}
    for name in ("boot", "disk", "flash"):
        folder = tmp_path / name
        (folder / "apps").mkdir(parents=True)
        made[name] = folder
    for module in (settings, main):
        monkeypatch.setattr(module, "BOOT", str(made["boot"]) + "/")
        monkeypatch.setattr(module, "VOLUME", str(made["disk"]) + "/")
        monkeypatch.setattr(module, "FLASH", str(made["flash"]) + "/")
    return made


def test_configurations_are_laid_over_each_other(folders):
    (folders["boot"] / "config.json").write_text(
        '{"port": 81, "model": {"n_ctx": 512, "slots": 2}}'
    )
    (folders["disk"] / "cllm.json").write_text('{"port": 82, "model": {"alias": "of disk"}}')
    found = settings.read_settings()
    assert found.mistake is None and found.port == 81 and found.alias == "of disk"
    assert found.options["n_ctx"] == 512
    (folders["flash"] / "config.json").write_text('{"model": {"alias": "of flash", "n_ctx": 99}}')
    found = settings.read_settings()
    assert found.port == 81 and found.alias == "of flash" and found.options["n_ctx"] == 512
    (folders["boot"] / "config.json").write_text('{"model": {"n_ctx": null}}')
    found = settings.read_settings()
    assert found.port == 82 and found.options["n_ctx"] == 2048


def test_a_file_for_cllm_run_is_right_on_a_disk_too(folders):
    text = '{"$schema": "x", "smp": 4, "model": "models/q.gguf", "n_ctx": 256, "keys": ["k"]}'
    (folders["disk"] / "cllm.json").write_text(text)
    found = settings.read_settings()
    assert found.mistake is None and found.options["n_ctx"] == 256
    assert found.path.endswith("/q.gguf")
    (folders["disk"] / "cllm.json").write_text('{"model": "http://a/q.gguf", "sha256": "x"}')
    assert "sha256" in settings.read_settings().mistake
    (folders["disk"] / "cllm.json").write_text('{"url": "http://a/q.gguf"}')
    assert settings.read_settings().path == "http://a/q.gguf"


@pytest.mark.parametrize(
    "text, words", [("{", "config.json"), ("[]", "must be an object"), ('{"prot": 1}', "prot")]
)
def test_a_mistake_on_flash_is_named(folders, text, words):
    (folders["boot"] / "config.json").write_text('{"port": 81}')
    (folders["flash"] / "config.json").write_text(text)
    found = settings.read_settings()
    assert words in found.mistake and found.port == 81


def test_merging():
    config = {"a": {"b": 1, "c": 2}, "d": 3}
    settings.merge(config, {"a": {"b": 4}, "d": {"e": 5}})
    settings.merge(config, {"a": None})
    assert config == {"a": None, "d": {"e": 5}}
    with pytest.raises(ConfigError):
        settings.merge(config, [])


def test_handlers_and_their_order(folders):
    boot, disk, flash = (folders[name] for name in ("boot", "disk", "flash"))
    assert main.user_code() == []
    for path in (
        boot / "app.py",
        boot / "lib.py",
        disk / "apps" / "b.py",
        disk / "apps" / "a.txt",
    ):
        path.write_text("")
    assert main.user_code() == [str(boot / "app.py"), str(disk / "apps" / "b.py")]
    # The loader read that folder, too.
    for path in (boot / "b.py", disk / "apps" / "app.py", disk / "apps" / "a.py"):
        path.write_text("")
    assert main.user_code() == [
        str(boot / "app.py"),
        str(disk / "apps" / "a.py"),
        str(boot / "b.py"),
    ]
    (flash / "app.py").write_text("")
    assert main.user_code()[0] == str(flash / "app.py") and len(main.user_code()) == 3
