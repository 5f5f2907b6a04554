"""`cllm run` from outside: a process with signals, a terminal, files, and a stand-in for QEMU."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pexpect
import pytest
from cllm import CllmError, config, memory, qemu, run
from test_host_memory import LLAMA, header, numbers, write_model

HOST = Path(__file__).resolve().parents[3] / "host"
# The program of bin/cllm, with another image than that of `make build`.
DRIVER = """\
import sys
sys.path.insert(0, {host!r})
from pathlib import Path
from cllm import cli, run
run.UNPACKED = ".elf"
run.IMAGE = run.DEBUG_IMAGE = Path({image!r})
sys.exit(cli.main(sys.argv[1:]))
"""
LOADING = 'serve 503 {"error": {"message": "Loading model"}}'
NO_MODEL = 'serve 503 {"error": {"message": "no model module"}}'


@pytest.fixture
def command(fake_qemu, image, tmp_path):
    """Return the argv of the cllm command."""
    driver = tmp_path / "cllm.py"
    driver.write_text(DRIVER.format(host=str(HOST), image=str(image)))
    return [sys.executable, str(driver)]


@pytest.fixture
def start(command):
    """Start `cllm ARGS...`; the end of the test kills what still runs."""
    started = []

    def start(*arguments, **options):
        process = subprocess.Popen(
            [*command, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            **options,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            pipe.close()


def read_until(process, words):
    seen = b""
    while words not in seen:
        data = os.read(process.stdout.fileno(), 4096)
        assert data, f"ended after {seen!r}: {process.stderr.read()!r}"
        seen += data
    return seen


def fails(process):
    out, err = process.communicate(timeout=30)
    assert process.returncode != 0
    assert b"Traceback" not in err
    return err.decode()


def gone(pid):
    """Return whether a process ends within seconds."""
    for _ in range(100):
        if gone_now(pid):
            return True
        time.sleep(0.05)
    return False


def gone_now(pid):
    """Return whether a process has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


def child(process):
    return int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_ready_line_and_a_clean_end(start, number):
    port = qemu.free_port()
    process = start("run", "--port", str(port))
    ready = f"ready http://127.0.0.1:{port}\n".encode()
    seen = read_until(process, ready)
    # On a line of its own, although the guest was in the middle of one.
    assert b"guest banner\r\nno newline here\r\n" + ready == seen
    guest = child(process)
    process.send_signal(number)
    assert process.wait(20) == 0
    assert gone(guest)


def test_sigterm_lets_requests_end_and_a_second_signal_does_not_wait(start, monkeypatch):
    monkeypatch.setenv("FAKE_QEMU", "deaf 200 {}")  # it does not switch itself off
    process = start("run", "--port", str(qemu.free_port()))
    read_until(process, b"ready ")
    guest = child(process)
    process.send_signal(signal.SIGTERM)
    time.sleep(1)
    assert process.poll() is None and not gone_now(guest)
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0
    assert gone(guest)


def test_sigterm_waits_as_long_as_the_guest_is_told(start, monkeypatch, tmp_path):
    monkeypatch.setenv("FAKE_QEMU", "deaf 200 {}")
    file = tmp_path / "config.json"
    file.write_text('{"limits": {"drain_s": 0}}')
    process = start("run", "--port", str(qemu.free_port()), "--config", str(file))
    read_until(process, b"ready ")
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0


