"""Parts of the build: steps and their logs, compiler wrappers, image.finish()."""

import io
import os
import struct
import subprocess

import pytest
from cllm import CllmError, build, image, progress
from cllm.steps import Steps


@pytest.fixture
def steps(tmp_path):
    return Steps(tmp_path / "log", io.StringIO())


def test_a_step_shows_its_title_and_keeps_its_output(steps, tmp_path):
    steps.run("a step", ["sh", "-c", "echo out; echo err >&2"])
    assert "a step: done in" in steps.progress.stream.getvalue()
    log = (tmp_path / "log" / "a-step.log").read_text()
    assert log.startswith("$ sh -c ") and "out\n" in log and "err\n" in log


def test_a_failed_step_shows_its_end_and_names_its_log(steps):
    with pytest.raises(CllmError, match=r"bad failed \(status 3\).*bad.log"):
        steps.run("bad", ["sh", "-c", "seq 1 100; exit 3"])
    shown = steps.progress.stream.getvalue()
    assert "\n100\n" in shown and "\n50\n" not in shown


def test_a_program_that_is_missing(steps):
    with pytest.raises(CllmError, match="cannot run no-such-program"):
        steps.run("step", ["no-such-program"])


def test_a_long_step_shows_how_far_it_is(steps, monkeypatch):
    monkeypatch.setattr(progress, "QUIET_SECONDS", 0.1)
    steps.run("long", ["sh", "-c", "echo '[3/9] object'; sleep 0.5"])
    assert "long: [3/9] object" in steps.progress.stream.getvalue()


@pytest.fixture
def tools(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "TOOLS", tmp_path / "tools")
    build.write_tools()
    return tmp_path / "tools"


def test_an_unchanged_wrapper_keeps_its_time_stamp(tools):
    os.utime(tools / "zig-cc", (1, 1))
    build.write_tools()
    assert (tools / "zig-cc").stat().st_mtime == 1


def test_zig_cpp_takes_many_files_and_standard_input(tools, tmp_path):
    for name in ("a.c", "b.c"):
        (tmp_path / name).write_text(f"from_{name[0]} NUMBER\n")
    command = [tools / "zig-cpp", "-DNUMBER=42", tmp_path / "a.c", tmp_path / "b.c"]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "from_a 42" in out and "from_b 42" in out
    command = [tools / "zig-cpp", "-mcpu=x86_64+soft_float", "-DNUMBER=7", "-"]
    piped = subprocess.run(command, input="x NUMBER", capture_output=True, text=True, check=True)
    assert "x 7" in piped.stdout


def test_zig_makes_a_precompiled_header_of_what_cmake_asks(tools, tmp_path):
    header = tmp_path / "a.h"
    header.write_text("inline int seven() { return 7; }\n")
    source = tmp_path / "pch.cxx"
    source.write_text("")
    made = tmp_path / "pch.pch"
    include = ["-Xclang", "-include", "-Xclang", header]
    subprocess.run(
        [tools / "zig-c++", *include, "-x", "c++-header", "-o", made, "-c", source], check=True
    )
    assert made.read_bytes()[:4] == b"CPCH"
    user = tmp_path / "user.cpp"
    user.write_text("int f() { return seven(); }\n")
    use = ["-Xclang", "-include-pch", "-Xclang", made]
    subprocess.run([tools / "zig-c++", *use, "-o", tmp_path / "user.o", "-c", user], check=True)
    assert (tmp_path / "user.o").read_bytes()[:4] == b"\x7fELF"


@pytest.mark.parametrize("checkout", [False, True])
def test_a_checkout_of_llama_cpp_is_compiled_file_by_file(checkout, tmp_path, monkeypatch):
    monkeypatch.delenv("LLAMA_SRC", raising=False)
    if checkout:
        monkeypatch.setenv("LLAMA_SRC", str(tmp_path))
    options = []
    monkeypatch.setattr(build, "cmake", lambda *words: options.extend(words[4:]))
    build._native(None, tmp_path, tmp_path / "native", "toolchain.cmake", "-DGIVEN=1")
    assert ("-DCLLM_UNITY=OFF" in options) == checkout
    assert f"-DLLAMA_SRC={tmp_path}" in options and "-DGIVEN=1" in options


def elf(segments, tail):
    """Return a 64-bit ELF file: (type, bytes) segments, `tail`, and a table of empty sections."""
    header = b"\x7fELF\x02\x01\x01" + bytes(9)
    start = 64 + 56 * len(segments)
    table, body = b"", b""
    for kind, content in segments:
        at = start + len(body)
        size = len(content)
        table += struct.pack("<IIQQQQQQ", kind, 5, at, 1 << 20, 1 << 20, size, size, 1)
        body += content
    header += struct.pack(
        "<HHIQQQIHHHHHH",
        2,
        62,
        1,
        1 << 20,
        64,
        start + len(body) + len(tail),
        0,
        64,
        56,
        len(segments),
        64,
        2,
        1,
    )
    names = struct.pack("<IIQQQQIIQQ", 1, 3, 0, 0, start + len(body), len(tail), 0, 0, 1, 0)
    return header + table + body + tail + bytes(64) + names


@pytest.fixture
def stripped(tmp_path, monkeypatch):
    # These files have no section for it; test_host_symbols.py has one.
    monkeypatch.setattr(image.symbols, "write_into", lambda data, elf: None)

    def strip(data):
        linked = tmp_path / "linked.elf"
        if not linked.exists() or linked.read_bytes() != data:  # as a linker does
            linked.write_bytes(data)
        image.finish(linked, tmp_path / "image.elf", tmp_path / "debug.elf")
        return (tmp_path / "image.elf").read_bytes()

    return strip


def test_strip_keeps_all_that_is_loaded_where_it_was(stripped, tmp_path):
    data = elf([(1, b"code" * 100), (1, b"data" * 10)], b"symbols" * 1000)
    made = stripped(data)
    assert (tmp_path / "debug.elf").read_bytes() == data
    assert len(made) == len(data) - 7000 - 2 * 64
    assert made[64:] == data[64 : len(made)]
    # e_shoff, e_shnum and e_shstrndx: there are no sections any more.
    assert made[40:48] == bytes(8) and made[60:64] == bytes(4)


def test_strip_leaves_an_unchanged_image_alone(stripped, tmp_path):
    data = elf([(1, b"code")], b"")
    stripped(data)
    before = (tmp_path / "image.elf").stat().st_mtime_ns
    stripped(data)
    assert (tmp_path / "image.elf").stat().st_mtime_ns == before
    stripped(elf([(1, b"edoc")], b""))
    assert (tmp_path / "image.elf").stat().st_mtime_ns != before


def test_strip_refuses_what_is_no_elf(stripped):
    with pytest.raises(CllmError, match="not a 64-bit"):
        stripped(b"MZ" * 100)
