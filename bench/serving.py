"""How well frozen/serve schedules: a table of measurements, with goals.

    .venv/bin/python bench/serving.py [--only batch,outside,ngram,streams,gap,prefix] [--runs 3]
    .venv/bin/python bench/serving.py --guest [--smp 1] [--kernels exact] ...

On the host, frozen/serve runs on CPython beside llama.cpp's own server (built by `cllm reference`),
with the same model, kernels, threads and client over loopback. With --guest the image is measured
alone, emulated in QEMU; `cllm bench` compares it with llama-server in a guest. Compared runs take
turns, so that other load on the machine affects both; on a busy machine the figures mean little.
"""

import argparse
import contextlib
import json
import statistics
import threading
import time

import requests
from cllm import TOP, config, fetch, health, run
from support import host_engine
from support.api_server import ApiServer
from support.reference_server import Reference

LONG = "The quick brown fox jumps over the lazy dog near the river bank. "
NOTE = (
    "The keeper of the old lighthouse wrote one line in his book every night. On Monday he wrote "
    "that the sea was calm. On Tuesday he wrote that a ship had passed with two green lamps. On "
    "Wednesday he wrote nothing at all. On Thursday the wind broke a window, and he wrote with "
    "cold hands.\n\n"
)
# A model goes on with a third copy. It would not copy a list, but make up a new one.
COPY = NOTE * 2
STORIES = [
    "Write a long story about a lighthouse keeper who finds a strange letter.",
    "My grandmother's kitchen smelled of",
    "The history of the bicycle begins",
]


class Stream:
    """One streamed completion in a thread: when its tokens came."""

    def __init__(self, url, prompt, n, **fields):
        self.times = []
        self.end = None
        self.began = time.monotonic()
        body = {
            "prompt": prompt,
            "n_predict": n,
            "stream": True,
            "temperature": 0,
            "ignore_eos": True,
            **fields,
        }
        self.thread = threading.Thread(target=self._run, args=(url, body))
        self.thread.start()

    def _run(self, url, body):
        with requests.post(url + "/completion", json=body, stream=True, timeout=3600) as answer:
            for line in answer.iter_lines():
                if line.startswith(b"data: {"):
                    event = json.loads(line[6:])
                    if event.get("stop"):
                        self.end = event
                    else:
                        self.times.append(time.monotonic())

    def join(self):
        self.thread.join()
        return self

    def rate(self):
        return (len(self.times) - 1) / (self.times[-1] - self.times[0])

    def first(self):
        return self.times[0] - self.began


class Table:
    """A printed table: lines of a name, values by column, and a goal with whether it is met."""

    def __init__(self, *columns):
        print(f"{'':44}" + "".join(f"{name:>14}" for name in columns))

    def line(self, what, *values, goal=None, holds=None):
        cells = "".join(f"{'':>14}" if v is None else f"{v:14.3g}" for v in values)
        verdict = "" if goal is None else f"   {goal}: {'yes' if holds else 'NO'}"
        print(f"{what:44}{cells}{verdict}", flush=True)


def eight(url):
    """Return (tokens/s of 8 streams together, rate of the slowest over the mean)."""
    streams = [Stream(url, f"{i} things about the sea:", 48, cache_prompt=False) for i in range(8)]
    began = time.monotonic()
    for stream in streams:
        stream.join()
    seconds = max(s.times[-1] for s in streams) - began
    rates = [stream.rate() for stream in streams]
    return 8 * 48 / seconds, min(rates) / statistics.mean(rates)


def single(url):
    return Stream(url, "Tell me about the sea.", 64, cache_prompt=False).join().rate()


def streams(servers, runs):
    """Compare 8 streams at once with one."""
    one: dict[str, list[float]] = {}
    all_: dict[str, list[float]] = {}
    slowest: dict[str, list[float]] = {}
    for _ in range(runs):
        for name, url in servers.items():
            one.setdefault(name, []).append(single(url))
            rate, least = eight(url)
            all_.setdefault(name, []).append(rate)
            slowest.setdefault(name, []).append(least)
    table = Table(*servers)
    median = statistics.median
    table.line("single stream, tokens/s", *[median(one[n]) for n in servers])
    table.line("8 streams, tokens/s in all", *[median(all_[n]) for n in servers])
    ratios = [median(all_[n]) / median(one[n]) for n in servers]
    table.line("8 streams / single", *ratios, goal=">= 1.5", holds=ratios[0] >= 1.5)
    least = [median(slowest[n]) for n in servers]
    table.line("slowest of 8 / mean", *least, goal=">= 0.5", holds=least[0] >= 0.5)


def worst_gap(url):
    """Return (longest gap between tokens of a stream, first token of a prompt), in seconds.

    The prompt has 2,000 tokens and arrives while the stream runs.
    """
    stream = Stream(url, "Count:", 120, cache_prompt=False)
    while len(stream.times) < 10:
        time.sleep(0.01)
    prompt = Stream(url, LONG * 140, 1, cache_prompt=False).join()
    stream.join()
    return max(b - a for a, b in zip(stream.times, stream.times[1:])), prompt.first()


