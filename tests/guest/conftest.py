"""Fixtures that boot the image in QEMU.

* `guest`: one guest with the tiny model for the whole session. A test may use its server and its
  REPL but must leave it serving; the fixture checks that.
* `boot(...)`: a guest of the test's own, with any options, ended when the test ends.
* `boot_once(...)`: the same for all tests of a module.
* `wire`: for `boot(netdev=wire.netdev)`: the far end of the network cable, frame by frame.

A failed test's report holds the end of the serial line of every guest it used.
"""

import os
import re
import shutil
import socket
import tempfile
import time
from pathlib import Path

import pytest
from cllm import config, fetch, health, run
from cllm.build import BUILD, IMAGE
from support import tiny_model as tiny

# Virtual CPUs and the network card where a test does not name them.
SMP = int(os.environ.get("CLLM_SMP", 1))
NIC = os.environ.get("CLLM_NIC", "auto")
# Emulated, on a machine that is busy with other things; what works takes a fraction of this.
PATIENCE = 120


class Serial:
    """The serial line of a guest: send text, expect patterns in what comes back.

    expect() looks at what came since the last match and keeps what it skipped in `before`: a
    pattern that begins with what it collects would be tried at every byte. Times are in seconds.
    """

    def __init__(self, guest):
        self._guest = guest
        self._seen = bytearray()
        self._from = 0
        self.before = b""
        guest.listeners.append(self._seen.extend)

    def send(self, text):
        self._guest.write(text.encode() if isinstance(text, str) else text)

    def sendline(self, text):
        self.send(text + "\r")

    def expect(self, pattern, timeout=PATIENCE):
        """Wait for a regular expression (str or bytes); returns the match object (of bytes)."""
        wanted = re.compile(pattern.encode() if isinstance(pattern, str) else pattern)
        until = time.monotonic() + timeout
        while True:
            last = self._guest.ended.is_set() or time.monotonic() > until
            if match := wanted.search(bytes(self._seen), self._from):
                self.before = bytes(self._seen[self._from : match.start()])
                self._from = match.end()
                return match
            if last:
                raise AssertionError(
                    f"no {wanted.pattern!r} on the serial line; the end of what came: "
                    f"{bytes(self._seen[self._from :][-500:])!r}"
                )
            # Bytes come one by one: looking again at each would take longer than the guest.
            time.sleep(0.05)

    def booted(self, timeout=PATIENCE):
        """Wait for a prompt after the boot table, which would interrupt a line typed earlier."""
        self.expect("in all\r\n", timeout)
        self.send("\r")
        self.expect(">>> ", timeout)

    def run(self, line, timeout=PATIENCE):
        """Run one line at the REPL's prompt; returns what it printed, as str."""
        self.sendline(line)
        self.expect(re.escape(line) + r"\r\n", timeout)
        self.expect(">>> ", timeout)
        return self.before.decode().removesuffix("\r\n")


class Wire:
    """The far end of a guest's network cable: whole Ethernet frames, in datagrams to QEMU."""

    def __init__(self):
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as theirs:
            theirs.bind(("127.0.0.1", 0))
            self._there = theirs.getsockname()
        here = "{}:{}".format(*self._socket.getsockname())
        self.netdev = "socket,udp={},localaddr={}:{}".format(here, *self._there)

    def send(self, frame):
        self._socket.sendto(frame, self._there)

    def receive(self, timeout=PATIENCE):
        """The next frame from the guest, None when there is none in `timeout` seconds."""
        self._socket.settimeout(timeout)
        try:
            return self._socket.recv(65536)
        except TimeoutError:
            return None

    def close(self):
        self._socket.close()


def start(*, config_json=None, wait=True, gpu_socket=None, **options):
    """Boot the image; see the fixture `boot`."""
    if not IMAGE.exists():
        pytest.fail(f"there is no {IMAGE}: run `make build`", pytrace=False)
    settings = {**config.DEFAULTS, "port": 0, "accel": "tcg", "smp": SMP, "nic": NIC}
    settings.update((key, options.pop(key)) for key in config.DEFAULTS if key in options)
    if gpu_socket:
        options["gpu"] = gpu_socket
    guest = run.make_guest(settings, config_json, **options)
    guest.serial = Serial(guest)
    guest.start()
    guest.verdict = None
    if wait:
        guest.verdict = health.wait_until_decided(guest.port, guest.ended, PATIENCE)
        # The table of boot comes at its own time; a line that is typed just then has it in its
        # echo.
        until = time.monotonic() + 5
        while b" ms  in all" not in guest.log() and time.monotonic() < until:
            time.sleep(0.01)
    return guest


