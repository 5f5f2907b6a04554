"""gpud as a process: its socket, its workers, guests that are apart, and its end."""

import os
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cllm import TOP, CllmError, gpud
from support.gpud_library import LOST, PAGE, READY, Failure, Raw

ENOMEM, EINVAL, ELOST = 2, 1, 46
ALLOC, COPY = 4, 6
TO_HEAP = 4


@pytest.fixture(scope="module")
def daemon(library):
    with gpud.Daemon(upload=True, memory=64, shared=4) as daemon:
        yield daemon


def children(pid):
    """Process numbers of a process' children."""
    return [
        int(word)
        for task in Path(f"/proc/{pid}/task").iterdir()
        for word in (task / "children").read_text().split()
    ]


def test_it_ends_with_its_launcher(library):
    source = "from cllm import gpud\nd = gpud.Daemon()\nd.start()\nprint(d.socket, flush=True)"
    launcher = subprocess.Popen(
        [sys.executable, "-c", f"{source}\ninput()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(TOP / "host")},
    )
    where = Path(launcher.stdout.readline().strip())
    assert where.exists()
    launcher.kill()
    launcher.communicate()
    until = time.monotonic() + 10
    while where.exists():
        assert time.monotonic() < until
        time.sleep(0.05)
    shutil.rmtree(where.parent)


def test_the_socket_is_private(daemon):
    assert stat.S_IMODE(os.stat(daemon.socket).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(daemon.socket.parent).st_mode) == 0o700


def test_it_speaks_as_qemus_ivshmem_server(daemon):
    # QEMU, docs/specs/ivshmem-spec.rst: version, our number, memory, the peers' doorbells.
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(daemon.socket))
        client.settimeout(5)
        got = []
        for _ in range(5):
            data, fds, _, _ = socket.recv_fds(client, 8, 1)
            got.append((struct.unpack("<q", data)[0], len(fds)))
            if got[-1][0] == -1:
                assert os.fstat(fds[0]).st_size == 4 << 20
                with pytest.raises(OSError):
                    os.ftruncate(fds[0], 4096)  # sealed
            for fd in fds:
                os.close(fd)
        assert got == [(0, 0), (1, 0), (-1, 1), (0, 1), (1, 1)]


def test_guests_cannot_see_each_other(library, daemon):
    secret = os.urandom(4096)
    with library.socket(daemon.socket) as one, library.socket(daemon.socket) as two:
        with library.client(one) as client:
            hidden = client.alloc(4096)
            client.write(hidden, secret)
            thief = Raw(library, two)
            assert thief.epoch == 0
            body = struct.pack("<QQQIIII", hidden, 0, 4096, TO_HEAP, 1, 0, 0)
            assert thief.ask(COPY, body)[0] == EINVAL
            # Not even what the thief's own worker has there, if anything.
            code, own, _ = thief.call(ALLOC, 1 << 20)
            body = struct.pack("<QQQIIII", own, 0, 1 << 20, TO_HEAP, 1, 0, 0)
            assert code == 0 and thief.ask(COPY, body)[0] == 0
            assert secret[:64] not in bytes(thief.memory)
            assert thief.heap_read(0, 1 << 20) == b"\xa5" * (1 << 20)
            assert client.read(hidden, 4096) == secret


def test_guests_have_a_quota_each(library, daemon):
    with library.socket(daemon.socket) as one, library.socket(daemon.socket) as two:
        first, second = Raw(library, one), Raw(library, two)
        assert first.call(ALLOC, 64 << 20)[0] == 0
        assert first.call(ALLOC, 1)[0] == ENOMEM
        assert second.call(ALLOC, 64 << 20)[0] == 0


def test_a_worker_has_no_privileges(library, daemon):
    with library.socket(daemon.socket) as transport:
        Raw(library, transport)
        (worker,) = children(daemon.pid)
        status = Path(f"/proc/{worker}/status").read_text()
        assert "NoNewPrivs:\t1" in status
        assert "Seccomp:\t2" in status
        names = {os.readlink(path) for path in Path(f"/proc/{worker}/fd").iterdir()}
        assert not any(name.startswith("socket:") for name in names)
        assert not any("gpud.sock" in name for name in names)
        ours = os.readlink("/proc/self/ns/net")
        theirs = os.readlink(f"/proc/{worker}/ns/net")
        if theirs == ours:
            pytest.skip("this kernel gives no network namespace to everybody")


def test_a_worker_ends_with_its_guest(library, daemon):
    with library.socket(daemon.socket) as transport:
        Raw(library, transport)
        assert len(children(daemon.pid)) == 1
    deadline = time.monotonic() + 5
    while children(daemon.pid):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_worker_that_dies_is_a_loss_and_a_reset_starts_another(library, daemon):
    with library.socket(daemon.socket) as transport, library.client(transport) as client:
        client.alloc(1000)
        (worker,) = children(daemon.pid)
        os.kill(worker, signal.SIGKILL)
        began = time.monotonic()
        with pytest.raises(Failure) as failure:
            while True:
                client.alloc(1000)
        assert failure.value.code == ELOST
        assert "signal 9" in str(failure.value)
        assert time.monotonic() - began < 2
        assert client.so.ucuda_status() == ELOST
        client.call("reset")
        assert client.memory()[0] == 64 << 20


