"""The choice between KVM and emulation."""

import shutil

import pytest
from cllm import CllmError, accel

QEMU = shutil.which("qemu-system-x86_64")


@pytest.fixture
def kvm(tmp_path):
    """A device that can be opened and an empty list of loaded modules."""
    device = tmp_path / "kvm"
    device.write_text("")
    modules = tmp_path / "module"
    modules.mkdir()
    return {"device": str(device), "modules": modules}


def test_auto_without_a_device(tmp_path):
    assert accel.choose("auto", "qemu", str(tmp_path / "none"), tmp_path)[0] == "tcg"


def test_auto_distrusts_a_kvm_of_another_kind(kvm):
    (kvm["modules"] / "kvm_pvm").mkdir()
    chosen, why = accel.choose("auto", "qemu", **kvm)
    assert chosen == "tcg" and "neither kvm_intel nor kvm_amd" in why


@pytest.mark.parametrize("ended, chosen", [(True, "kvm"), (False, "tcg")])
def test_auto_believes_the_probe(kvm, monkeypatch, ended, chosen):
    (kvm["modules"] / "kvm_amd").mkdir()
    monkeypatch.setattr(accel, "probe", lambda qemu: ended)
    assert accel.choose("auto", "qemu", **kvm)[0] == chosen


def test_asked_for_by_name(kvm, tmp_path):
    assert accel.choose("tcg", "qemu", **kvm)[0] == "tcg"
    assert accel.choose("kvm", "qemu", **kvm)[0] == "kvm"
    with pytest.raises(CllmError, match="not there"):
        accel.choose("kvm", "qemu", str(tmp_path / "none"), tmp_path)


@pytest.mark.skipif(QEMU is None, reason="no QEMU on this machine")
def test_the_probe_guest_really_ends():
    assert accel.probe(QEMU, "tcg")


def test_a_probe_that_does_not_end_fails(fake_qemu, monkeypatch):
    monkeypatch.setenv("FAKE_QEMU", "exit 33")
    assert accel.probe("qemu-system-x86_64")
    monkeypatch.setenv("FAKE_QEMU", "exit 0")
    assert not accel.probe("qemu-system-x86_64")
    monkeypatch.setenv("FAKE_QEMU", "hang")
    monkeypatch.setattr(accel, "PROBE_SECONDS", 0.2)
    assert not accel.probe("qemu-system-x86_64")
