"""Models by name, from a hub on loopback with all that goes wrong on the way."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cllm import CllmError, config, download, hub, memory, qemu, run
from support.fake_hub import COMMIT, FakeHub, cut, status

TOP = Path(__file__).resolve().parents[3]
DATA = b"GGUF" + bytes(range(256)) * 12000  # 3 MB
SHARDS = {f"big/m-Q8_0-0000{i}-of-00003.gguf": b"GGUF%d" % i + b"x" * i for i in (1, 2, 3)}
REPOS = {
    "user/repo": {
        "README.md": b"hello",
        "mmproj-m-Q4_K_M.gguf": b"GGUF no model",
        "m-Q2_K.gguf": b"GGUF small",
        "m-Q4_K_M.gguf": DATA,
        **SHARDS,
    },
    "user/only8": {"m-Q5_0.gguf": b"GGUF5", "m-Q8_0.gguf": b"GGUF8"},
    "user/text": {"m-Q4_K_M.gguf": b"<html>Sign in</html>"},
}


@pytest.fixture
def fake(monkeypatch, tmp_path):
    """A hub, and a cache in tmp_path that is used with it."""
    from huggingface_hub import constants

    with FakeHub(REPOS) as fake:
        monkeypatch.setattr(constants, "ENDPOINT", fake.url)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.setattr(hub.time, "sleep", lambda seconds: fake.waits.append(seconds))
        fake.waits = []
        yield fake


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("user/repo", ["m-Q4_K_M.gguf"]),
        ("user/repo:q2_k", ["m-Q2_K.gguf"]),
        ("user/repo:Q8_0", sorted(SHARDS)),
        ("user/only8", ["m-Q8_0.gguf"]),
    ],
)
def test_the_file_that_llama_server_takes_in_the_cache_that_it_shares(fake, tmp_path, name, files):
    found = hub.pull(name)
    repo = name.split(":")[0]
    folder = tmp_path / "hub" / ("models--" + repo.replace("/", "--"))
    assert found == [folder / "snapshots" / COMMIT / file for file in files]
    for path, file in zip(found, files):
        data = REPOS[repo][file]
        assert path.read_bytes() == data and path.is_symlink()
        assert path.resolve() == folder / "blobs" / hashlib.sha256(data).hexdigest()
    assert (folder / "refs" / "main").read_text() == COMMIT
    # huggingface-hub, and with it every other program, finds it there.
    from huggingface_hub import scan_cache_dir, try_to_load_from_cache

    there = try_to_load_from_cache(repo, files[0], cache_dir=tmp_path / "hub")
    assert there == str(found[0]) and not scan_cache_dir(tmp_path / "hub").warnings
    # Offline, nobody is asked; online, nothing is downloaded again.
    asked = len(fake.requests)
    assert hub.pull(name, offline=True) == found and len(fake.requests) == asked
    assert hub.pull(name) == found and len(fake.downloads()) == len(files)


def test_broken_connections_are_resumed_where_they_broke(fake):
    fake.troubles += [cut(1000), cut(0), status(503), cut(2_000_000), cut(5)]
    (path,) = hub.pull("user/repo")
    assert path.read_bytes() == DATA
    starts = [int((r or "bytes=0-")[6:-1]) for r in fake.downloads()]
    assert starts == [0, 1000, 1000, 1000, 2_001_000, 2_001_005]


def test_a_later_run_goes_on_where_an_earlier_one_gave_up(fake):
    fake.troubles += [cut(1 << 20)] + [cut(0)] * (download.TRIES - 1)
    with pytest.raises(CllmError, match="the connection ended|peer closed|incomplete"):
        hub.pull("user/repo")
    n = len(fake.downloads())
    (path,) = hub.pull("user/repo")
    assert path.read_bytes() == DATA and fake.downloads()[n:] == [f"bytes={1 << 20}-"]


def test_a_server_without_ranges_begins_again(fake):
    fake.ranges = False
    fake.troubles += [cut(1000)]
    (path,) = hub.pull("user/repo")
    assert path.read_bytes() == DATA


def test_it_waits_as_long_as_it_is_asked_to(fake):
    fake.api_troubles += [status(429, Retry_After=7)]
    fake.troubles += [status(429, Retry_After=11)]
    hub.pull("user/repo")
    assert 11 in fake.waits and 7 in fake.waits
    fake.troubles += [status(429, Retry_After=9999)]
    with pytest.raises(CllmError, match="come back in 9999 s"):
        hub.pull("user/repo:Q2_K")


def test_a_wrong_hash_is_refused_and_discarded(fake, tmp_path):
    fake.wrong_hash = True
    with pytest.raises(CllmError, match="has the sha256 .* and not"):
        hub.pull("user/repo")
    assert not hub.entries()
    (part,) = (tmp_path / "hub").rglob("*.incomplete")
    assert part.stat().st_size == 0


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("user/nothing", "user/nothing: .*not there"),
        ("user/repo:Q3_K_S", "it has no Q3_K_S; it has Q2_K, Q4_K_M, Q8_0"),
        ("user/text", "no GGUF file: it begins with b'<htm'"),
        ("no-slash", "no name of a model"),
        ("user/../x", "no name of a model"),
    ],
)
def test_what_cannot_be_had_says_why(fake, name, words):
    with pytest.raises(CllmError, match=words):
        hub.pull(name)


def test_a_token_goes_to_the_hub_and_not_where_it_redirects(fake, monkeypatch):
    fake.token = "hf_secret"
    with pytest.raises(CllmError, match="HF_TOKEN"):
        hub.pull("user/repo")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hub.pull("user/repo")
    assert not any("Authorization" in h for _, p, h in fake.requests if p.startswith("/cdn/"))


def test_offline_without_the_file(fake):
    with pytest.raises(CllmError, match="not in the cache"):
        hub.pull("user/repo", offline=True)
    assert not fake.requests


def test_urls(fake):
    url = f"{fake.content}/cdn/user/repo/m-Q4_K_M.gguf"
    fake.troubles += [cut(70_000)]
    (path,) = hub.pull(url)
    assert path.read_bytes() == DATA and path.name == "m-Q4_K_M.gguf"
    assert hub.pull(url, offline=True) == [path]
    right = hashlib.sha256(DATA).hexdigest()
    assert hub.pull(f"{url}#sha256={right}") == [path]
    with pytest.raises(CllmError, match="has the sha256"):
        hub.pull(f"{url}#sha256={'0' * 64}")
    with pytest.raises(CllmError, match="only #sha256="):
        hub.pull(f"{url}#md5=00")
    with pytest.raises(CllmError, match="HTTP 404"):
        hub.pull(f"{fake.url}/user/repo/resolve/main/x.gguf")
    many = hub.pull(f"{fake.content}/cdn/user/repo/big/m-Q8_0-00001-of-00003.gguf")
    assert [p.read_bytes() for p in many] == list(SHARDS.values())


def test_list_and_remove(fake, tmp_path):
    hub.pull("user/repo")
    hub.pull("user/repo:Q8_0")
    url = f"{fake.content}/cdn/user/repo/m-Q2_K.gguf"
    hub.pull(url)
    names = [entry.name for entry in hub.entries()]
    assert names == sorted([url, "user/repo:Q4_K_M", "user/repo:Q8_0"])
    assert hub.remove("user/repo:Q8_0") == (["user/repo:Q8_0"], sum(map(len, SHARDS.values())))
    assert [entry.name for entry in hub.entries()] == sorted([url, "user/repo:Q4_K_M"])
    hub.remove("user/*")
    hub.remove(url)
    assert not hub.entries() and not list((tmp_path / "hub").glob("models--*"))
    with pytest.raises(CllmError, match="there is no"):
        hub.remove("user/repo")


def test_a_model_of_several_files_in_the_machine(tmp_path):
    parts = [tmp_path / f"m-0000{i}-of-00002.gguf" for i in (1, 2)]
    with pytest.raises(CllmError, match="there is no m-00002-of-00002.gguf beside it"):
        parts[0].write_bytes(b"GGUF")
        hub.shards_of(parts[0])
    parts[1].write_bytes(b"GGUF" + bytes(5000))
    settings = {**config.DEFAULTS, "model": str(parts[0]), "port": qemu.free_port()}
    guest = run.make_guest({**settings, "accel": "tcg"})
    names = ["model-00001-of-00002.gguf", "model-00002-of-00002.gguf"]
    assert list(guest.modules)[:2] == names
    about = guest.modules["config.json"]
    assert b'"file": "model-00001-of-00002.gguf"' in about and b'"alias": "m"' in about
    assert memory.size_of(parts[0]) == 5008


def test_the_commands(fake, tmp_path):
    def cllm(*arguments):
        environment = {
            **os.environ,
            "HF_ENDPOINT": fake.url,
            "HF_HUB_CACHE": str(tmp_path / "hub"),
        }
        command = [sys.executable, str(TOP / "host"), *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        return done.returncode, done.stdout, done.stderr

    code, out, err = cllm("pull", "user/repo")
    assert code == 0 and out.strip().endswith("/m-Q4_K_M.gguf") and "download" in err, err
    code, out, _ = cllm("list")
    assert code == 0 and out.split()[:3] == ["user/repo:Q4_K_M", "3", "MiB"]
    code, out, err = cllm("show", "user/repo")
    assert code == 1 and "Traceback" not in err  # it is no model, though it begins as one
    code, out, err = cllm("run", "-hf", "user/repo:Q6_K", "--offline")
    assert code == 1 and "it has no Q6_K" in err
    assert cllm("rm", "user/repo")[0] == 0 and cllm("list")[1] == ""
