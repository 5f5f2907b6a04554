"""A guest in QEMU: its command line, its serial line, its end.

The serial line is QEMU's standard input and output, which this process holds; listeners pass the
bytes on to a terminal, a pty, a file or a test.
"""

import ctypes
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from . import CllmError, accel, gpud
from .disks import Disk
from .machines import MACHINES

PROGRAM = "qemu-system-x86_64"
GUEST_PORT = 80
KEPT = 1 << 16  # bytes of the serial line kept for log()
STOP_SECONDS = 5  # between SIGTERM and SIGKILL
# Files of at least this size are not loaded but mapped into the machine; see Guest.mapped().
LEAST_MAPPED = 1 << 20
PAGE = 4096
TAIL = ".tail"
MIB, GIB = 1 << 20, 1 << 30

# QEMU's names of the network cards that frozen/drivers knows. "auto" is the one that boots soonest:
# QEMU's e1000 takes no frame in its first second (kernel/dev/nic.c).
CARDS = {
    "auto": "virtio-net-pci",
    "virtio": "virtio-net-pci",
    "e1000e": "e1000e",
    "e1000": "e1000",
    "vmxnet3": "vmxnet3",
}
# The first line of the guest's report (kernel/crash.c).
DEATH = re.compile(rb"^cllm: ((?:fault|panic|watchdog): [^\r\n]*)", re.MULTILINE)

PR_SET_PDEATHSIG, PR_SET_THP_DISABLE = 1, 41  # prctl(2)
LIBC = ctypes.CDLL(None)


def find_qemu() -> str:
    """Return the path of QEMU; raises CllmError when it is not installed."""
    program = shutil.which(PROGRAM)
    if program is None:
        raise CllmError(
            f"{PROGRAM} is not installed: run `make build`, or install the Debian package "
            "qemu-system-x86"
        )
    return program


