"""How well frozen/serve schedules, beside llama.cpp's own server: the same host, model, kernels
and threads, the same client over loopback.

    .venv/bin/python bench/serving.py [--model FILE.gguf] [--threads 1] [--runs 3]

Needs `cllm reference` once. frozen/serve runs on CPython here; on a busy machine the numbers are
worth little.
"""

import argparse
import json
import statistics
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / folder) for folder in ("host", "tests", "tests/api")]

import conftest  # noqa: E402
import requests  # noqa: E402
from api_server import ApiServer  # noqa: E402
from cllm import fetch  # noqa: E402

LONG = "The quick brown fox jumps over the lazy dog near the river bank. "
COPY = "Repeat this list exactly, twice:\n" + "\n".join(
    f"{i}. item number {i * 37 % 101} in the long list" for i in range(12)) + "\nAnswer:\n"
STORY = "Write a long story about a lighthouse keeper who finds a strange letter."


class Stream:
    """One streamed completion in a thread: when its tokens came."""

    def __init__(self, url, prompt, n, **fields):
        self.times = []
        self.began = time.monotonic()
        body = {"prompt": prompt, "n_predict": n, "stream": True, "temperature": 0,
                "ignore_eos": True, **fields}
        self.thread = threading.Thread(target=self._run, args=(url, body))
        self.thread.start()

    def _run(self, url, body):
        with requests.post(url + "/completion", json=body, stream=True, timeout=600) as answer:
            for line in answer.iter_lines():
                if line.startswith(b"data: {") and not json.loads(line[6:]).get("stop"):
                    self.times.append(time.monotonic())

    def join(self):
        self.thread.join()
        return self

    def rate(self):
        return (len(self.times) - 1) / (self.times[-1] - self.times[0])

    def first(self):
        return self.times[0] - self.began


def single(url):
    return Stream(url, "Tell me about the sea.", 64, cache_prompt=False).join().rate()


def eight(url):
    """(tokens a second of all, the slowest stream's part of the mean)"""
    streams = [Stream(url, f"{i} things about the sea:", 48, cache_prompt=False)
               for i in range(8)]
    began = time.monotonic()
    for stream in streams:
        stream.join()
    seconds = max(s.times[-1] for s in streams) - began
    rates = [stream.rate() for stream in streams]
    return 8 * 48 / seconds, min(rates) / statistics.mean(rates)


def gap(url):
    """Longest time between two tokens of a stream while a long prompt arrives."""
    stream = Stream(url, "Count:", 160, cache_prompt=False)
    while len(stream.times) < 10:
        time.sleep(0.01)
    Stream(url, LONG * 140, 1, cache_prompt=False).join()
    stream.join()
    return max(b - a for a, b in zip(stream.times, stream.times[1:]))


def shared(url, number):
    """(time to the first token of a 1,000-token prompt, and with another end)"""
    prompt = f"{number}. " + LONG * 70
    cold = Stream(url, prompt + "A", 2).join().first()
    return cold, Stream(url, prompt + "B", 2).join().first()


def speed(url, prompt, n):
    return Stream(url, prompt, n, cache_prompt=False).join().rate()


def median(function, runs, *arguments):
    return statistics.median(function(*arguments) for _ in range(runs))


def measure(url, runs):
    one = median(single, runs, url)
    all_, slowest = max(eight(url) for _ in range(runs))
    cold, warm = zip(*[shared(url, number) for number in range(runs)])
    return {
        "single stream, tokens/s": one,
        "8 streams, tokens/s": all_,
        "8 streams / single": all_ / one,
        "slowest of 8 / mean": slowest,
        "worst gap while a prompt arrives, s": min(gap(url) for _ in range(runs)),
        "first token, 1,000-token prompt, s": statistics.median(cold),
        "the same with a shared prefix, s": statistics.median(warm),
        "copying, tokens/s": median(speed, runs, url, COPY, 150),
        "free text, tokens/s": median(speed, runs, url, STORY, 100),
    }


def ours(model, threads, runs, **options):
    config = {"model": {"n_ctx": 8192, "slots": 8, "n_batch": 512, "threads": threads, **options}}
    with ApiServer(model, config) as server:
        return measure(server.url, runs)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default=None)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    model = arguments.model or fetch.default_model()
    drafts = ours(model, arguments.threads, arguments.runs)
    plain = ours(model, arguments.threads, arguments.runs, speculate=False)
    reference = conftest.Reference(
        model, "-c", "8192", "-np", "8", "-b", "2048", "-ub", "512", "--kv-unified",
        "-t", str(arguments.threads), "-tb", str(arguments.threads))
    try:
        theirs = measure(reference.url, arguments.runs)
    finally:
        reference.stop()
    print(f"{'':40}{'cllm':>10}{'no drafts':>12}{'llama-server':>14}")
    for name in theirs:
        print(f"{name:40}{drafts[name]:10.2f}{plain[name]:12.2f}{theirs[name]:14.2f}")


if __name__ == "__main__":
    main()
