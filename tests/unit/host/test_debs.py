"""Debian packages without installing them: a stand-in for apt-get, real packages of dpkg-deb."""

import shutil
import subprocess

import pytest
from cllm import CllmError, debs

APT = """\
#!/bin/sh
echo "$@" >> "{log}"
case "$*" in
*" update") exit {update} ;;
*" -s "*) [ -e "{folder}/stale" ] && case "$*" in *State::Lists*) ;; *) exit 100 ;; esac
    echo "Inst cllm-tool (1:2.0-1 Debian:13/stable [all])" ;;
*" download "*) cp "{package}" . ;;
esac
"""
PROGRAM = "cllm-program-of-a-test"


@pytest.fixture
def apt(tmp_path, monkeypatch):
    """Put an apt-get on PATH that knows one package; returns a function for the calls it got."""
    if not shutil.which("dpkg-deb"):
        pytest.skip("no dpkg-deb")
    tree = tmp_path / "tree"
    (tree / "DEBIAN").mkdir(parents=True)
    control = "Package: cllm-tool\nVersion: 1:2.0-1\nArchitecture: all\nMaintainer: x\n"
    (tree / "DEBIAN" / "control").write_text(control + "Description: x\n")
    (tree / "usr" / "bin").mkdir(parents=True)
    (tree / "usr" / "share" / "cllm-tool").mkdir(parents=True)
    (tree / "usr" / "share" / "cllm-tool" / "data").write_text("data")
    program = tree / "usr" / "bin" / PROGRAM
    program.write_text("#!/bin/sh\necho it runs\n")
    program.chmod(0o755)
    package = tmp_path / "cllm-tool.deb"
    subprocess.run(["dpkg-deb", "-b", tree, package], check=True, capture_output=True)
    log, folder = tmp_path / "calls", tmp_path / "bin"
    folder.mkdir()
    script = folder / "apt-get"
    text = APT.format(log=log, folder=tmp_path, package=package, update=0)
    script.write_text(text)
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return lambda: log.read_text().splitlines() if log.exists() else []


PRESENT = (PROGRAM, "/usr/share/cllm-tool/data")


def test_what_is_missing_is_unpacked_once(apt, capfd):
    packages = debs.ensure(["cllm-tool"], "a test", PRESENT)
    ran = subprocess.run([packages.program(PROGRAM)], capture_output=True, text=True)
    assert ran.stdout == "it runs\n"
    assert packages.file("/usr/share/cllm-tool/data").read_text() == "data"
    said = capfd.readouterr().err
    assert "a test needs Debian packages" in said and "cllm-tool=1:2.0-1" in said
    calls = len(apt())
    assert debs.ensure(["cllm-tool"], "a test", PRESENT).program(PROGRAM)
    assert len(apt()) == calls


def test_stale_lists_are_replaced_by_private_ones(apt, tmp_path):
    (tmp_path / "stale").touch()
    assert debs.ensure(["cllm-tool"], "a test", PRESENT).program(PROGRAM)
    assert any(call.endswith("update") and "State::Lists" in call for call in apt())


def test_what_the_machine_has_is_not_looked_up(apt):
    assert debs.ensure(["coreutils"], "a test", ("ls", "/bin/sh")).root is None
    assert apt() == []


def test_without_apt_the_packages_are_named(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(CllmError, match="a test needs what Debian's packages a b hold"):
        debs.ensure(["b", "a"], "a test", ("/nowhere",))


def test_a_file_that_is_not_there_is_named():
    with pytest.raises(CllmError, match="/nowhere is missing"):
        debs.Packages(None).file("/nowhere")
    with pytest.raises(CllmError, match="no-such-program is missing"):
        debs.Packages(None).program("no-such-program")
