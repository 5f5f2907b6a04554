"""Hostile schemas, grammars, templates and JSON into frozen/serve with the real engine.

    python -m support.fuzz_kinds [--kind schema] [--seconds 900] [--seed 1]  natively, each kind
    python -m support.fuzz_kinds --kind json --seed 1 --only 1234            one case again
    python -m support.fuzz_kinds --guest --count 2000                        into a booted guest

The server runs in a process of its own, so that its death is a
failure that names the case. A request may fail with a 4xx, 501 or 503 and a reason, and must

* take at most CPU_S of processor time, plus TOKEN_S for each token, plus OVER_S if it was stopped
  because it took too long;
* delay no answer to /health by more than HEALTH_S;
* leave the server with at most GROWTH more memory than it had after WARM cases.

Other programs on the machine delay answers, too, so a late case is tried again, and fails when it
is late each time. The body of a failure is saved in build/fuzz.
"""

import argparse
import contextlib
import ctypes
import gc
import http.client
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from cllm import TOP, config, health, run

from support import fuzz_cases, fuzz_grammars, fuzz_schemas, tiny_model

SAVED = TOP / "build/fuzz"
KINDS = ("schema", "grammar", "template", "json")
CASES = {
    "schema": fuzz_schemas.schema_case,
    "grammar": fuzz_grammars.grammar_case,
    "json": fuzz_cases.json_case,
}
TICK = os.sysconf("SC_CLK_TCK")

CPU_S = 2  # the defaults of limits.job_ms and limits.sample_ms, a second each, hold per request
TOKEN_S = 0.05  # for each token of a request
# Until a body that is over its budget is stopped (native/engine/budget.cpp).
OVER_S = 0.7
STOPPED = (b"too ambiguous", b"takes too long")
LOAD_S = 12  # of processor time: a template has 10 s
HEALTH_S = 0.25
GROWTH = 32 << 20
WARM = 150
TRIES = 3
TIMEOUT_S = 600  # for an answer: an emulated guest on a busy machine takes minutes
# Times are the host's, which a guest is emulated on and shares.
GUEST_SLACK = 30

CONFIG = {"model": {"n_ctx": 512, "threads": 1}}
INTERNAL = ("GGML_", "::at", "std::", "Internal Server Error", "Traceback")
REASON_503 = ("memory", "model", "template", "Loading", "queue", "slot")


class Failed(AssertionError):
    """A case broke a rule. The text names the case's path and number."""


class Late(Failed):
    """A case broke a rule about time."""


def strict(data):
    """Return the value of JSON text (bytes). Raises ValueError where RFC 8259 is broken."""

    def constant(name):
        raise ValueError(f"{name} is no JSON")

    return json.loads(data.decode("utf-8"), parse_constant=constant)


def check_answer(status, kind, data):
    """Raise Failed if no client should get this answer. kind: its content type."""
    if not (status == 200 or 400 <= status < 500 or status in (501, 503)):
        raise Failed(f"status {status}: {data[:300]!r}")
    try:
        if "event-stream" in kind:
            values = []
            for line in data.decode("utf-8").split("\n"):
                if line.startswith("data: ") and line != "data: [DONE]":
                    values.append(strict(line[6:].encode()))
        else:
            values = [strict(data)] if data else [{}]
    except ValueError as exc:
        raise Failed(f"status {status}, and no JSON ({exc}): {data[:300]!r}") from exc
    for value in values:
        error = value.get("error") if isinstance(value, dict) else None
        if status == 200 and not isinstance(error, dict):
            continue
        if not isinstance(error, dict) or not error.get("message"):
            raise Failed(f"status {status} without a message: {data[:300]!r}")
        code = error.get("code", status)
        if code == 500 or any(word in error["message"] for word in INTERNAL):
            raise Failed(f"status {status}, an error of the server: {data[:300]!r}")
        if code == 503 and not any(word in error["message"] for word in REASON_503):
            raise Failed(f"status 503 without its reason: {data[:300]!r}")


