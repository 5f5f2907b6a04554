"""One benchmark: boots both guests in turn, round after round, and fills the rows of its table."""

import argparse
import os
import subprocess
import time
from typing import Any

from cllm import memory, qemu, reclaim

from . import measure
from .guests import MIB, SINK, SOURCE, Guests
from .results import CLLM, LINUX, Row
from .rows import BOOT_ROWS, E1000, GGML, LOADS, LONG_PROMPT, Turn
from .smallest import smallest

LIMIT = {"tcg": 240, "kvm": 60}  # seconds that a guest may take to load the model
# MiB by which `cllm run` gives a guest more than the least that serves, about.
SLACK = 48
SMALLEST_RUNS = 2  # of the search for the smallest memory, at most


class Bench:
    """One run of the benchmark.

    options: of the command, complete. made: the rows. wanted: keys of the rows to fill.
    """

    def __init__(self, options: argparse.Namespace, made: list[Row], wanted: set[str]) -> None:
        self.options = options
        self.rows = {row.key: row for row in made}
        self.wanted = wanted
        self.turns = [Turn(LINUX, "ggml", ("", GGML)), Turn(CLLM, options.kernels, ("",))]
        if options.kernels != "ggml" and any(key.startswith(GGML) for key in wanted):
            self.turns.append(Turn(CLLM, "ggml", (GGML,)))
        if any(key.startswith(E1000) for key in wanted):
            self.turns.append(Turn(LINUX, "ggml", (E1000,), "e1000"))
            self.turns.append(Turn(CLLM, options.kernels, (E1000,), "e1000"))
        self.loads = {
            kernels: load.times(options.tokens) for kernels, load in LOADS[options.accel].items()
        }
        self.long_prompt = max(2, round(options.tokens * LONG_PROMPT[options.accel]))
        self.limit = LIMIT[options.accel]
        self.guests = Guests(options)

    def wants(self, turn: Turn, *keys: str) -> bool:
        """Return whether one of these rows is wanted and the turn's to fill."""
        return bool({prefix + key for prefix in turn.prefixes for key in keys} & self.wanted)

    def note(self, key: str, turn: Turn, value: float, tokens: int | None = None) -> None:
        """Fill the row with this key; tokens: how many were timed, where it is a rate of them."""
        if self.wants(turn, key):
            of = f" (of {tokens})" if tokens else ""
            row = self.rows[key]
            self.guests.say(f"    {turn.guest}: {row.name}: {value:.3g} {row.unit}{of}")
        for prefix in turn.prefixes:
            if prefix + key in self.wanted:
                self.rows[prefix + key].add(turn.guest, value, tokens)

    def run(self) -> None:
        """Fill the wanted rows."""
        both = self.turns[:2]
        for turn in both:
            size = sum(map(os.path.getsize, self.guests.files(turn.guest)))
            self.note("image", turn, size / MIB)
        self._rounds()
        if "smallest" in self.wanted:
            guess = memory.needed(self.guests.model, self.options.n_ctx) - SLACK
            found = dict.fromkeys(both, guess)
            for number in range(min(SMALLEST_RUNS, self.options.rounds)):
                for turn in both:
                    self.guests.say(f"smallest memory of {turn.guest}, run {number + 1}")
                    found[turn] = smallest(self.guests, turn, found[turn], self.limit / 2)
                    self.note("smallest", turn, found[turn])

    def _rounds(self) -> None:
        measured = self.wanted - {"smallest", "image"}
        loaded = measured - BOOT_ROWS
        boots = max(self.options.rounds, self.options.boots) if self.wanted & BOOT_ROWS else 0
        rounds = self.options.rounds if loaded else 0
        for number in range(max(boots, rounds)):
            for turn in self.turns:
                keys = (key.removeprefix(GGML).removeprefix(E1000) for key in measured)
                if not self.wants(turn, *keys):
                    continue
                self.guests.say(
                    f"round {number + 1} of {max(boots, rounds)}: {turn.guest}, "
                    f"{turn.kernels}'s kernels, {turn.nic}"
                )
                self._round(turn, number < rounds)

    def _round(self, turn: Turn, with_load: bool) -> None:
        """Boot the guest and fill its rows. with_load: also those that ask a lot of it."""
        with self.guests.booted(turn) as (guest, ports, started):
            port = ports[qemu.GUEST_PORT]
            http = measure.first_answer(port, started, guest.ended, self.limit)
            self.note("http", turn, http)
            if turn.prefixes == (E1000,):  # nothing else is asked of it
                return
            self.note("ready", turn, measure.ready(port, started, guest.ended, self.limit))
            if turn.guest == CLLM and turn.kernels == "tcg":
                reclaim.give_back(guest)  # as `cllm run` does
            if self.wants(turn, "first-token", "memory", "beyond"):
                self.note("first-token", turn, measure.first_token(port, started))
                resident = measure.resident(guest.pid)
                self.note("memory", turn, resident / MIB)
                self.note("beyond", turn, (resident - self.guests.model.stat().st_size) / MIB)
            if with_load:
                self._under_load(turn, ports)

    def _under_load(self, turn: Turn, ports: dict[int, int]) -> None:
        port = ports[qemu.GUEST_PORT]
        for row, kept in (("health-kept", True), ("health-new", False)):
            if self.wants(turn, row):
                self.note(row, turn, measure.request_rate(port, kept, 2))
        for row, function, there in (
            ("bytes-in", measure.bytes_in, SINK),
            ("bytes-out", measure.bytes_out, SOURCE),
        ):
            if self.wants(turn, row):
                self.note(row, turn, function(ports[there], self.options.mib * MIB) / MIB)
        # The longest last: nobody waits for the decode call that it leaves behind.
        *fewer, most = self.options.streams
        for n in fewer:
            self._streams(turn, port, n)
        if self.wants(turn, "gap"):
            measure.wait_until_idle(port)
            self.note("gap", turn, measure.worst_gap(port, self.long_prompt))
        self._streams(turn, port, most)

    def _streams(self, turn: Turn, port: int, n: int) -> None:
        if self.wants(turn, f"prompt-{n}", f"decode-{n}"):
            measure.wait_until_idle(port)
            words, steps = self.loads[turn.kernels].of(n)
            n_read, reading, n_decoded, decoding = measure.tokens(port, n, words, steps)
            self.note(f"prompt-{n}", turn, reading, n_read)
            self.note(f"decode-{n}", turn, decoding, n_decoded)

    def as_json(self) -> dict[str, Any]:
        """Return all values, and what they were measured with."""
        guests, options = self.guests, self.options
        return {
            "accel": options.accel,
            "smp": options.smp,
            "memory_mib": guests.memory,
            "model": guests.model.name,
            "model_bytes": guests.model.stat().st_size,
            "n_ctx": options.n_ctx,
            "slots": guests.slots,
            "streams": options.streams,
            "kernels": options.kernels,
            "llama_server": guests.flags,
            "long_prompt": self.long_prompt,
            "llama_server_cpu": options.linux_cpu,
            "packages": guests.linux["versions"],
            "cllm_config": guests.guest_settings,
            "qemu": qemu_version(),
            "host_cpus": len(os.sched_getaffinity(0)),
            "seconds": round(time.monotonic() - guests.started),
            "rows": [row.as_json() for row in self.rows.values() if any(row.values.values())],
        }


def qemu_version() -> str:
    said = subprocess.run([qemu.find_qemu(), "--version"], capture_output=True, text=True).stdout
    return said.splitlines()[0] if said else ""
