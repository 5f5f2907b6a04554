"""host/bootstrap.py: missing packages, and messages where it cannot install them."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def bootstrap():
    spec = importlib.util.spec_from_file_location("bootstrap", ROOT / "host" / "bootstrap.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def yes():
    return True


def no():
    return False


def test_only_what_the_purpose_needs_is_missing(bootstrap):
    needs = (("build", no, "make", "builds"), ("build", yes, "here", ""), ("test", no, "t", "w"))
    assert bootstrap.missing_packages("build", needs) == [("make", "builds")]
    assert bootstrap.missing_packages("test", needs) == [("make", "builds"), ("t", "w")]


def test_without_apt_the_packages_are_named(bootstrap, monkeypatch, capsys):
    monkeypatch.setattr(bootstrap.shutil, "which", lambda name: None)
    with pytest.raises(bootstrap.Failure, match="no apt-get here.*: make qemu"):
        bootstrap.install_packages([("make", "builds"), ("qemu", "boots")])
    assert "this machine lacks make (builds)" in capsys.readouterr().err


def test_without_root_and_sudo_it_says_what_to_run(bootstrap, monkeypatch):
    monkeypatch.setattr(bootstrap.os, "geteuid", lambda: 1000)
    monkeypatch.setattr(
        bootstrap.shutil, "which", lambda name: "/usr/bin/apt-get" if name == "apt-get" else None
    )
    with pytest.raises(bootstrap.Failure, match="run as root: apt-get .*install.* make"):
        bootstrap.install_packages([("make", "builds")])


@pytest.mark.parametrize(
    "results, calls, fails",
    [
        ([0], ["install"], False),
        ([100, 0, 0], ["install", "update", "install"], False),
        ([100, 0, 100], ["install", "update", "install"], True),
        ([100, 100], ["install", "update"], True),
    ],
)
def test_package_lists_are_updated_when_needed(bootstrap, monkeypatch, results, calls, fails):
    made, results = [], iter(results)

    def run(command, **_):
        made.append(next(word for word in command if word in ("install", "update")))
        return subprocess.CompletedProcess(command, next(results))

    monkeypatch.setattr(bootstrap.subprocess, "run", run)
    monkeypatch.setattr(bootstrap.shutil, "which", lambda name: "/usr/bin/" + name)
    if fails:
        with pytest.raises(bootstrap.Failure, match="could not install: make"):
            bootstrap.install_packages([("make", "builds")])
    else:
        bootstrap.install_packages([("make", "builds")])
    assert made == calls


def test_an_old_python_is_refused(bootstrap, monkeypatch):
    monkeypatch.setattr(bootstrap, "OLDEST", (9, 9))
    with pytest.raises(bootstrap.Failure, match="CPython 9.9 or newer is needed"):
        bootstrap.make_environment()


def test_the_lock_pins_every_package_by_hash():
    entries = re.split(r"\n(?=\S)", (ROOT / "host" / "requirements.lock").read_text())
    entries = [entry for entry in entries if not entry.startswith("#")]
    assert len(entries) > 10
    for entry in entries:
        assert re.match(r"[a-z0-9-]+==\S+", entry) and "--hash=sha256:" in entry, entry


def test_the_lock_names_no_index():
    assert "://" not in (ROOT / "host" / "requirements.lock").read_text()


def test_the_command_works_from_any_folder_and_through_a_link(bootstrap, tmp_path):
    venv = tmp_path / "tree" / ".venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").symlink_to(sys.executable)
    (tmp_path / "tree" / "host").mkdir()
    (tmp_path / "tree" / "host" / "__main__.py").write_text("import sys; print(sys.argv[1:])")
    command = venv / "bin" / "cllm"
    command.write_text(bootstrap.COMMAND)
    command.chmod(0o755)
    (tmp_path / "link").symlink_to(command)
    for path in (command, tmp_path / "link"):
        out = subprocess.run([path, "a b", "c"], capture_output=True, text=True, cwd="/").stdout
        assert out == "['a b', 'c']\n"