def seconds_of(pid):
    """Return the seconds of processor time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICK


class Health(threading.Thread):
    """Asks /health every 20 ms. worst: the longest time, in seconds, since it was set to 0."""

    def __init__(self, server):
        super().__init__(daemon=True)
        self.server = server
        self.worst = 0.0
        self.failure = None
        self._over = threading.Event()

    def run(self):
        try:
            connection = http.client.HTTPConnection(
                "127.0.0.1", self.server.port, timeout=TIMEOUT_S
            )
            while not self._over.wait(0.02):
                began = time.monotonic()
                connection.request("GET", "/health")
                answer = connection.getresponse()
                data = answer.read()
                self.worst = max(self.worst, time.monotonic() - began)
                # 503: the model was refused with a reason.
                if answer.status not in (200, 503):
                    raise Failed(f"/health is {answer.status} {data[:300]!r}")
                if answer.will_close:
                    connection.close()
        except (Failed, OSError, http.client.HTTPException) as exc:
            self.failure = f"/health: {exc!r}"

    def stop(self):
        self._over.set()
        self.join(TIMEOUT_S)


class Native:
    """The server in a process of its own; see served()."""

    limits = (CPU_S, TOKEN_S, HEALTH_S)

    def __init__(self, folder):
        self.folder = Path(folder)
        self.errors = self.folder / "stderr"
        self.loads = 0
        self.health = None
        self.process: Any = subprocess.Popen(
            [sys.executable, "-m", "support.fuzz_kinds", "--serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONMALLOC": "malloc"},  # so that malloc counts all
            stderr=self.errors.open("wb"),
            text=True,
        )

    def load(self, template):
        """Serve a model with `template`. Return the seconds of processor time that it took."""
        if self.health:
            self.health.stop()
        self.loads += 1
        model = self.folder / f"{self.loads % 2}.gguf"
        tiny_model.make(model, template=template, ascii_only=True, exact=True)
        began = self.cpu()
        self.process.stdin.write(f"{model}\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise Failed(self.death())
        self.port = int(line)
        self.health = Health(self)
        self.health.start()
        # The server answers while it loads; its second line says that it has loaded.
        if not self.process.stdout.readline():
            raise Failed(self.death())
        return self.cpu() - began

    def cpu(self):
        """Return the seconds of processor time so far."""
        return seconds_of(self.process.pid)

    def twin_s(self):
        return float(send(self.port, "/twin", None, "GET")[2])

    def memory(self):
        return int(send(self.port, "/allocated", None, "GET")[2])

    def is_dead(self):
        return self.process.poll() is not None

    def death(self):
        code = self.process.wait(TIMEOUT_S)
        log = self.errors.read_bytes()[-3000:].decode(errors="replace")
        return f"the server ended with {code}: {log}"

    def stop(self):
        if self.health:
            self.health.stop()
        self.process.stdin.close()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Guest:
    """The server in a booted image with 192 MiB, another one for each template.

    Its processor time is QEMU's, which also emulates the card and the clock.
    """

    limits = (CPU_S * GUEST_SLACK, TOKEN_S * GUEST_SLACK, HEALTH_S * GUEST_SLACK)

    def __init__(self, folder):
        self.folder = Path(folder)
        self.guest: Any = None
        self.health = None

    def load(self, template):
        self.stop()
        model = self.folder / "tiny.gguf"
        tiny_model.make(model, template=template, ascii_only=True, exact=True)
        settings = {
            **config.DEFAULTS,
            "port": 0,
            "accel": "tcg",
            "memory": 192,
            "model": str(model),
        }
        self.guest = run.make_guest(settings, {"model": {"n_ctx": 512}})
        self.guest.start()
        self.port = self.guest.port
        verdict = health.wait_until_decided(self.port, self.guest.ended, 300)
        if verdict is not None:
            raise Failed(f"the guest is not ready: {verdict or self.death()}")
        self.health = Health(self)
        self.health.start()
        return 0

    def cpu(self):
        return seconds_of(self.guest.pid)

    def twin_s(self):
        return 0

    def memory(self):
        return 0  # it cannot grow

    def is_dead(self):
        return self.guest.ended.is_set()

    def death(self):
        return "the guest ended: " + self.guest.log()[-3000:].decode("utf-8", "replace")

    def stop(self):
        if self.health:
            self.health.stop()
        if self.guest:
            self.guest.stop()
        self.guest = self.health = None


def send(port, path, body, method="POST"):
    """Return (status, content type, bytes) of the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    try:
        # A body that is too large is refused before all of it has come.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.request(method, path, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.headers.get("Content-Type", ""), answer.read()
    finally:
        connection.close()


