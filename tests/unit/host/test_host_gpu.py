"""`cllm run --gpu`: gpud beside QEMU. tests/guest/test_gpu.py uses both for real."""

import stat
import sys
from pathlib import Path

import pytest
from cllm import CllmError, build, cards, cli, config, cuda, gpud, run
from support import gpu_parts

# Stands in for gpud: it writes down its arguments and makes the socket's file.
FAKE_GPUD = """\
#!{python}
import pathlib, signal, sys
words = sys.argv[1:]
pathlib.Path("{noted}").write_text("\\0".join(words))
if "{act}" == "fail":
    sys.exit("no card today")
pathlib.Path(words[words.index("--socket") + 1]).touch()
signal.pause()
"""


@pytest.fixture
def fake_gpud(tmp_path, monkeypatch):
    """fake_gpud(act="serve") puts the stand-in in gpud's place; returns a function that returns
    its arguments."""

    def make(act="serve"):
        program, noted = tmp_path / "gpud", tmp_path / "gpud-arguments"
        program.write_text(FAKE_GPUD.format(python=sys.executable, noted=noted, act=act))
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setattr(gpud, "build", lambda: program)
        monkeypatch.setattr(run, "PACK", tmp_path / "no-pack")
        return lambda: noted.read_text().split("\0")

    return make


def settings(**others):
    return {**config.DEFAULTS, "port": 0, "accel": "tcg", "memory": 64, **others}


def value(line, option):
    return line[line.index(option) + 1]


def test_gpud_lives_as_long_as_the_guest_and_shares_its_memory(
    fake_qemu, fake_gpud, image, tmp_path
):
    arguments = fake_gpud()
    model = tmp_path / "a model.gguf"
    with open(model, "wb") as file:
        file.truncate((2 << 20) + 5)
    guest = run.make_guest(settings(gpu="ptx", gpu_memory=77, model=str(model)), image=image)
    guest.start()
    try:
        words, line = arguments(), guest.arguments()
        daemon = Path(f"/proc/{guest.gpu.pid}")
        assert daemon.exists()
        assert value(words, "--engine") == "ptx" and value(words, "--memory") == "77"
        ram, start, size = value(words, "--ram").split(":")
        assert (start, size) == ("0", f"{64 << 20}@0") and Path(ram).stat().st_size == 64 << 20
        assert f"mem-path={ram}" in value(line, "-object")
        assert "memory-backend=ram" in value(line, "-machine")
        # The part of the model that is mapped, where it is mapped.
        (_, at, _), *_ = guest.mapped()
        assert value(words, "--file") == f"{model}:{at}:{2 << 20}@0"
        assert f"socket,id=gpud,path={value(words, '--socket')}" in line
        assert "ivshmem-doorbell,vectors=1,chardev=gpud" in line
    finally:
        guest.stop()
    assert not daemon.exists() and not Path(ram).exists()
    assert not Path(value(words, "--socket")).parent.exists()


def test_memory_above_3_gib_is_a_window_of_its_own(fake_qemu, image):
    guest = run.make_guest(settings(memory=5 << 10), image=image)
    assert guest.parts_of_memory() == [(0, 3 << 30, 0), (4 << 30, 2 << 30, 3 << 30)]
    guest = run.make_guest(settings(memory=3 << 10), image=image)
    assert guest.parts_of_memory() == [(0, 3 << 30, 0)]


def test_ptx_of_the_guests_is_taken_where_programs_are(
    fake_qemu, fake_gpud, image, tmp_path, monkeypatch
):
    fake_gpud()
    model, app = tmp_path / "model.gguf", tmp_path / "app.py"
    model.write_bytes(b"GGUF?")
    app.write_text("")
    seen = []
    monkeypatch.setattr(gpud, "Daemon", lambda **options: seen.append(options["upload"]))
    for chosen, scripted in (
        ({}, False),
        ({"model": str(model)}, False),
        ({"model": str(model)}, True),
        ({"model": str(model), "app": str(app)}, False),
    ):
        run.make_guest(settings(gpu="ptx", **chosen), image=image, scripted=scripted)
    assert seen == [True, False, True, True]


