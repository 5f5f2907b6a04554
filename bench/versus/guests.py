"""Both guests, with everything that they have in common: what is built, configured and booted."""

import argparse
import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from cllm import TOP, CllmError, build, config, qemu, run

from . import linux
from .results import LINUX
from .rows import Turn

SINK, SOURCE = 9000, 9001  # ports of the guests' programs that swallow and send bytes
SPEED_APP = TOP / "tests" / "net" / "speed_app.py"
MIB = 1 << 20
CONNECTIONS = 512  # at once, for cllm; llama-server has no such limit


class Guests:
    """Makes guests of either kind on the same machine, with the same model and settings.

    options: of the command, complete. memory: MiB of each guest. image: the file that cllm boots.
    linux: what linux.prepare() returned. flags: of llama-server.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.started = time.monotonic()
        settings, self.guest_settings = config.settings(
            {"model": options.model, "smp": options.smp, "port": 0}, options.config
        )
        self.settings = {**settings, "app": str(SPEED_APP)}
        self.model = Path(self.settings["model"])
        if not self.model.is_file():
            raise CllmError(f"there is no model file {self.model}")
        self.slots = options.slots or max(options.streams)
        model = self.guest_settings.setdefault("model", {})
        model.update(n_ctx=options.n_ctx, slots=self.slots)
        # A batch has more tokens than there are slots.
        model.setdefault("n_batch", max(64, 2 * self.slots))
        # Streams that were cut off count until they are gone.
        self.guest_settings.setdefault("limits", {}).setdefault("connections", CONNECTIONS)
        self.memory = options.memory or 64 * -(-(2 * self.model.stat().st_size // MIB + 384) // 64)
        cores = "1 core" if options.smp == 1 else f"{options.smp} cores"
        self.say(f"{options.accel}, {cores}, {self.memory} MiB, {self.model.name}")
        self.say("building what is not there")
        self.image = build.build_image()
        flags = f"-c {options.n_ctx} -np {self.slots} --kv-unified {options.server_args}".strip()
        self.linux = linux.prepare(
            flags, options.linux_cpu, options.kernel, options.busybox, self.say
        )
        self.flags = f"{linux.SERVER} {flags}"

    def say(self, text: str) -> None:
        seconds = time.monotonic() - self.started
        print(f"[{seconds:6.0f} s] {text}", file=sys.stderr, flush=True)

    def files(self, guest: str) -> list[Path]:
        """Return the files of a guest without the model, packed as they are given away."""
        return [self.linux["kernel"], self.linux["initramfs"]] if guest == LINUX else [self.image]

    def make(self, turn: Turn, memory: int) -> tuple[qemu.Guest, dict[int, int]]:
        """Return (a guest that is not started, {guest's port: host's port}). memory: MiB."""
        ports = {port: qemu.free_port() for port in (qemu.GUEST_PORT, SINK, SOURCE)}
        netdev = "user" + "".join(
            f",hostfwd=tcp:127.0.0.1:{ours}-:{theirs}" for theirs, ours in ports.items()
        )
        port = ports[qemu.GUEST_PORT]
        if turn.guest == LINUX:
            return linux.LinuxGuest(
                self.linux,
                model=self.model,
                smp=self.options.smp,
                port=port,
                memory=memory,
                accel=self.options.accel,
                netdev=netdev,
                nic=turn.nic,
            ), ports
        settings = {
            **self.settings,
            "port": port,
            "memory": memory,
            "accel": self.options.accel,
            "kernels": turn.kernels,
            "nic": turn.nic,
        }
        # As `cllm run` boots it.
        return run.make_guest(settings, self.guest_settings, packed=False, netdev=netdev), ports

    @contextlib.contextmanager
    def booted(self, turn: Turn) -> Iterator[tuple[qemu.Guest, dict[int, int], float]]:
        """Boot a guest for the block; yields (guest, ports as of make(), time of power-on).

        An error of the block becomes a CllmError that shows the end of the guest's serial line.
        """
        guest, ports = self.make(turn, self.memory)
        # Each guest finds the model in the page cache, whatever the one before gave back.
        with open(self.model, "rb", buffering=0) as file:
            while file.read(MIB):
                pass
        started = time.monotonic()
        guest.start()
        try:
            yield guest, ports, started
        except (CllmError, OSError) as error:
            end = guest.log()[-1500:].decode("utf-8", "replace").replace("\r\n", "\n")
            raise CllmError(
                f"{turn.guest}: {error}; the end of its serial line:\n{end}\n"
                "If it ran out of memory, give it more with --memory; rows can be left out with "
                "--skip"
            ) from error
        finally:
            guest.stop()

    def room_for(self, n_guests: int) -> bool:
        """Return whether that many guests may run at once without sharing processors."""
        return len(os.sched_getaffinity(0)) >= n_guests * self.options.smp