def test_sigint_counts_even_when_it_was_ignored_at_the_start(command):
    port = qemu.free_port()
    process = subprocess.Popen(
        ["sh", "-c", 'trap "" INT; exec "$@"', "sh", *command, "run", "--port", str(port)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    with process:
        read_until(process, b"ready ")
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0


def test_without_a_model_the_reason_is_told_once(start, monkeypatch):
    monkeypatch.setenv("FAKE_QEMU", NO_MODEL)
    port = qemu.free_port()
    process = start("run", "--port", str(port))
    seen = read_until(process, b"model module\n")
    assert seen.endswith(
        f"serving http://127.0.0.1:{port} without a model: no model module\n".encode()
    )
    process.terminate()
    assert process.wait(20) == 0
    assert process.stdout.read() == b""


def test_loading_is_not_final(start, monkeypatch):
    monkeypatch.setenv("FAKE_QEMU", LOADING)
    process = start("run", "--port", "0")
    read_until(process, b"no newline here")
    time.sleep(0.5)
    process.terminate()
    out, _ = process.communicate(timeout=20)
    assert process.returncode == 0 and out == b""


def test_keys_go_to_the_guest_and_stdin_may_end(start):
    process = start("run", "--port", "0")
    read_until(process, b"ready ")
    process.stdin.write(b"print(1)\r")
    process.stdin.close()
    read_until(process, b"<print(1)\r>")
    process.terminate()
    assert process.wait(20) == 0
    process.stdin = open(os.devnull)


def test_qemu_ends_when_cllm_is_killed(start):
    process = start("run", "--port", "0")
    read_until(process, b"ready ")
    guest = child(process)
    process.kill()
    process.wait()
    assert gone(guest)


@pytest.mark.parametrize(
    "act, words",
    [
        ("exit 0", "the guest powered off or was reset"),
        ("exit 7", "the guest ended with code 3"),
        ("fail no such device", "no such device"),
    ],
)
def test_a_guest_that_ends_is_a_failure_with_a_reason(start, monkeypatch, act, words):
    monkeypatch.setenv("FAKE_QEMU", act)
    assert words in fails(start("run", "--port", "0"))


def test_a_killed_qemu_is_named(start):
    process = start("run", "--port", "0")
    read_until(process, b"ready ")
    os.kill(child(process), signal.SIGKILL)
    assert "QEMU was ended by SIGKILL" in fails(process)


def test_a_busy_port_is_named(start):
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        words = fails(start("run", "--port", str(port)))
    assert f"port {port} of 127.0.0.1 cannot be used" in words and "--port" in words


def test_no_qemu(start, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "qemu-system-x86_64 is not installed" in fails(start("run"))


def test_no_image(start, image):
    image.unlink()
    assert "run `make build`" in fails(start("run", "--port", "0"))


@pytest.mark.parametrize("flag", ["--model", "--app", "--config"])
def test_a_file_that_is_not_there(start, flag):
    assert "nowhere.x" in fails(start("run", "--port", "0", flag, "nowhere.x"))


@pytest.mark.parametrize("flag", ["--model", "--app", "--config"])
def test_a_folder_is_no_file(start, tmp_path, flag):
    words = fails(start("run", "--port", "0", flag, str(tmp_path)))
    assert str(tmp_path) in words and ("is a folder" in words or "directory" in words)


@pytest.mark.parametrize("flag", ["--model", "--app"])
def test_what_is_no_file_is_not_read(start, tmp_path, flag):
    os.mkfifo(tmp_path / "pipe")
    for path in (str(tmp_path / "pipe"), "/dev/zero"):
        assert f"{path} is no regular file" in fails(start("run", "--port", "0", flag, path))
    long_name = str(tmp_path / ("x" * 300))
    assert "File name too long" in fails(start("run", "--port", "0", flag, long_name))
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    assert "symbolic links" in fails(start("run", "--port", "0", flag, str(loop)))


@pytest.mark.parametrize("key", ["model", "app", "draft", "serial", "pcap"])
@pytest.mark.parametrize("path", ["a\0b", "\ud800"])
def test_paths_that_no_system_call_takes(start, tmp_path, key, path):
    (tmp_path / "c.json").write_text(json.dumps({key: path}))
    assert "cannot" in fails(start("run", "--port", "0", "--config", str(tmp_path / "c.json")))


def test_handlers_that_the_guest_could_not_read(start, tmp_path):
    app = tmp_path / "app.py"
    app.write_bytes(b"# one\n# caf\xe9\n")
    assert "line 2: not UTF-8" in fails(start("run", "--port", "0", "--app", str(app)))
    app.write_bytes(b"#" * (run.MAX_PROGRAM + 1))
    assert "may have 1048576" in fails(start("run", "--port", "0", "--app", str(app)))


TCG = ("--accel", "tcg", "--kernels", "exact")


@pytest.mark.parametrize(
    "content, words",
    [
        (header((b"a", 9, b"\t\0\0\0\1\0\0\0\0\0\0\0" * 100_000)), "arrays in arrays"),
        (header(LLAMA, (b"split.count", 2, b"\2\0")), "NAME-00001-of-00002.gguf"),
        (
            numbers(
                block_count=2**31 - 1,
                attention__head_count=2**32 - 1,
                attention__value_length=2**30,
            ),
            "more than 1 TiB of memory",
        ),
    ],
)
def test_a_model_that_no_guest_can_serve_is_refused_before_it_boots(
    start, tmp_path, fake_qemu, content, words
):
    model = tmp_path / "hostile.gguf"
    model.write_bytes(content)
    said = fails(start("run", "--port", "0", *TCG, "--model", str(model)))
    assert said.startswith(f"cllm: cannot serve {model}: ") and words in said
    assert said.count("\n") == 1
    with pytest.raises(FileNotFoundError):
        fake_qemu()


def make(tmp_path, image, guest=None, **settings):
    settings = {**config.DEFAULTS, "port": 0, "accel": "tcg", **settings}
    return run.make_guest(settings, guest, image=image)


def test_more_memory_than_the_host_has_takes_its_name(fake_qemu, image, tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "of_host", lambda: 400)
    model = str(write_model(tmp_path / "m.gguf"))
    words = f'{model} needs [0-9]+ MiB .* this host has 400: set a smaller "n_ctx" .* --memory'
    with pytest.raises(CllmError, match=words):
        make(tmp_path, image, {"model": {"n_ctx": 8192}}, model=model)
    named = make(tmp_path, image, {"model": {"n_ctx": 8192}}, model=model, memory=5000)
    assert named.memory == 5000
    assert make(tmp_path, image, {"model": {"n_ctx": 256}}, model=model).memory <= 400


def test_memory_is_for_all_that_the_configuration_offers(fake_qemu, image, tmp_path):
    model = str(write_model(tmp_path / "m.gguf"))
    default = make(tmp_path, image, model=model).memory
    assert make(tmp_path, image, {"model": {"n_batch": 1024}}, model=model).memory > default
    assert make(tmp_path, image, model=model, draft=model).memory > default
    assert make(tmp_path, image).memory < default


def test_qemu_that_gets_no_memory_is_put_in_words(start, monkeypatch):
    monkeypatch.setenv(
        "FAKE_QEMU", "fail cannot set up guest memory 'pc.ram': Cannot allocate memory"
    )
    words = fails(start("run", "--port", "0", "--memory", "99999"))
    assert "this host has not 99999 MiB for the guest: name less with --memory" in words


def test_a_name_that_is_no_text_is_an_alias_all_the_same(fake_qemu, image, tmp_path):
    path = os.fsencode(tmp_path) + b"/caf\xe9.gguf"
    with open(path, "wb") as file:
        file.write(b"GGUF?")
    guest = make(tmp_path, image, model=os.fsdecode(path))
    assert json.loads(guest.modules["config.json"])["model"]["alias"] == "caf\ufffd"


def test_without_a_folder_for_its_files(fake_qemu, image, monkeypatch):
    def full(**_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryDirectory", full)
    with pytest.raises(CllmError, match="No space left on device.*TMPDIR"):
        qemu.Guest(image, port=qemu.free_port()).start()


@pytest.mark.parametrize("closed", [0, 1, 2])
def test_a_stream_may_be_closed(command, closed, tmp_path):
    port = qemu.free_port()
    process = subprocess.Popen(
        ["sh", "-c", f'exec "$@" {closed}<&-', "sh", *command, "run", "--port", str(port)],
        stdin=subprocess.DEVNULL if closed != 0 else None,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with process:
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        time.sleep(0.5)
        assert process.poll() is None
        process.terminate()
        out, err = process.communicate(timeout=20)
        assert process.returncode == 0 and b"Traceback" not in err


def test_bad_json_is_named_by_line(start, tmp_path):
    (tmp_path / "c.json").write_text('{\n "port": 1\n "smp": 2}')
    assert "line 3, column 2" in fails(start("run", "--config", str(tmp_path / "c.json")))


@pytest.mark.parametrize(
    "arguments",
    [
        ["--port", "x"],
        ["--port", "65536"],
        ["--smp", "0"],
        ["--memory", "1"],
        ["--accel", "fast"],
        ["--unknown"],
    ],
)
def test_bad_flags(start, arguments):
    assert arguments[0] in fails(start("run", *arguments))


def test_serial_to_a_file(start, tmp_path):
    process = start("run", "--port", "0", "--serial", str(tmp_path / "serial.txt"))
    seen = read_until(process, b"ready ")
    assert b"guest banner" not in seen
    process.terminate()
    process.wait(20)
    assert (tmp_path / "serial.txt").read_bytes() == b"guest banner\r\nno newline here"


def test_serial_to_a_file_that_cannot_be_made(start, tmp_path):
    words = fails(start("run", "--port", "0", "--serial", str(tmp_path / "no" / "serial.txt")))
    assert "cannot write the serial line" in words


def test_serial_on_a_pty(start):
    process = start("run", "--port", "0", "--serial", "pty")
    seen = read_until(process, b"ready ").decode()
    name = seen.split("serial line on ")[1].split()[0]
    for _ in range(2):  # a client may leave and come back
        client = os.open(name, os.O_RDWR | os.O_NOCTTY)
        os.write(client, b"1+1\r")
        answer = b""
        while b"<1+1\r>" not in answer:
            answer += os.read(client, 100)
        os.close(client)
    process.terminate()
    assert process.wait(20) == 0


def terminal(command, *arguments):
    return pexpect.spawn(command[0], [*command[1:], *arguments, "--port", "0"], timeout=20)


def test_ctrl_c_in_a_terminal_ends_a_run(command):
    screen = terminal(command, "run")
    screen.expect("ready http")
    screen.send("x\x04")
    screen.expect("<x\x04>")
    screen.sendintr()
    screen.expect(pexpect.EOF)
    screen.close()
    assert screen.exitstatus == 0


def test_in_repl_ctrl_c_is_the_guests_and_ctrl_bracket_leaves(command):
    screen = terminal(command, "repl")
    screen.expect("ready http")
    screen.sendintr()
    screen.expect("<\x03>")
    screen.send("\x1d")
    screen.expect(pexpect.EOF)
    screen.close()
    assert screen.exitstatus == 0


def test_debug_waits_and_says_how_to_attach(start, fake_qemu):
    process = start("debug", "--port", "0")
    seen = read_until(process, b"-ex continue").decode()
    read_until(process, b"ready ")
    port = seen.split("target remote 127.0.0.1:")[1].split("'")[0]
    line = fake_qemu()
    assert "-S" in line and f"tcp:127.0.0.1:{port}" in line


def test_the_guests_modules_and_memory(fake_qemu, image, tmp_path):
    # QEMU's own syntax would split this path.
    model = tmp_path / "my model, v1.gguf"
    model.write_bytes(b"GGUF?")
    app = tmp_path / "handlers.py"
    app.write_text("")
    settings = {
        **config.DEFAULTS,
        "model": str(model),
        "port": 0,
        "smp": 3,
        "accel": "tcg",
        "cpu_variant": "sse42",
        "app": str(app),
        "pcap": str(tmp_path / "a,b.pcap"),
        "nic": "e1000e",
    }
    guest = run.make_guest(settings, {"keys": ["k"]}, image=image)
    assert list(guest.modules) == ["model.gguf", "config.json", "app.py"]
    assert b'"alias": "my model, v1"' in guest.modules["config.json"]
    assert b'"cpu_variant": "sse42"' in guest.modules["config.json"]
    line = guest.arguments()
    assert line[line.index("-initrd") + 1] == "model.gguf,config.json,app.py"
    assert line[line.index("-smp") + 1] == "3"
    assert "e1000e,netdev=net0,romfile=" in line
    assert line[line.index("-m") + 1] == "128M"
    assert f"filter-dump,id=pcap0,netdev=net0,file={tmp_path}/a,,b.pcap" in line
    guest.start()
    try:
        folder = Path(guest._folder.name)
        assert (folder / "model.gguf").read_bytes() == b"GGUF?"
        assert not guest.ended.is_set()
    finally:
        guest.stop()
    assert not folder.exists()
    guest.stop()  # harmless


@pytest.mark.parametrize("sockets", [(), ("monitor",), ("qmp",), ("monitor", "qmp")])
def test_a_guest_has_a_screen_if_it_has_a_monitor(image, tmp_path, sockets):
    options = {name: tmp_path / name for name in sockets}
    line = qemu.Guest(image, port=qemu.free_port(), **options).arguments()
    assert line.count("-vga") == bool(sockets)
    assert [f"-{name}" in line for name in ("monitor", "qmp")] == [
        name in sockets for name in ("monitor", "qmp")
    ]


def test_a_large_model_is_mapped_and_its_last_bytes_are_loaded(image, tmp_path, fake_qemu):
    model = tmp_path / "large.gguf"
    with open(model, "wb") as file:
        file.truncate(5 << 30)
        file.seek(0, 2)
        file.write(b"end")
    small = tmp_path / "small.gguf"
    small.write_bytes(bytes(1 << 20))
    guest = qemu.Guest(
        image,
        modules={"model.gguf": model, "draft.gguf": small, "config.json": b"{}"},
        port=qemu.free_port(),
        memory=4096,
    )
    # 4 GiB of RAM: 3 below the hole for devices, one above, then the first file.
    first, second = 5 << 30, 11 << 30
    assert guest.mapped() == [
        ("model.gguf", first, (5 << 30) + 3),
        ("draft.gguf", second, 1 << 20),
    ]
    line = guest.arguments()
    words = line[line.index("-append") + 1].split()
    assert words[:2] == [
        f"pmem=model.gguf@{first:x}+140000003",
        f"pmem=draft.gguf@{second:x}+100000",
    ]
    assert line[line.index("-initrd") + 1] == "config.json,model.gguf.tail"
    assert (
        f"memory-backend-file,id=pmem0,mem-path=model.gguf,size={5 << 30},readonly=on,share=on"
        in line
    )
    guest.start()
    try:
        assert Path(guest._folder.name, "model.gguf.tail").read_bytes() == b"end"
    finally:
        guest.stop()


@pytest.mark.parametrize(
    "memory, first",
    [(32, 4 << 30), (3072, 4 << 30), (3583, 4 << 30), (3584, 5 << 30), (12288, 13 << 30)],
)
def test_where_qemu_has_room_for_a_mapped_file(image, tmp_path, memory, first):
    model = tmp_path / "model.gguf"
    model.write_bytes(bytes(1 << 20))
    guest = qemu.Guest(image, modules={"m": model}, port=1, memory=memory)
    assert guest.mapped() == [("m", first, 1 << 20)]