def test_without_gpu_there_is_neither_device_nor_shared_memory(fake_qemu, image):
    guest = run.make_guest(settings(), image=image)
    assert guest.gpu is None
    assert not [word for word in guest.arguments() if "ivshmem" in word or "backend" in word]


def test_a_gpud_that_does_not_start(fake_qemu, fake_gpud, image):
    fake_gpud("fail")
    guest = run.make_guest(settings(gpu="ptx"), image=image)
    with pytest.raises(CllmError, match="gpud does not start: no card today"):
        guest.start()
    guest.stop()  # harmless


def test_the_socket_of_a_gpud_that_runs(fake_qemu, image, tmp_path):
    guest = run.make_guest(settings(), image=image, gpu=tmp_path / "a,b")
    assert f"socket,id=gpud,path={tmp_path}/a,,b" in guest.arguments()


@pytest.mark.parametrize("choice", ["auto", "cuda"])
def test_a_machine_without_a_card(choice, fake_qemu, fake_gpud, image, monkeypatch, capsys):
    monkeypatch.setattr(cards, "reason_for_none", lambda: "no card here")
    fake_gpud()
    if choice == "auto":
        assert run.make_guest(settings(gpu=choice), image=image).gpu is None
        assert "no GPU (no card here)" in capsys.readouterr().err
    else:
        with pytest.raises(CllmError, match="no card here; install NVIDIA's driver"):
            run.make_guest(settings(gpu=choice), image=image)


def test_with_a_card_auto_takes_it_with_all_its_memory(fake_qemu, fake_gpud, image, monkeypatch):
    monkeypatch.setattr(cards, "reason_for_none", lambda: None)
    arguments = fake_gpud()
    guest = run.make_guest(settings(gpu="auto"), image=image)
    guest.start()
    guest.stop()
    words = arguments()
    assert value(words, "--engine") == "cuda" and int(value(words, "--memory")) >= 1 << 20


def test_models_need_the_other_image_and_a_pack(
    fake_qemu, fake_gpud, tmp_path, monkeypatch, capsys
):
    arguments = fake_gpud()
    model = tmp_path / "model.gguf"
    model.write_bytes(b"GGUF?")
    chosen = settings(gpu="ptx", model=str(model))
    assert run.make_guest(chosen).image == run.IMAGE
    assert "build --gpu" in capsys.readouterr().err
    for name, file in (("GPU_IMAGE", "gpu.elf"), ("PACK", "pack")):
        (tmp_path / file).write_bytes(b"")
        monkeypatch.setattr(run, name, tmp_path / file)
    guest = run.make_guest(chosen)
    assert guest.image == run.GPU_IMAGE and capsys.readouterr().err == ""
    guest.start()
    guest.stop()
    assert value(arguments(), "--pack") == str(run.PACK)


def test_without_a_toolchain_tests_have_the_reason(monkeypatch, capsys):
    built = []
    monkeypatch.setattr(gpud, "build", lambda: built.append("gpud"))
    monkeypatch.setattr(build, "build_gpu_image", lambda: built.append("image"))
    monkeypatch.setattr(cuda, "build_program", lambda: built.append("program"))

    def fail():
        raise CllmError("no mirror serves clang-19")

    monkeypatch.setattr(cuda, "ready", fail)
    assert cli.build_gpu_tests() == "no mirror serves clang-19"
    assert "no mirror serves clang-19; the tests" in capsys.readouterr().err
    monkeypatch.setattr(cuda, "ready", lambda: None)
    assert cli.build_gpu_tests() == ""
    assert built == ["gpud", "gpud", "image", "program"]


def test_what_is_missing_is_named_with_the_reason(monkeypatch, tmp_path):
    monkeypatch.delenv("CLLM_NO_CUDA", raising=False)
    assert gpu_parts.missing([tmp_path]) == ""
    assert "no x: `cllm build --gpu`" in gpu_parts.missing([tmp_path, tmp_path / "x"])
    monkeypatch.setenv("CLLM_NO_CUDA", "no network")
    assert gpu_parts.missing([tmp_path / "x"]) == "there is no x: no network"
