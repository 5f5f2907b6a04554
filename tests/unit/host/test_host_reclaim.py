"""Pages of a file are dropped from a process, which reads the same content afterwards."""

import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from cllm import reclaim, run

SIZE = 16 << 20
# Maps its arguments' files, and reads all of them for each line on its standard input.
READER = """\
import hashlib, mmap, sys
files = [open(name, "rb") for name in sys.argv[1:]]
maps = [mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) for file in files]
for _ in sys.stdin:
    print(*(hashlib.sha256(area).hexdigest() for area in maps), flush=True)
"""


class Reader:
    def __init__(self, *paths):
        self._process = subprocess.Popen(
            [sys.executable, "-c", READER, *paths],
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.pid = self._process.pid

    def read(self):
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self._process.stdout.readline()

    def resident(self, path):
        """Return the bytes of the file in the process's memory; proc_pid_smaps(5)."""
        _, _, rest = Path(f"/proc/{self.pid}/smaps").read_text().partition(f" {path}\n")
        return int(rest.split("Rss:")[1].split()[0]) << 10

    def end(self):
        self._process.communicate()


@pytest.fixture
def paths():
    """Two files whose pages are clean, not on /tmp, which may be a tmpfs."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        paths = [Path(folder, name) for name in ("the model.gguf", "another")]
        for path in paths:
            with open(path, "wb") as file:
                file.write(os.urandom(SIZE))
                os.fsync(file.fileno())
        yield paths


@pytest.fixture
def reader(paths):
    reader = Reader(*paths)
    yield reader
    reader.end()


def test_pages_leave_and_come_back(reader, paths):
    before = reader.read()
    assert [reader.resident(path) for path in paths] == [SIZE, SIZE]
    if not reclaim.drop(reader.pid, paths[0]):
        pytest.skip("the kernel refuses process_madvise(2): it takes Linux 5.10 and CAP_SYS_NICE")
    # The kernel may miss a page or two that are not on its lists yet.
    assert reader.resident(paths[0]) < SIZE // 8
    assert reader.resident(paths[1]) == SIZE
    assert reader.read() == before
    assert reader.resident(paths[0]) == SIZE


def test_no_error_where_the_process_or_the_file_is_gone(reader, paths):
    reader.read()
    paths[0].unlink()
    reclaim.give_back(SimpleNamespace(pid=reader.pid, modules={"m": paths[0], "c": b"{}"}))
    reader.end()
    assert reclaim.drop(reader.pid, paths[1]) is False


def test_more_than_the_kernel_takes_at_once(monkeypatch):
    asked = []

    def syscall(number, process, area, count, advice, flags):
        asked.append((number, process, area._obj.base, area._obj.length, advice))
        return min(area._obj.length, 0x7FFFF000)

    monkeypatch.setattr(reclaim, "LIBC", SimpleNamespace(syscall=syscall))
    assert reclaim._page_out(7, 1 << 40, (1 << 40) + (3 << 30))
    assert asked == [
        (440, 7, 1 << 40, 3 << 30, 21),
        (440, 7, (1 << 40) + 0x7FFFF000, (3 << 30) - 0x7FFFF000, 21),
    ]
    monkeypatch.setattr(reclaim, "LIBC", SimpleNamespace(syscall=lambda *_: -1))
    assert not reclaim._page_out(7, 0, 4096)


@pytest.mark.parametrize(
    "reason, repacked, dropped",
    [(None, True, True), (None, False, False), ("no model", True, False), ("", True, False)],
)
def test_only_once_a_model_is_ready_whose_weights_were_copied(
    monkeypatch, reason, repacked, dropped
):
    guest = SimpleNamespace(port=1, ended=threading.Event(), forwards={}, url="http://")
    given, lines = [], []
    monkeypatch.setattr(run.health, "wait_until_decided", lambda *_: reason)
    monkeypatch.setattr(run.reclaim, "give_back", given.append)
    run._announce(guest, SimpleNamespace(line=lines.append), repacked)
    assert given == [guest] * dropped
    assert len(lines) == (reason != "")