def test_a_killed_daemon_is_a_loss_and_the_next_one_knows_its_guests(library):
    with gpud.Daemon(upload=True, memory=64, shared=4) as daemon:
        with library.socket(daemon.socket) as transport, library.client(transport) as client:
            address = client.alloc(1000)
            (worker,) = children(daemon.pid)
            daemon.kill()
            began = time.monotonic()
            with pytest.raises(Failure) as failure:
                client.read(address, 1)
            assert failure.value.code == ELOST
            assert time.monotonic() - began < 6
            assert not Path(f"/proc/{worker}").exists()  # it does not outlive gpud
            daemon.start()
            assert client.so.ucuda_status() == ELOST
            client.call("reset")
            client.free(client.alloc(1000))


def test_only_so_many_guests(library):
    with gpud.Daemon(shared=4, ram=[]) as daemon:
        daemon._words += ["--guests", "1"]
        daemon.kill()
        daemon.start()
        with library.socket(daemon.socket) as transport:
            raw = Raw(library, transport)
            with pytest.raises(ConnectionError), library.socket(daemon.socket):
                pass
            assert raw.host("state") == READY
        assert "turned away" in daemon.log()


def test_windows_of_files(library, tmp_path):
    ram, model = tmp_path / "ram", tmp_path / "model"
    ram.write_bytes(bytes(1 << 20))
    model.write_bytes(os.urandom(1 << 20))
    half = 1 << 19
    parts = [(ram, 0x100000, half, 0), (ram, 4 << 30, half, half)]
    with gpud.Daemon(shared=4, ram=parts, files=[(model, 0x40000000, 1 << 20, 0)]) as daemon:
        with library.socket(daemon.socket) as transport:
            raw = Raw(library, transport)
            assert raw.info.features & 1
            code, address, _ = raw.call(ALLOC, 4096)
            assert code == 0
            body = struct.pack("<QQQIIII", address, 0x40000000, 4096, 3, 1, 0, 0)
            assert raw.ask(COPY, body)[0] == 0
            body = struct.pack("<QQQIIII", address, 0x101000, 4096, 5, 1, 0, 0)
            assert raw.ask(COPY, body)[0] == 0
            assert ram.read_bytes()[4096:8192] == model.read_bytes()[:4096]
            body = struct.pack("<QQQIIII", address, (4 << 30) + 4096, 4096, 5, 1, 0, 0)
            assert raw.ask(COPY, body)[0] == 0
            assert ram.read_bytes()[half + 4096 : half + 8192] == model.read_bytes()[:4096]
            body = struct.pack("<QQQIIII", address, 0x100000 + half - 64, 4096, 5, 1, 0, 0)
            assert raw.ask(COPY, body)[0] == EINVAL
            body = struct.pack("<QQQIIII", address, 0x40000000, 4096, 5, 1, 0, 0)
            assert raw.ask(COPY, body)[0] == EINVAL


def test_a_file_shorter_than_its_window_is_a_failure_with_words(library, tmp_path):
    (tmp_path / "model").write_bytes(bytes(4096))
    with gpud.Daemon(shared=4, files=[(tmp_path / "model", 0, 8192, 0)]) as daemon:
        with library.socket(daemon.socket) as transport:
            raw = Raw(library, transport)
            assert raw.host("state") in (LOST, 2)
            assert "shorter" in raw.fault()


@pytest.mark.parametrize(
    "words, message",
    [
        (["--engine", "none"], "no engine"), (["--cc", "6"], "compute capability"),
        (["--memory", "0"], "not a number"), (["--memory", "1x"], "not a number"),
        (["--file", "name:1"], "FILE:START:SIZE"), (["--file", "/none:0:1"], "No such file"),
        (["--file", "/dev/null:0xffffffffffffffff:2"], "wraps"), (["--adopt", "1,2"], "four"),
        (["--nothing"], "see gpud --help"), (["--pack", "/none"], "No such file"),
    ],
)  # fmt: skip
def test_wrong_options_are_named(library, tmp_path, words, message):
    command = [gpud.PROGRAM, "--socket", tmp_path / "s", *words]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=10)
    assert ran.returncode == 1
    assert message in ran.stderr


def test_a_daemon_that_does_not_start_says_why(library, tmp_path):
    with pytest.raises(CllmError, match="No such file"):
        gpud.Daemon(pack=tmp_path / "none").start()


def test_the_guests_page_cannot_fool_the_server(library, daemon):
    with library.socket(daemon.socket) as transport:
        raw = Raw(library, transport)
        raw.memory[0 : 3 * PAGE] = b"\xff" * 3 * PAGE  # every page, gpud's own too
        raw.ring()
        time.sleep(0.3)
    with library.socket(daemon.socket) as transport:
        assert Raw(library, transport).call(ALLOC, 100)[0] == 0