GUESTS = pytest.StashKey()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    report = yield
    if report.failed:
        for number, guest in enumerate(item.stash.get(GUESTS, [])):
            end = guest.log()[-8000:].decode("utf-8", "replace").replace("\r\n", "\n")
            if guest.ended.is_set():
                end += f"\n[{guest.reason()}]"
            report.sections.append((f"serial line of guest {number}", end))
    return report


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """Path of a small model that loads in no time and talks nonsense, always the same."""
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    tiny.make(path)
    return path


@pytest.fixture(scope="session")
def selftest():
    """For tests that call _x86.crash() or _x86.stress()."""
    if not (BUILD / "port" / "selftest-1").exists():
        pytest.skip("the image has no self tests: it was built with CLLM_SELFTEST=0")


@pytest.fixture(scope="session")
def private_smollm2():
    """Path of a SmolLM2 that no other process maps, whose pages a host may drop: they are clean,
    and not on /tmp, which may be a tmpfs."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        path = Path(shutil.copy(fetch.default_model(), folder))
        with open(path, "rb") as file:
            os.fsync(file.fileno())
        yield path


@pytest.fixture
def boot(request):
    """boot(model=PATH, app=PATH, config_json={...}, smp=, memory=, netdev=, wait=True) -> guest.

    gpu="ptx" gives the guest a gpud of its own, gpu_socket=PATH one that runs already.

    The guest has `url`, `port`, `serial`, `ended` and `verdict`: None once it is ready, the
    reason when it serves no model, "" when it ended or took too long. With wait=False it comes
    back at once.
    """
    guests = []

    def boot(**options):
        guest = start(**options)
        guests.append(guest)
        request.node.stash.setdefault(GUESTS, []).append(guest)
        return guest

    yield boot
    for guest in guests:
        guest.stop()


@pytest.fixture
def adopt(request):
    """adopt(GUEST): starts a qemu.Guest that the test made, with a `serial`, and ends it."""
    guests = []

    def adopt(guest):
        guest.serial = Serial(guest)
        guests.append(guest)
        request.node.stash.setdefault(GUESTS, []).append(guest)
        guest.start()
        return guest

    yield adopt
    for guest in guests:
        guest.stop()


@pytest.fixture(scope="module")
def boot_once():
    """As `boot`, for a guest that all tests of a module share."""
    guests = []

    def boot_once(**options):
        guest = start(**options)
        guests.append(guest)
        return guest

    yield boot_once
    for guest in guests:
        guest.stop()


class Shared:
    """The session's guest, booted when first needed, and again after a test has ended it."""

    def __init__(self, model):
        self._model = model
        self._guest = None

    def get(self):
        if self._guest is None:
            self._guest = start(model=str(self._model))
            if self._guest.verdict is not None:
                log = self._guest.log().decode("utf-8", "replace")
                why = self._guest.verdict or "it took too long or ended"
                self.drop()
                pytest.fail(f"the session's guest is not ready: {why}\n{log}", pytrace=False)
        return self._guest

    def drop(self):
        if self._guest:
            self._guest.stop()
        self._guest = None


@pytest.fixture(scope="session")
def _shared(tiny_model):
    shared = Shared(tiny_model)
    yield shared
    shared.drop()


@pytest.fixture
def guest(request, _shared):
    """The session's guest, ready with the tiny model; a test must leave it so."""
    guest = _shared.get()
    request.node.stash.setdefault(GUESTS, []).append(guest)
    yield guest
    status, message = health.ask(guest.port, PATIENCE)
    if status != 200:
        _shared.drop()
        pytest.fail(f"after the test /health answered {status} {message}", pytrace=False)


@pytest.fixture
def wire():
    wire = Wire()
    yield wire
    wire.close()