def gap(servers, runs):
    """Measure how a long prompt delays a running stream."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in servers}
    for _ in range(runs):
        for name, url in servers.items():
            found[name].append(worst_gap(url))
    gaps = [statistics.median(g for g, _ in found[n]) for n in servers]
    table = Table(*servers)
    beside = {}
    if len(gaps) > 1:
        beside = {"goal": "<= 0.2 of llama-server's", "holds": gaps[0] <= 0.2 * gaps[1]}
    table.line("worst gap while a prompt arrives, s", *gaps, **beside)
    table.line(
        "that prompt's first token, s",
        *[statistics.median(t for _, t in found[n]) for n in servers],
    )


def prefix(servers, runs):
    """Measure the first token of a prompt of 1,000 tokens, and of one with another end."""
    cold: dict[str, list[float]] = {n: [] for n in servers}
    warm: dict[str, list[float]] = {n: [] for n in servers}
    for number in range(runs):
        for name, url in servers.items():
            prompt = f"{number}. " + LONG * 70
            cold[name].append(Stream(url, prompt + "A", 2).join().first())
            warm[name].append(Stream(url, prompt + "B", 2).join().first())
    table = Table(*servers)
    median = statistics.median
    table.line("first token of 1,000, s", *[median(cold[n]) for n in servers])
    table.line("with a shared prefix, s", *[median(warm[n]) for n in servers])
    ratios = [median(warm[n]) / median(cold[n]) for n in servers]
    table.line("shared / cold", *ratios, goal="<= 0.15", holds=ratios[0] <= 0.15)


def ngram(servers, runs):
    """Compare drafts by n-grams with none, in the same server."""
    url = servers["cllm"]
    fields = {"drafts": {}, "none": {"speculative.n_max": 0}}
    table = Table(*fields, "ratio")

    def compare(what, prompt, n):
        rates: dict[str, list[float]] = {name: [] for name in fields}
        for _ in range(runs):
            for name, values in fields.items():
                stream = Stream(url, prompt, n, cache_prompt=False, **values).join()
                rates[name].append(stream.rate())
                if name == "drafts":
                    timings = stream.end["timings"]
        middle = [statistics.median(rates[name]) for name in fields]
        # The two of a pair ran one after the other, so slow drift of the machine cancels out.
        ratio = statistics.median(a / b for a, b in zip(*rates.values()))
        drafted = timings.get("draft_n", 0)
        print(f"    {what}: drafted {drafted}, right {timings.get('draft_n_accepted', 0)}")
        return [*middle, ratio]

    # A server learns the cost of each size of step once in its life: let it do so now.
    Stream(url, COPY, 100, cache_prompt=False).join()
    values = compare("copying", COPY, 200)
    table.line("copying, tokens/s", *values, goal=">= 1.6", holds=values[-1] >= 1.6)
    for story in STORIES:
        values = compare(story[:30], story, 120)
        table.line("free text, tokens/s", *values, goal=">= 0.97", holds=values[-1] >= 0.97)


def metric(url, *names):
    """Return values of /metrics."""
    values = dict(
        line.rsplit(" ", 1)
        for line in requests.get(url + "/metrics", timeout=600).text.splitlines()
        if not line.startswith("#")
    )
    return [float(values["llamacpp:" + name]) for name in names]


def outside(servers, runs):
    """Measure the cost of a step outside the engine (Python, HTTP, TCP), for 1 and 8 streams."""
    url = servers["cllm"]
    names = ("step_seconds_total", "engine_seconds_total", "tokens_predicted_total")
    table = Table("1 stream", "8 streams")
    found = []
    for n in (1, 8):
        parts = []
        for _ in range(runs):
            streams = [
                Stream(
                    url,
                    f"{i} things about the sea:",
                    32,
                    cache_prompt=False,
                    **{"speculative.n_max": 0},
                )
                for i in range(n)
            ]
            while not all(stream.times for stream in streams):
                time.sleep(0.01)
            before = metric(url, *names)
            while not any(len(stream.times) > 28 for stream in streams):
                time.sleep(0.01)
            after = metric(url, *names)
            for stream in streams:
                stream.join()
            step, engine, tokens = [b - a for a, b in zip(before, after)]
            parts.append(
                ((step - engine) / tokens * 1000, step / tokens * n * 1000, (step - engine) / step)
            )
        found.append([statistics.median(column) for column in zip(*parts)])
    per_token, steps, part = zip(*found)
    table.line("a step, ms", *steps)
    table.line("outside the engine, ms a token", *per_token)
    table.line(
        "outside the engine, part of a step", *part, goal="<= 0.05", holds=max(part) <= 0.05
    )


SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48)


def batch(times, sampling):
    """Print the cost of decoding n tokens of one sequence, all with logits: what drafts can gain.

    times: {n: milliseconds}. sampling: milliseconds for a token.
    """
    print(f"sampling a token greedily: {sampling:.2f} ms")
    table = Table("ms", "ms a token", "of one", "gain if right")
    one = times[1]
    for n in SIZES:
        ms = times[n]
        table.line(
            f"decode of {n}", ms, ms / n, ms / one, n * (one + sampling) / (ms + n * sampling)
        )


def host_batch(model, threads, runs):
    engine = host_engine.Engine(model, n_ctx=1024, n_batch=128, n_threads=threads)
    tokens = engine.tokenize(LONG * 30)[:128]
    engine.prompt(tokens)
    sampler = engine.sampler({"temperature": 0})
    times: dict[int, list[float]] = {n: [] for n in SIZES}
    sampling = []
    for _ in range(5 * runs):
        for n in SIZES:
            began = time.monotonic()
            engine.decode(tokens[:n], list(range(128, 128 + n)), [0] * n, [1] * n)
            times[n].append(time.monotonic() - began)
            engine.seq_rm(0, 128, -1)
            began = time.monotonic()
            sampler.sample(n - 1)
            sampling.append(time.monotonic() - began)
    engine.close()
    median = statistics.median
    return {n: 1000 * median(times[n]) for n in SIZES}, 1000 * median(sampling)


def guest_batch(url, runs):
    """Measure the same by bench/serving_app.py in the guest."""
    times: dict[int, list[float]] = {n: [] for n in SIZES}
    sampling = []
    for _ in range(runs):
        sizes = ",".join(map(str, SIZES))
        answer = requests.get(f"{url}/batch/{sizes}", timeout=3600).json()
        for n, ms in answer["decode_ms"]:
            times[n].append(ms)
        sampling.append(answer["sample_ms"])
    median = statistics.median
    return {n: median(times[n]) for n in SIZES}, median(sampling)


@contextlib.contextmanager
def ours(model, threads, **options):
    config = {"model": {"n_ctx": 8192, "slots": 8, "n_batch": 512, "threads": threads, **options}}
    with ApiServer(model, config) as server:
        yield server.url


@contextlib.contextmanager
def theirs(model, threads):
    reference = Reference(
        model,
        "-c",
        "8192",
        "-np",
        "8",
        "-b",
        "2048",
        "-ub",
        "512",
        "--kv-unified",
        "-t",
        str(threads),
        "-tb",
        str(threads),
    )
    try:
        yield reference.url
    finally:
        reference.stop()


@contextlib.contextmanager
def booted(model, smp, kernels):
    """Boot the image in QEMU, emulated; yields its URL."""
    flags = {
        "model": model,
        "port": 0,
        "accel": "tcg",
        "smp": smp,
        "kernels": kernels,
        "app": str(TOP / "bench/serving_app.py"),
    }
    settings, _ = config.settings(flags)
    guest = run.make_guest(settings, {"model": {"n_ctx": 4096, "slots": 8}})
    guest.start()
    try:
        verdict = health.wait_until_decided(guest.port, guest.ended, 600)
        assert verdict is None, f"the guest is not ready: {verdict}"
        yield f"http://127.0.0.1:{guest.port}"
    finally:
        guest.stop()


ROWS = {"outside": outside, "ngram": ngram, "streams": streams, "gap": gap, "prefix": prefix}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default=None)
    parser.add_argument("--threads", type=int, default=1, help="of both servers on the host")
    parser.add_argument("--guest", action="store_true")
    parser.add_argument("--smp", type=int, default=1, help="the guest's processors")
    parser.add_argument("--kernels", choices=config.KERNELS, default="auto", help="the guest's")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", default=",".join(["batch", *ROWS]))
    arguments = parser.parse_args()
    model = str(arguments.model or fetch.default_model())
    threads, runs = arguments.threads, arguments.runs
    wanted = arguments.only.split(",")
    if unknown := set(wanted) - {"batch", *ROWS}:
        parser.error("no such row: " + ", ".join(unknown))
    if arguments.guest:
        with booted(model, arguments.smp, arguments.kernels) as url:
            if "batch" in wanted:
                batch(*guest_batch(url, runs))
            for name in ROWS:
                if name in wanted:
                    ROWS[name]({"cllm": url}, runs)
        return
    if "batch" in wanted:
        batch(*host_batch(model, threads, runs))
    with contextlib.ExitStack() as stack:
        servers = {}
        if set(wanted) & set(ROWS):
            servers["cllm"] = stack.enter_context(ours(model, threads))
        if set(wanted) & {"streams", "gap", "prefix"}:
            servers["llama-server"] = stack.enter_context(theirs(model, threads))
        for name in ROWS:
            if name in wanted:
                ROWS[name](servers, runs)


if __name__ == "__main__":
    main()
