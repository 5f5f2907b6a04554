"""The guests that upstream's runners talk to: one, one on a network, or two on one cable."""

import sys
import time

from cllm import CllmError, config, console, qemu, run

from upstream.groups import FOLDER, TESTS

# MiB. Some tests fill the heap, which may grow to all there is.
MEMORY = 48
NETWORK_MEMORY = 56  # the card's rings and buffers take 3, a TLS connection 0.1
BOOT_SECONDS = 60

# Every guest of the network groups brings its interface up after each soft reset, as boards do.
BOOT_PY = """\
import network
network.LAN().active(True)
network.LAN().ipconfig(addr4="{}/24", gw4="{}")
"""


class Machine:
    """A guest, until the end of the `with` block. path: of the pty that is its serial line."""

    def __init__(self, memory=MEMORY, **options):
        settings = {**config.DEFAULTS, "port": 0, "accel": "tcg", "memory": memory}
        self.guest = run.make_guest(settings, **options)
        self._pty = console.Pty(self.guest)
        self.path = self._pty.path

    def __enter__(self):
        self.guest.start()
        self._pty.open()
        self._wait_for(b">>> ", BOOT_SECONDS)
        return self

    def _wait_for(self, text, seconds):
        until = time.monotonic() + seconds
        while text not in self.guest.log():
            if self.guest.ended.is_set() or time.monotonic() > until:
                end = self.guest.log()[-2000:].decode("utf-8", "replace")
                raise CllmError(f"the guest did not reach its REPL:\n{end}")
            time.sleep(0.05)

    def __exit__(self, *_):
        self.guest.stop()
        self._pty.close()

    def has(self, module):
        """Return whether the guest can import a module."""
        board = _pyboard().Pyboard(self.path)
        try:
            board.enter_raw_repl()
            program = f"try:\n import {module}\n print(1)\nexcept ImportError: print(0)"
            return board.exec_(program).strip() == b"1"
        finally:
            board.close()

    def put(self, files):
        """Write {path in the guest: bytes} to its RAM file system, and make their folders."""
        board = _pyboard().Pyboard(self.path)
        try:
            board.enter_raw_repl()
            made = set()
            for path, content in files.items():
                parents = path.strip("/").split("/")[:-1]
                for depth in range(1, len(parents) + 1):
                    folder = "/" + "/".join(parents[:depth])
                    if folder not in made:
                        board.exec_(f"import os\ntry: os.mkdir({folder!r})\nexcept OSError: pass")
                        made.add(folder)
                board.fs_writefile(path, content)
        finally:
            board.close()


def _pyboard():
    tools = str(FOLDER / "tools")
    if tools not in sys.path:
        sys.path.append(tools)
    import pyboard

    return pyboard


class Machines:
    """Several guests for one group, each with files in its RAM file system."""

    def __init__(self, machines, files):
        self._machines = machines
        self._files = files
        self._entered = []

    def __enter__(self):
        try:
            for machine, files in zip(self._machines, self._files):
                self._entered.append(machine.__enter__())
                if files:
                    machine.put(files)
        except BaseException:
            self.__exit__()
            raise
        return self._entered

    def __exit__(self, *_):
        while self._entered:
            self._entered.pop().__exit__()


def _one(group):
    files = {}
    data = TESTS / group.folder / "data"
    if group.kind == "tests" and data.is_dir():
        # Files that the tests read; on a PC they lie beside the tests.
        files = {f"/data/{p.name}": p.read_bytes() for p in data.iterdir() if p.is_file()}
    return Machines([Machine()], [files])


def _on_network(_):
    boot = BOOT_PY.format("10.0.2.15", "10.0.2.2").encode()
    # Nobody is at the other end of the cable: results must not depend on the host.
    machine = Machine(NETWORK_MEMORY, netdev="hubport,hubid=0")
    return Machines([machine], [{"/boot.py": boot}])


def _two(_):
    """Two guests on one cable: datagrams between two UDP ports of this host."""
    here, there = qemu.free_port(), qemu.free_port()
    machines, files = [], []
    certificates = {f"/{p.name}": p.read_bytes() for p in (TESTS / "multi_net").glob("*.der")}
    for number, (mine, other) in enumerate(((here, there), (there, here)), 1):
        netdev = f"socket,udp=127.0.0.1:{other},localaddr=127.0.0.1:{mine}"
        mac = f"52:54:00:00:00:{number:02x}"
        machines.append(Machine(NETWORK_MEMORY, netdev=netdev, mac=mac))
        address = f"192.168.77.{number}"
        boot = BOOT_PY.format(address, "192.168.77.254").encode()
        files.append({"/boot.py": boot, **certificates})
    return Machines(machines, files)


MACHINES = {"tests": _one, "natmod": _one, "perf": _one, "net": _on_network, "multi": _two}
