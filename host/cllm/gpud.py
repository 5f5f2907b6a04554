"""gpud, the daemon on the host that computes for guests: build it, start it, stop it.

docs/gpu.md says what it does; native/gpud/options.cpp has its options.
"""

import array
import os
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from . import TOP, CllmError
from .steps import Steps

FOLDER = TOP / "build" / "gpud"
PROGRAM = FOLDER / "gpud"
LIBRARY = FOLDER / "libgpud.so"
START_SECONDS = 10
STOP_SECONDS = 5


def build() -> Path:
    """Bring gpud and libgpud.so up to date; return the path of the program."""
    # Not at the top: whoever only starts gpud may lack what builds it (gpu_check.py).
    from . import build as builds

    with builds.alone():
        builds.write_tools()
        builds.cmake(Steps(), TOP / "native" / "gpud", FOLDER, "llama.cpp/zig-gnu.cmake")
    return PROGRAM


class Daemon:
    """One gpud process, whose socket lies in a folder that only this user may enter.

    engine: "ptx" (an interpreter) or "cuda" (a card). memory: MiB of device memory for each guest.
    shared: MiB of memory shared with each guest, a power of two. devices: number of emulated ones.
    compute: the capability that they are shown as. pack: file of PTX that guests may run. upload:
    guests may send PTX of their own. ram, files: (path, guest-physical start, size, offset in the
    file) of the guest's memory and of files mapped into it; with ram there can be one guest only.
    time_limit: seconds for one command. program: of gpud.

    QEMU connects to `socket`. After kill(), start() makes a gpud that knows the guests of the
    earlier one: they see the loss, and may reset.
    """

    def __init__(
        self,
        *,
        engine: str = "ptx",
        memory: int = 1024,
        shared: int = 64,
        devices: int = 1,
        compute: str = "6.1",
        pack: str | Path | None = None,
        upload: bool = False,
        ram: Sequence[tuple[str | Path, int, int, int]] = (),
        files: Sequence[tuple[str | Path, int, int, int]] = (),
        time_limit: int = 60,
        program: str | Path = PROGRAM,
    ) -> None:
        self.program = Path(program)
        self._folder = tempfile.mkdtemp(prefix="gpud-")
        self.socket = Path(self._folder) / "gpud.sock"
        words = ["--socket", self.socket, "--engine", engine, "--memory", memory]
        words += ["--shared", shared, "--devices", devices, "--cc", compute]
        words += ["--time-limit", time_limit]
        if pack is not None:
            words += ["--pack", pack]
        if upload:
            words.append("--upload")
        for option, windows in (("--ram", ram), ("--file", files)):
            for path, start, size, offset in windows:
                words += [option, f"{path}:{start}:{size}@{offset}"]
        self._words = [str(word) for word in words]
        self._process: subprocess.Popen[bytes] | None = None
        self._store: _Store | None = None
        self._log = Path(self._folder) / "log"

    @property
    def pid(self) -> int:
        """The process' number; 0 when it does not run."""
        return self._process.pid if self._process else 0

    def is_running(self) -> bool:
        """Return whether the process runs."""
        return self._process is not None and self._process.poll() is None

    def log(self) -> str:
        """Return what gpud and its workers wrote so far."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def start(self) -> None:
        """Start gpud and wait until it listens. Raises CllmError when it does not."""
        guests = self._store.stop() if self._store else []
        self._store = _Store()
        words = [str(self.program), *self._words, "--store", str(self._store.far.fileno())]
        passed = [self._store.far.fileno()]
        for fds in guests:
            words += ["--adopt", ",".join(map(str, fds))]
            passed += fds
        self.socket.unlink(missing_ok=True)
        try:
            with open(self._log, "ab") as log:
                self._process = subprocess.Popen(
                    words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=passed
                )
        except OSError as error:
            raise CllmError(f"cannot start {self.program}: {error.strerror}") from None
        finally:
            for fd in (fd for fds in guests for fd in fds):
                os.close(fd)
        self._store.start()
        deadline = time.monotonic() + START_SECONDS
        while not self.socket.exists():
            if self._process.poll() is not None or time.monotonic() > deadline:
                text = self.log().strip()
                self.stop()
                raise CllmError(f"gpud does not start: {text or 'it says nothing'}")
            time.sleep(0.01)

    def kill(self) -> None:
        """End gpud as if it had crashed; its guests are kept for the next start()."""
        if self._process:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """End gpud and forget its guests."""
        if self._process:
            self._process.terminate()
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        if self._store:
            for fds in self._store.stop():
                for fd in fds:
                    os.close(fd)
            self._store = None
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> "Daemon":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class _Store:
    """Keeps the guests' file descriptors, which gpud sends whenever a guest comes or goes.

    A message is 8 bytes, the number of guests; one per guest follows, with its connection, memory,
    doorbell and interrupt.
    """

    def __init__(self) -> None:
        self._near, self.far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._guests: list[list[int]] = []
        self._thread = threading.Thread(target=self._listen, daemon=True)

    def start(self) -> None:
        """Listen until gpud ends."""
        self.far.close()
        self._thread.start()

    def stop(self) -> list[list[int]]:
        """Wait for gpud's end; return the guests' descriptors, which are the caller's to close."""
        if self._thread.is_alive():
            self._thread.join(STOP_SECONDS)
        self.far.close()
        self._near.close()
        guests, self._guests = self._guests, []
        return guests

    def _listen(self) -> None:
        while count := self._receive():
            (number, _) = count
            guests = []
            for _ in range(number):
                message = self._receive()
                if message is None:
                    break
                guests.append(message[1])
            for fd in (fd for fds in self._guests for fd in fds):
                os.close(fd)
            self._guests = guests

    def _receive(self) -> tuple[int, list[int]] | None:
        fds = array.array("i")
        try:
            data, control, _, _ = self._near.recvmsg(8, socket.CMSG_SPACE(4 * fds.itemsize))
        except OSError:
            return None
        if len(data) != 8:
            return None
        for level, kind, content in control:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
        return struct.unpack("<q", data)[0], list(fds)