def ask(server, path, body, tokens):
    """Send one request and check its answer; return (status, seconds of processor time).

    Raises Late or Failed.
    """
    cpu_s, token_s, health_s = server.limits
    began = server.cpu()
    twin = server.twin_s()
    server.health.worst = 0
    try:
        status, kind, data = send(server.port, path, body)
    except (OSError, http.client.HTTPException) as exc:
        time.sleep(0.2)  # a server that dies takes a moment
        raise Failed(server.death() if server.is_dead() else f"no answer: {exc!r}") from exc
    took = server.cpu() - began
    if server.health.failure:
        raise Failed(server.death() if server.is_dead() else server.health.failure)
    check_answer(status, kind, data)
    check_constrained(path, body, data)
    worst = server.health.worst
    twin = server.twin_s() - twin
    if any(words in data for words in STOPPED):
        cpu_s += OVER_S * cpu_s / CPU_S
    if took > cpu_s + tokens * token_s + twin:
        raise Late(f"status {status} after {took:.2f} s of processor time: {data[:300]!r}")
    if worst > health_s + twin:
        raise Late(f"status {status}, /health took {worst:.3f} s, {twin:.3f} of them JSON")
    return status, took


def check_constrained(path, body, data):
    """Raise Failed if a whole answer is no JSON though a schema was given."""
    if path == "/completion" and b'"json_schema": {' in body and (b'"stop_type":"eos"' in data):
        request, answer = strict(body), {} if data.startswith(b"data: ") else strict(data)
        if "content" in answer and request.get("json_schema") is not None:
            try:
                strict(answer["content"].encode())
            except ValueError as exc:
                raise Failed(f"an answer to a schema is {answer['content']!r}") from exc


class Fuzzer:
    """Runs cases of one kind.

    start: a function that starts a server. statuses: {status: number}. slowest: seconds of
    processor time of a request, and its case's number.
    """

    def __init__(self, kind, seed, start, keep_going=False):
        self.kind, self.seed, self.keep_going = kind, seed, keep_going
        self.start = start
        self.statuses = {}
        self.failures = []
        self.server: Any = None
        self.warm = None
        self.slowest = (0.0, 0)
        self.cases = 0

    def restart(self):
        self.stop()
        self.warm, self.since = None, 0
        self.server = self.start()
        if self.kind != "template":
            self.server.load(tiny_model.TOOLS)

    def stop(self):
        if self.server:
            self.server.stop()
        self.server = None

    def run(self, numbers, until):
        """Run the cases `numbers` until the clock says `until`."""
        self.restart()
        try:
            for number in numbers:
                if time.monotonic() > until:
                    break
                self.case(number)
                self.cases += 1
        finally:
            self.stop()

    def case(self, number):
        rng = random.Random(f"{self.seed}/{self.kind}/{number}")
        case = None
        self.number = number
        try:
            if self.kind == "template":
                template = fuzz_cases.template_text(rng)
                case = ("template", template.encode("utf-8", "surrogatepass"), 0)
                self.load(template)
                for part in fuzz_cases.chat_requests(rng):
                    status = self.patiently(*part)
                    if part[0] == "/completion" and status not in (200, 503):
                        raise Failed(f"a completion is {status}")
            else:
                case = CASES[self.kind](rng)
                self.patiently(*case)
            self.check_memory()
        except Failed as exc:
            self.failed(number, case, exc)

    def load(self, template):
        took = self.server.load(template)
        if took > LOAD_S:
            raise Late(f"loading took {took:.2f} s of processor time")

    def patiently(self, path, body, tokens):
        """Do ask(), and again where it was late; return the status."""
        for i in range(TRIES):
            try:
                status, took = ask(self.server, path, body, tokens)
                self.slowest = max(self.slowest, (took, self.number))
                self.statuses[status] = self.statuses.get(status, 0) + 1
                return status
            except Late as exc:
                if i == TRIES - 1:
                    raise Failed(f"{path}: {exc}") from exc
                time.sleep(0.5)

    def check_memory(self):
        self.since += 1
        if self.since >= WARM:
            memory = self.server.memory()
            self.warm = self.warm or memory
            if memory > self.warm + GROWTH:
                raise Failed(f"{memory >> 20} MiB of memory, {self.warm >> 20} after {WARM} cases")

    def failed(self, number, case, exc):
        path, body, _ = case
        SAVED.mkdir(parents=True, exist_ok=True)
        saved = SAVED / f"{self.kind}-{self.seed}-{number}"
        saved.write_bytes(body)
        text = (
            f"--kind {self.kind} --seed {self.seed} --only {number}: {path}, body in "
            f"{saved.name}: {body[:200]!r}: {exc}"
        )
        if not self.keep_going:
            raise Failed(text) from exc
        print("FAILED " + text, file=sys.stderr, flush=True)
        self.failures.append(text)
        self.restart()


