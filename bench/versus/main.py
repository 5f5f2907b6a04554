"""`cllm bench`: cllm and llama-server in a small Linux guest, in turn, in the same QEMU.

Both guests get the same accelerator, CPU model, cores, memory, network card and model, and both
servers as many slots and cells of KV cache. Each round boots one after the other and asks both the
same; what differs between rounds is the machine's own noise, which the ranges show. cllm takes two
turns: with its own kernels and with ggml's.
"""

import argparse
import concurrent.futures
import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from cllm import TOP, CllmError, accel, build, config, memory, qemu, reclaim, run

from . import linux, measure, plot, sweep
from .results import CLLM, LINUX, Row, markdown, table

SINK, SOURCE = 9000, 9001  # of the guests' programs that swallow and send bytes
SPEED_APP = TOP / "tests" / "net" / "speed_app.py"
MIB = 1 << 20
STEP = 8  # MiB; how finely the smallest memory is looked for


@dataclasses.dataclass(frozen=True)
class Load:
    """How much is asked of a guest, for all streams of a row together: words of the prompts, and
    tokens that are timed. Rates compare whatever the counts; the table tells them."""

    prompt: int
    decode: int

    def of(self, n_streams):
        """(words of each prompt, decode calls) with so many streams."""
        return max(1, self.prompt // n_streams), max(1, self.decode // n_streams)


# By accelerator and kernels: emulated, a token takes ggml's several seconds.
LOADS = {
    "tcg": {"ggml": Load(3, 2), "exact": Load(8, 8), "tcg": Load(48, 32)},
    "kvm": dict.fromkeys(("ggml", "exact", "tcg"), Load(256, 64)),
}
# Words of the prompt that is read while another stream runs. The gap depends on it where a server
# reads a prompt in one piece, so it is the same for both.
LONG_PROMPT = {"tcg": 4, "kvm": 1024}


@dataclasses.dataclass(frozen=True)
class Turn:
    """What one boot of a round is for. prefixes: of the keys of the rows that it fills."""

    guest: str
    kernels: str
    prefixes: tuple


def rows(streams):
    """All rows in the order of the table."""
    made = [
        Row("http", "power-on to first HTTP answer", "s", less=True),
        Row("ready", "power-on to model ready", "s", less=True),
        Row("first-token", "power-on to first token", "s", less=True),
    ]
    ggml = [Row(GGML + "first-token", "ggml's kernels: power-on to first token", "s", less=True)]
    for n in streams:
        noun = "stream" if n == 1 else "streams"
        made.append(Row(f"prompt-{n}", f"prompts, {n} {noun}", "tokens/s"))
        made.append(Row(f"decode-{n}", f"decoding, {n} {noun}", "tokens/s"))
        if n == min(streams):
            for row in made[-2:]:
                ggml.append(Row(GGML + row.key, f"ggml's kernels: {row.name}", row.unit))
    return made + [
        Row("gap", "worst gap in a stream while a prompt is read", "s", less=True),
        Row("health-kept", "/health, one connection", "requests/s"),
        Row("health-new", "/health, new connections", "requests/s"),
        Row("bytes-in", "one connection into the guest", "MiB/s"),
        Row("bytes-out", "one connection out of the guest", "MiB/s"),
        Row("smallest", "smallest -m that serves", "MiB", less=True),
        Row("memory", "QEMU's resident memory at the first token", "MiB", less=True),
        Row("beyond", "of it beyond the model", "MiB", less=True),
        Row("image", "image without the model", "MiB", less=True, exact=True),
        *ggml,
        Row(GGML + "beyond", "ggml's kernels: memory beyond the model", "MiB", less=True),
    ]


GGML = "ggml-"  # rows of the turn with ggml's kernels where cllm has its own
BOOT_ROWS = {
    prefix + key for prefix in ("", GGML)
    for key in ("http", "ready", "first-token", "memory", "beyond")
}


def count(text):
    value = int(text)
    if value < 1:
        raise ValueError
    return value


def counts(text):
    return sorted({count(part) for part in text.split(",")})


def names(text):
    return [part.strip() for part in text.split(",") if part.strip()]


def make_parser():
    parser = argparse.ArgumentParser(
        prog="cllm bench", description="Compare cllm with llama-server in a small Linux guest."
    )
    add = parser.add_argument
    add("--model", default=config.DEFAULT_MODEL, metavar="FILE.gguf", help="default: %(default)s")
    add("--rounds", type=count, metavar="N", help="of all rows (default 2, with KVM 3)")
    add("--boots", type=count, metavar="N", help="of the rows of booting, at least (default as "
        "many as rounds)")
    add("--streams", type=counts, default=[1, 4, 8], metavar="N,N", help="default 1,4,8")
    add("--slots", type=count, metavar="N", help="of both servers (default: one for each stream)")
    add("--sweep", action="store_true", help="instead of the table: how both move with the size "
        "of the model, with cores and with streams; for --json and --plot, too")
    add("--smp", type=count, default=1, metavar="N", help="virtual CPUs (default 1)")
    add("--memory", type=count, metavar="MiB", help="default: room for twice the model, and 384")
    add("--accel", choices=config.ACCELS, default="auto", help="default auto: KVM where it works")
    add("--kernels", choices=("exact", "tcg", "ggml"), default="exact",
        help="cllm's (default %(default)s)")
    add("--only", type=names, metavar="ROW,ROW", help="rows, or beginnings of their names "
        "(default: all)")
    add("--skip", type=names, default=[], metavar="ROW,ROW")
    add("--tokens", type=float, default=1, metavar="X", help="X times as many tokens in all rows")
    add("--mib", type=count, default=32, metavar="N", help="bytes sent each way, in MiB")
    add("--n-ctx", type=count, default=2048, metavar="N", help="cells of KV cache (default 2048)")
    add("--config", metavar="FILE.json", help="for cllm, as of `cllm run`")
    add("--linux-cpu", choices=linux.CPU, default="x86-64-v3", help="what llama-server is "
        "compiled for (default %(default)s, as upstream's own packages choose for such a CPU)")
    add("--server-args", default="", metavar="WORDS", help="further flags for llama-server")
    add("--kernel", metavar="FILE.deb", help="Debian package to take the kernel from")
    add("--busybox", metavar="FILE.deb", help="Debian package to take busybox from")
    add("--json", metavar="FILE", help="all values, and what they were measured with")
    add("--plot", metavar="FILE.svg", help="the ratios as a picture")
    add("--markdown", action="store_true", help="print the table as docs/ has it")
    return parser


def chosen(made, only, skip):
    """The keys of the rows that are wanted; CllmError for a name that no row has."""
    keys = [row.key for row in made]

    def named(name):
        found = {key for key in keys if key == name or key.startswith(name)}
        if not found:
            raise CllmError(f"no row is called {name}; there are {', '.join(keys)}")
        return found

    wanted = set().union(*map(named, only)) if only else set(keys)
    return wanted - set().union(*map(named, skip))


def complete(options):
    """Fill in what depends on the accelerator."""
    options.accel, why = accel.choose(options.accel, qemu.find_qemu())
    say(f"{options.accel}: {why}")
    options.rounds = options.rounds or (3 if options.accel == "kvm" else 2)
    options.boots = options.boots or options.rounds


def say(text):
    print(text, file=sys.stderr, flush=True)


class Bench:
    """One run of the command.

    options: parsed and completed arguments. rows: {key: Row}. wanted: keys of rows to fill.
    """

    def __init__(self, options, made, wanted):
        self.options = options
        self.turns = [Turn(LINUX, "ggml", ("", GGML)), Turn(CLLM, options.kernels, ("",))]
        if options.kernels != "ggml" and any(key.startswith(GGML) for key in wanted):
            self.turns.append(Turn(CLLM, "ggml", (GGML,)))
        self.rows = {row.key: row for row in made}
        self.wanted = wanted
        self.started = time.monotonic()
        settings, self.guest_settings = config.settings(
            {"model": options.model, "smp": options.smp, "port": 0}, options.config
        )
        self.settings = {**settings, "app": str(SPEED_APP)}
        model = self.guest_settings.setdefault("model", {})
        self.slots = options.slots or max(options.streams)
        model.update(n_ctx=options.n_ctx, slots=self.slots)
        # llama-server has no such limit, and streams that were cut off count until they are gone.
        self.guest_settings.setdefault("limits", {}).setdefault("connections", 512)
        # Slots have to be fewer than the tokens of a batch.
        model.setdefault("n_batch", max(64, 2 * self.slots))
        self.model = Path(self.settings["model"])
        if not self.model.is_file():
            raise CllmError(f"there is no model file {self.model}")
        self.accel = options.accel
        self.memory = options.memory or 64 * -(-(2 * self.model.stat().st_size // MIB + 384) // 64)
        self.loads = {
            kernels: Load(*(round(options.tokens * n) for n in dataclasses.astuple(load)))
            for kernels, load in LOADS[self.accel].items()
        }
        self.long_prompt = max(2, round(options.tokens * LONG_PROMPT[self.accel]))
        self.limit = 240 if self.accel == "tcg" else 60
        cores = "1 core" if options.smp == 1 else f"{options.smp} cores"
        self.say(f"{self.accel}, {cores}, {self.memory} MiB, {self.model.name}")
        self.say("building what is not there")
        self.image = build.build_image()
        flags = f"-c {options.n_ctx} -np {self.slots} --kv-unified {options.server_args}".strip()
        self.linux = linux.prepare(
            flags, options.linux_cpu, options.kernel, options.busybox, self.say
        )
        self.flags = f"{linux.SERVER} {flags}"

    def say(self, text):
        say(f"[{time.monotonic() - self.started:6.0f} s] {text}")

    def wants(self, turn, *keys):
        """Whether one of these rows is wanted and the turn's to fill."""
        return bool({prefix + key for prefix in turn.prefixes for key in keys} & self.wanted)

    def note(self, key, turn, value, tokens=None):
        """Fill the row with this key; tokens: how many were timed, where it is a rate of them."""
        if self.wants(turn, key):
            of = f" (of {tokens})" if tokens else ""
            row = self.rows[key]
            self.say(f"    {turn.guest}: {row.name}: {value:.3g} {row.unit}{of}")
        for prefix in turn.prefixes:
            if prefix + key in self.wanted:
                self.rows[prefix + key].add(turn.guest, value, tokens)

    def make_guest(self, turn, memory):
        """(a guest that is not started, {guest's port: host's port})."""
        ports = {port: qemu.free_port() for port in (qemu.GUEST_PORT, SINK, SOURCE)}
        netdev = "user" + "".join(
            f",hostfwd=tcp:127.0.0.1:{ours}-:{theirs}" for theirs, ours in ports.items()
        )
        port = ports[qemu.GUEST_PORT]
        if turn.guest == LINUX:
            return linux.LinuxGuest(
                self.linux, model=self.model, smp=self.options.smp, port=port, memory=memory,
                accel=self.accel, netdev=netdev,
            ), ports
        settings = {
            **self.settings, "port": port, "memory": memory, "accel": self.accel,
            "kernels": turn.kernels,
        }
        return run.make_guest(settings, self.guest_settings, netdev=netdev), ports

    @contextlib.contextmanager
    def booted(self, turn, memory):
        """Boot a guest; yields (guest, ports, time of power-on). What fails tells the guest's
        last words."""
        guest, ports = self.make_guest(turn, memory)
        # Whatever the guest before has given back, each finds the file in the page cache.
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

    def round(self, turn, with_load):
        """Boot the guest and fill its rows."""
        with self.booted(turn, self.memory) as (guest, ports, started):
            port = ports[qemu.GUEST_PORT]
            http = measure.first_answer(port, started, guest.ended, self.limit)
            ready = measure.ready(port, started, guest.ended, self.limit)
            self.note("http", turn, http)
            self.note("ready", turn, ready)
            if turn.guest == CLLM and turn.kernels == "tcg":
                reclaim.give_back(guest)  # as `cllm run` does
            if self.wants(turn, "first-token", "memory", "beyond"):
                self.note("first-token", turn, measure.first_token(port, started))
                memory = measure.resident(guest.pid)
                self.note("memory", turn, memory / MIB)
                self.note("beyond", turn, (memory - self.model.stat().st_size) / MIB)
            if with_load:
                self.under_load(turn, ports)

    def under_load(self, turn, ports):
        port = ports[qemu.GUEST_PORT]
        for row, kept in (("health-kept", True), ("health-new", False)):
            if self.wants(turn, row):
                self.note(row, turn, measure.request_rate(port, kept, 2))
        for row, function, there in (
            ("bytes-in", measure.bytes_in, SINK), ("bytes-out", measure.bytes_out, SOURCE),
        ):
            if self.wants(turn, row):
                self.note(row, turn, function(ports[there], self.options.mib * MIB) / MIB)
        # The longest last: nobody waits for the decode call that it leaves behind.
        for n in (*self.options.streams[:-1], "gap", self.options.streams[-1]):
            if n == "gap" and self.wants(turn, "gap"):
                measure.wait_until_idle(port)
                self.note("gap", turn, measure.worst_gap(port, self.long_prompt))
            elif n != "gap" and self.wants(turn, f"prompt-{n}", f"decode-{n}"):
                measure.wait_until_idle(port)
                words, steps = self.loads[turn.kernels].of(n)
                n_read, reading, n_decoded, decoding = measure.tokens(port, n, words, steps)
                self.note(f"prompt-{n}", turn, reading, n_read)
                self.note(f"decode-{n}", turn, decoding, n_decoded)

    def serves(self, guest, port, started):
        """Whether the guest that has been started loads the model and gives a token."""
        try:
            measure.first_answer(port, started, guest.ended, self.limit / 2)
            measure.ready(port, started, guest.ended, self.limit / 2)
            measure.Stream(port, "Once", 1).finish()
            return True
        except (CllmError, OSError):
            return False

    def serves_in(self, turn, sizes):
        """[whether the guest serves in so many MiB], tried at once as far as there are cores."""
        if len(sizes) > 1 and len(os.sched_getaffinity(0)) < len(sizes) * self.options.smp:
            return [self.serves_in(turn, [size])[0] for size in sizes]
        guests = [self.make_guest(turn, size) for size in sizes]
        started = time.monotonic()
        try:
            for guest, _ in guests:
                guest.start()
            with concurrent.futures.ThreadPoolExecutor(len(guests)) as pool:
                found = list(pool.map(
                    lambda made: self.serves(made[0], made[1][qemu.GUEST_PORT], started), guests
                ))
        finally:
            for guest, _ in guests:
                guest.stop()
        self.say(f"    {turn.guest}: " + ", ".join(
            f"{size} MiB {'serve' if enough else 'do not'}" for size, enough in zip(sizes, found)
        ))
        return found

    def guess(self):
        """MiB to begin the search with: what `cllm run` takes, less its slack."""
        return memory.needed(self.model, self.options.n_ctx) - 48

    def smallest(self, turn, guess):
        """The least memory, in steps of STEP MiB, that serves."""
        low, high, width = 0, None, STEP  # does not serve, serves; how far the next try is
        sizes = [max(STEP, guess - STEP), guess]
        while True:
            for size, enough in zip(sizes, self.serves_in(turn, sizes)):
                if enough:
                    high = min(size, high or size)
                elif size > low:
                    low = size
            if high is None:
                if low >= self.memory:
                    raise CllmError(
                        f"{turn.guest} does not serve in {low} MiB: give more with --memory")
                sizes = [min(self.memory, low + width * step) for step in (1, 2)]
            elif high - low <= STEP:
                return high
            elif not low:
                sizes = [max(STEP, high - width * step) for step in (2, 1)]
            else:
                part = max(STEP, (high - low) // 3 // STEP * STEP)
                sizes = sorted({low + part, high - part})
            width *= 2

    def run(self):
        both = self.turns[:2]
        for turn, files in zip(both, ([self.linux["kernel"], self.linux["initramfs"]],
                                      [self.image])):
            self.note("image", turn, sum(map(os.path.getsize, files)) / MIB)
        measured = self.wanted - {"smallest", "image"}
        loaded = measured - BOOT_ROWS
        boots = max(self.options.rounds, self.options.boots) if self.wanted & BOOT_ROWS else 0
        rounds = self.options.rounds if loaded else 0
        for number in range(max(boots, rounds)):
            for turn in self.turns:
                if not self.wants(turn, *(key.removeprefix(GGML) for key in measured)):
                    continue
                self.say(f"round {number + 1} of {max(boots, rounds)}: {turn.guest}, "
                         f"{turn.kernels}'s kernels")
                self.round(turn, number < rounds)
        if "smallest" in self.wanted:
            found = dict.fromkeys(both, self.guess())
            for number in range(min(2, self.options.rounds)):
                for turn in both:
                    self.say(f"smallest memory of {turn.guest}, run {number + 1}")
                    found[turn] = self.smallest(turn, found[turn])
                    self.note("smallest", turn, found[turn])

    def as_json(self):
        return {
            "accel": self.accel, "smp": self.options.smp, "memory_mib": self.memory,
            "model": self.model.name, "model_bytes": self.model.stat().st_size,
            "n_ctx": self.options.n_ctx, "slots": self.slots, "streams": self.options.streams,
            "kernels": self.options.kernels, "llama_server": self.flags,
            "long_prompt": self.long_prompt,
            "llama_server_cpu": self.options.linux_cpu, "packages": self.linux["versions"],
            "cllm_config": self.guest_settings, "qemu": qemu_version(),
            "host_cpus": len(os.sched_getaffinity(0)),
            "seconds": round(time.monotonic() - self.started),
            "rows": [row.as_json() for row in self.rows.values() if any(row.values.values())],
        }


def qemu_version():
    said = subprocess.run([qemu.find_qemu(), "--version"], capture_output=True, text=True).stdout
    return said.splitlines()[0] if said else ""


def run_once(options):
    """The table of one run, printed and saved also when something goes wrong in the middle: what
    there is took long to measure."""
    made = rows(options.streams)
    bench = Bench(options, made, chosen(made, options.only, options.skip))
    try:
        bench.run()
    finally:
        print(markdown(made) if options.markdown else table(made), flush=True)
        about = bench.as_json()
        save(options.json, json.dumps(about, indent=1) + "\n")
        save(options.plot, plot.ratios(made, about))


def run_sweep(options):
    """The tables of all points of the sweep, and one file and one picture of them all."""
    settings, _ = config.settings({"model": options.model}, options.config)
    done = []
    for point in sweep.points(options, Path(settings["model"])):
        made = rows(point.streams)
        bench = Bench(point, made, chosen(made, point.only, point.skip))
        bench.run()
        done.append(bench.as_json())
        print(f"\n{done[-1]['model']}, cores: {point.smp}", flush=True)
        print(markdown(made) if options.markdown else table(made), flush=True)
        save(options.json, json.dumps(done, indent=1) + "\n")
    save(options.plot, plot.lines(sweep.panels(done), done))


def save(file, text):
    if file:
        Path(file).write_text(text)


def main(arguments=None):
    options = make_parser().parse_args(arguments)
    try:
        complete(options)
        for file in filter(None, (options.json, options.plot)):
            if not Path(file).resolve().parent.is_dir():
                raise CllmError(f"cannot write {file}: there is no such folder")
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        (run_sweep if options.sweep else run_once)(options)
    except CllmError as error:
        print(f"cllm bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0