def _up(size: int, step: int) -> int:
    return -(-size // step) * step


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Guest:
    """One QEMU process with the image in it.

    image: path of the kernel. modules: {name in the guest: path, or bytes to be written to a
    file}. port: TCP port of 127.0.0.1 forwarded to the guest's port 80. smp: virtual CPUs.
    memory: MiB. accel: "tcg" or "kvm". pcap: file for every frame of the network card.
    netdev: a QEMU back-end ("tap,ifname=...", "socket,udp=...") to use in place of QEMU's own
    network; nothing is forwarded then. mac: of the network card, where two guests share a network.
    gdb: TCP port of 127.0.0.1 where the guest waits for a debugger. on_crash: "exit" ends QEMU
    when the guest crashes or resets itself; with "reboot" it boots again, like a machine, and its
    memory keeps the crash record. monitor, qmp: paths of Unix sockets for QEMU's human monitor
    and for its machine protocol (tests/support/qemu_monitor.py); with either the guest has a
    screen. cpu: QEMU's name of a processor (default: the best available). nic: a key of CARDS.
    forwards: {host's port: guest's port} beside `port`, unless there is a netdev.
    machine: a key of machines.MACHINES. disks: a list of disks.Disk. gpu: a gpud.Daemon of the
    guest's own, started before QEMU and ended after it, or the path of the socket of one that
    runs. Call start() and stop() from the main thread only: the kernel ends QEMU when the thread
    that started it ends. words: for the kernel's command line. extra: further options of QEMU.
    Raises CllmError for a device that the machine cannot have.
    """

    def __init__(
        self,
        image: str | Path,
        *,
        modules: dict[str, Any] | None = None,
        port: int,
        smp: int = 1,
        memory: int = 256,
        accel: str = "tcg",
        pcap: str | None = None,
        netdev: str | None = None,
        mac: str | None = None,
        gdb: int | None = None,
        on_crash: str = "exit",
        monitor: str | Path | None = None,
        qmp: str | Path | None = None,
        cpu: str | None = None,
        nic: str = "auto",
        forwards: dict[int, int] | None = None,
        gpu: gpud.Daemon | str | Path | None = None,
        words: str = "",
        extra: Sequence[str] = (),
        disks: list[Disk] | None = None,
        machine: str = "auto",
    ) -> None:
        self.image = Path(image)
        self.modules = modules or {}
        self.port = port
        self.smp = smp
        self.memory = memory
        self.accel = accel
        self.pcap = pcap
        self.netdev = netdev
        self.mac = mac
        self.gdb = gdb
        self.on_crash = on_crash
        self.monitor = monitor
        self.qmp = qmp
        self.cpu = cpu
        self.nic = nic
        self.forwards = forwards or {}
        self.gpu = gpu
        self.words = words
        self.extra = list(extra)
        self.disks = disks or []
        self.machine = MACHINES[machine]
        self.machine.check(nic, self.disks, bool(gpu))
        self.url = f"http://127.0.0.1:{port}"
        self.listeners: list[Callable[[bytes], object]] = []
        self.ended = threading.Event()
        self._kept = bytearray()
        self._errors = b""
        self._process: Any = None  # a subprocess.Popen once it is started
        self._folder: Any = None  # a tempfile.TemporaryDirectory likewise
        self._threads: list[threading.Thread] = []
        self._ram: int | None = None  # a memfd, where gpud shares the machine's memory

    def arguments(self) -> list[str]:
        """Return QEMU's command line without the program, to be run in the modules' folder."""
        line = [
            "-nodefaults",
            "-no-user-config",
            *accel.arguments(self.accel, self.cpu),
            "-smp",
            str(self.smp),
            "-display",
            "none",
            *self.boot_arguments(),
            "-chardev",
            "stdio,id=serial0,signal=off",
            "-serial",
            "chardev:serial0",
            "-netdev",
            self._network(),
            "-device",
            self._card() + (f",mac={self.mac}" if self.mac else ""),
            "-device",
            "isa-debug-exit,iobase=0xf4,iosize=0x04",
        ]
        for number, disk in enumerate(self.disks):
            line += disk.arguments(number, self.machine.bus(1 + number))
        for option, socket_path in (("-monitor", self.monitor), ("-qmp", self.qmp)):
            if socket_path:
                path = str(Path(socket_path).resolve()).replace(",", ",,")
                line += [option, f"unix:{path},server=on,wait=off"]
        if (self.monitor or self.qmp) and self.machine.has_pci:
            line += ["-vga", "std"]
        if self.pcap:
            path = str(Path(self.pcap).resolve()).replace(",", ",,")
            line += ["-object", f"filter-dump,id=pcap0,netdev=net0,file={path}"]
        if self.gpu:
            where = self.gpu.socket if isinstance(self.gpu, gpud.Daemon) else self.gpu
            path = str(Path(where).resolve()).replace(",", ",,")
            # No reconnect=: the device then waits for a connection that QEMU 7.2 makes only later.
            line += ["-chardev", f"socket,id=gpud,path={path}"]
            line += ["-device", "ivshmem-doorbell,vectors=1,chardev=gpud"]
        line += self.extra
        if self.gdb:
            line += ["-S", "-gdb", f"tcp:127.0.0.1:{self.gdb}"]
        return line

    def boot_arguments(self) -> list[str]:
        """Return the options for the kernel, its modules and the machine's memory."""
        mapped = self.mapped()
        line = ["-kernel", str(self.image.resolve())]
        words = [f"pmem={name}@{start:x}+{size:x}" for name, start, size in mapped]
        words += self.machine.slot_words(1 + len(self.disks))
        words += [self.words] if self.words else []
        if self.on_crash == "exit":
            words.append("crash=exit")
            line.append("-no-reboot")
        if words:
            line += ["-append", " ".join(words)]
        machine, memory = self.machine.name, f"{self.memory}M"
        if mapped:
            room = self.memory + sum(_up(size, GIB) + GIB for _, _, size in mapped) // MIB
            machine += ",nvdimm=on"
            memory += f",slots={len(mapped)},maxmem={room}M"
        if self._ram is not None:
            machine += ",memory-backend=ram"
            line += [
                "-object",
                f"memory-backend-file,id=ram,size={self.memory}M,share=on,"
                f"mem-path=/proc/{os.getpid()}/fd/{self._ram}",
            ]
        line += ["-machine", machine, "-m", memory, *self.machine.options()]
        for number, (name, start, size) in enumerate(mapped):
            line += [
                "-object",
                f"memory-backend-file,id=pmem{number},mem-path={name},"
                f"size={size // PAGE * PAGE},readonly=on,share=on",
                "-device",
                f"nvdimm,memdev=pmem{number},unarmed=on,addr={start:#x}",
            ]
        loaded = [name for name in self.modules if name not in {m[0] for m in mapped}]
        loaded += [name + TAIL for name, _, size in mapped if size % PAGE]
        if loaded:
            line += ["-initrd", ",".join(loaded)]
        return line

    def mapped(self) -> list[tuple[str, int, int]]:
        """Return [(name, physical address, size in bytes)] of the modules to map, not load.

        QEMU reads a module into its own memory, the firmware copies it into the guest's, and 2 GiB
        are the limit. A large file is mapped into the machine instead, as persistent memory, whose
        pages are the host's page cache. The command line names the address for kernel/boot/pmem.c.
        """
        found: list[tuple[str, int, int]] = []
        if not self.machine.has_pci:
            return found
        # Persistent memory begins at the GiB above the upper part of RAM.
        above = self.memory * MIB - self.low_memory()
        at = _up(4 * GIB + above, GIB)
        for name, content in self.modules.items():
            if isinstance(content, bytes):
                continue
            size = Path(content).stat().st_size
            if size >= LEAST_MAPPED:
                found.append((name, at, size))
                at += _up(size, GIB)
        return found

    def share_memory(self) -> str:
        """Back the machine's memory by a file that other processes may map; return its path.

        Call it before start(). The file has no name of its own and ends with this process and QEMU.
        """
        if self._ram is None:
            self._ram = os.memfd_create("cllm-ram")
            os.ftruncate(self._ram, self.memory * MIB)
        return f"/proc/{os.getpid()}/fd/{self._ram}"

    def parts_of_memory(self) -> list[tuple[int, int, int]]:
        """Return [(physical address, size in bytes, offset in the file of share_memory())]."""
        low = self.low_memory()
        above = self.memory * MIB - low
        return [(0, low, 0)] + ([(4 * GIB, above, low)] if above else [])

    def low_memory(self) -> int:
        """Return the bytes of the machine's memory that begin at physical address 0."""
        return self.machine.low_memory(self.memory)

    def _card(self) -> str:
        if self.machine.has_pci:
            return f"{CARDS[self.nic]},netdev=net0,romfile="
        return f"virtio-net-device,netdev=net0,bus={self.machine.bus(0)}"

    def _network(self) -> str:
        if self.netdev:
            return f"{self.netdev},id=net0"
        ports = {self.port: GUEST_PORT, **self.forwards}
        return "user,id=net0" + "".join(
            f",hostfwd=tcp:127.0.0.1:{ours}-:{theirs}" for ours, theirs in ports.items()
        )

    def start(self) -> None:
        """Start QEMU. Raises CllmError when a file is missing or the port is in use."""
        program = find_qemu()
        if not self.image.is_file():
            raise CllmError(f"there is no {self.image}: run `make build`")
        for port in () if self.netdev else (self.port, *self.forwards):
            _check_port_free(port)
        try:
            self._folder = tempfile.TemporaryDirectory(prefix="cllm-")
        except OSError as error:
            raise CllmError(
                f"no folder for the guest's files ({error.strerror}): name one with TMPDIR"
            ) from None
        try:
            self._lay_out_modules(Path(self._folder.name))
            if isinstance(self.gpu, gpud.Daemon):
                self.gpu.start()
            parent = os.getpid()

            def die_with_parent() -> None:
                LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
                if self.accel == "tcg":
                    # QEMU asks for huge pages for the guest's memory. One byte then takes 2 MiB,
                    # and the first token, which writes a row of each tensor, the whole KV cache.
                    # Emulation gains nothing: it does not walk the host's page tables.
                    LIBC.prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0)
                if os.getppid() != parent:
                    os._exit(1)

            # QEMU gets a session of its own, so that Ctrl-C reaches this process only.
            self._process = subprocess.Popen(
                [program, *self.arguments()],
                cwd=self._folder.name,
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
        except (OSError, ValueError) as error:  # ValueError: a path that no system call takes
            self._clean_up()
            raise CllmError(f"cannot start {program}: {error}") from None
        except BaseException:
            self._clean_up()
            raise
        for work in (self._read_serial, self._read_errors):
            thread = threading.Thread(target=work, daemon=True)
            thread.start()
            self._threads.append(thread)
        threading.Thread(target=self._reap, daemon=True).start()

    def _lay_out_modules(self, folder: Path) -> None:
        """Make a link or file in `folder` for every module, by its name in the guest."""
        for name, content in self.modules.items():
            if isinstance(content, bytes):
                (folder / name).write_bytes(content)
                continue
            path = Path(content).resolve()
            if not path.is_file():
                raise CllmError(f"there is no file {content}")
            if not os.access(path, os.R_OK):
                raise CllmError(f"{content} may not be read by this user")
            (folder / name).symlink_to(path)
        for name, _, size in self.mapped():
            if size % PAGE:
                with open(self.modules[name], "rb") as file:
                    file.seek(size // PAGE * PAGE)
                    (folder / (name + TAIL)).write_bytes(file.read())

    def _read_serial(self) -> None:
        while data := self._process.stdout.read(4096):
            self._kept += data
            del self._kept[:-KEPT]
            for listener in list(self.listeners):
                listener(data)

    def _read_errors(self) -> None:
        self._errors = self._process.stderr.read()

    def _reap(self) -> None:
        self._process.wait()
        for thread in self._threads:
            thread.join()
        self.ended.set()

    def write(self, data: bytes) -> None:
        """Send bytes to the guest's serial line; a guest that has ended gets nothing."""
        try:
            while data:
                data = data[self._process.stdin.write(data) :]
        except (BrokenPipeError, ValueError):
            pass

    @property
    def pid(self) -> int:
        """The id of QEMU's process, while it runs."""
        return self._process.pid

    def log(self) -> bytes:
        """Return the last KEPT bytes that the guest wrote to its serial line."""
        return bytes(self._kept)

    def status(self) -> int | None:
        """Return QEMU's exit status (negative: the signal that ended it), None while it runs."""
        return self._process.returncode if self.ended.is_set() else None

    def reason(self) -> str:
        """Return the reason why the guest has ended, in one line."""
        said = self._errors.decode(errors="replace").strip()
        status = self.status()
        assert status is not None, "the guest still runs"
        if status == 0:
            return "the guest powered off or was reset" + (f" ({said})" if said else "")
        if status < 0:
            return f"QEMU was ended by {signal.Signals(-status).name}"
        if status == 1 and "cannot set up guest memory" in said:
            return f"this host has not {self.memory} MiB for the guest: name less with --memory"
        if status == 1 and said:
            return said.splitlines()[-1]
        if deaths := DEATH.findall(self.log()):
            return "the guest died: " + deaths[-1].decode(errors="replace")
        return f"the guest ended with code {status >> 1}" + (f" ({said})" if said else "")

    def stop(self) -> None:
        """End QEMU and wait until it is gone; does nothing when it has ended."""
        if self._process is None:
            return
        if not self.ended.is_set():
            self._process.terminate()
            if not self.ended.wait(STOP_SECONDS):
                self._process.kill()
                self.ended.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            pipe.close()
        self._clean_up()

    def _clean_up(self) -> None:
        if isinstance(self.gpu, gpud.Daemon):
            self.gpu.stop()
        if self._ram is not None:
            os.close(self._ram)
            self._ram = None
        self._folder.cleanup()


def _check_port_free(port: int) -> None:
    """Raise CllmError for a port in use: QEMU's own message does not name it."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise CllmError(
                f"port {port} of 127.0.0.1 cannot be used ({error.strerror}); name another one "
                "with --port"
            ) from None