def allocated():
    """Return the bytes that malloc has given out: what is lost, and not what is merely kept."""
    gc.collect()
    libc = ctypes.CDLL(None)
    libc.mallinfo2.restype = Mallinfo2  # glibc 2.33, mallinfo(3)
    found = libc.mallinfo2()
    return found.hblkhd + found.uordblks


class Mallinfo2(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd",
            "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost",
        )
    ]  # fmt: skip


def count_twin():
    """Return a list with the seconds that CPython's twin of modules/json has taken so far.

    The twin parses a body in one go, where the module lets the loop run in between.
    """
    import _jsonio

    taken = [0.0]

    def counted(function):
        def call(*arguments):
            began = time.perf_counter()
            try:
                return function(*arguments)
            finally:
                taken[0] += time.perf_counter() - began

        return call

    _jsonio.read, _jsonio.write = counted(_jsonio.read), counted(_jsonio.write)
    return taken


def served():
    """Serve each model whose path is a line of standard input, one after the other.

    Print the port once the server listens, and another line once the model is loaded or refused.
    """
    import faulthandler

    faulthandler.enable()
    from support.api_server import ApiServer  # only this process loads frozen/serve

    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # the log

    class Announced(ApiServer):
        async def _run(self):
            task = self.service.start

            async def start():
                print(self.port, file=out, flush=True)
                await task()

            self.service.start = start
            await super()._run()

    twin = count_twin()

    def install(service):
        service.app.get("/twin")(lambda request: twin[0])
        service.app.get("/allocated")(lambda request: allocated())

    for line in sys.stdin:
        if running := globals().get("running"):
            running.__exit__()
        globals()["running"] = running = Announced(line.strip(), CONFIG, install)
        running.__enter__()
        print("loaded", file=out, flush=True)
    if running := globals().get("running"):
        running.__exit__()


def main(arguments=None):
    parser = argparse.ArgumentParser()
    parser.add_argument("--kind", choices=(*KINDS, "all"), default="all")
    parser.add_argument("--seconds", type=float, default=15, help="for each kind")
    parser.add_argument("--count", type=int, help="cases of all kinds, instead of --seconds")
    parser.add_argument("--seed", default="1")
    parser.add_argument("--only", type=int, help="number of the one case to run")
    parser.add_argument("--guest", action="store_true")
    parser.add_argument("--keep-going", action="store_true")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.serve:
        served()
        return 0
    kinds = KINDS if options.kind == "all" else (options.kind,)
    counts = [options.count // len(kinds)] * len(kinds) if options.count else [10**9] * len(kinds)
    failures = []
    for kind, count in zip(kinds, counts):
        with tempfile.TemporaryDirectory() as folder:
            target = Guest if options.guest else Native
            fuzzer = Fuzzer(kind, options.seed, lambda: target(folder), options.keep_going)
            numbers = range(count) if options.only is None else [options.only]
            until = time.monotonic() + (10**9 if options.count else options.seconds)
            fuzzer.run(numbers, until)
        print(
            f"{kind}: seed {options.seed}, {fuzzer.cases} cases, answers: "
            + ", ".join(
                f"{number} of {status}" for status, number in sorted(fuzzer.statuses.items())
            )
            + "; slowest: %.2f s, case %d" % fuzzer.slowest,
            flush=True,
        )
        failures += fuzzer.failures
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
