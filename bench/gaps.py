"""How long other clients wait while one client sends the worst body of each kind.

    cllm run --model smollm2 &          # or any server with the same API
    .venv/bin/python bench/gaps.py --url http://127.0.0.1:8080

Each row shows, for one body: the status and time of its answer, the worst time of `/health`
(asked every 20 ms meanwhile), and the worst gap between two tokens of a stream beside it.
"""

import argparse
import json
import threading
import time
from typing import Any

import requests

PAUSE_S = 0.02


def nested_types(depth, count):
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        schema = {"type": ["object"] * count, "properties": {"a": schema}}
    return schema


def chat(**fields):
    return "/v1/chat/completions", {
        "messages": [{"role": "user", "content": "x"}],
        "max_tokens": 1,
        **fields,
    }


def schema(value):
    return chat(response_format={"type": "json_schema", "json_schema": {"schema": value}})


def said(text):
    return chat(messages=[{"role": "user", "content": text}])


def bodies():
    """Yield (kind, path, body as bytes) of each body."""
    cycle = {"allOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"$ref": "#/$defs/a"}}}
    doubling = 'root ::= "a" root t | "a" root u\nt ::= "b"\nu ::= "b"'
    kinds = {
        "schema: references in a circle": schema(cycle),
        "schema: types that multiply": schema(nested_types(20, 3)),
        "schema: 1,100 properties": schema(
            {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(1100)}}
        ),
        "grammar: {9,2}": ("/completion", {"prompt": "x", "grammar": 'root ::= "a"{9,2}'}),
        "grammar: ways that double": (
            "/completion",
            {"prompt": "x", "n_predict": 40, "grammar": doubling},
        ),
        "2 MB of \\n": said("\n" * 1_000_000),
        "1.5 MB of \\uXXXX": said("\u0449" * 250_000),
        "500,000 floats": chat(x=[0.5] * 500_000),
        "500,000 integers to /detokenize": ("/detokenize", {"tokens": [10] * 500_000}),
        "20,000 messages": chat(messages=[{"role": "user", "content": "x"}] * 20_000),
        "2,000 messages": chat(messages=[{"role": "user", "content": "x"}] * 2_000),
        "a word of 130 kB to /tokenize": ("/tokenize", {"content": "ab" * 65_000}),
        "4,000 members": chat(x={f"k{i}": i for i in range(4_000)}),
    }
    for kind, (path, body) in kinds.items():
        yield kind, path, json.dumps(body).encode()
    yield "brackets", "/completion", b'{"prompt": ' + b"[" * 1_000_000


class Beside(threading.Thread):
    """Asks again and again in a thread; `worst` is the longest wait, in seconds."""

    def __init__(self, url):
        super().__init__(daemon=True)
        self.url, self.worst, self.ending, self.failure = url, 0.0, False, None

    def note(self, since):
        self.worst = max(self.worst, time.monotonic() - since)

    def end(self):
        self.ending = True
        self.join(60)
        if self.failure:
            raise SystemExit(f"gaps: {self.failure!r}")
        return self.worst


class Health(Beside):
    def run(self):
        try:
            with requests.Session() as session:
                while not self.ending:
                    began = time.monotonic()
                    session.get(self.url + "/health", timeout=60).raise_for_status()
                    self.note(began)
                    time.sleep(PAUSE_S)
        except requests.RequestException as failure:
            self.failure = failure


class Stream(Beside):
    def run(self):
        try:
            while not self.ending:
                last = None
                body: Any = {
                    "prompt": "Once",
                    "n_predict": 100,
                    "stream": True,
                    "ignore_eos": True,
                }
                with requests.post(
                    self.url + "/completion", json=body, stream=True, timeout=60
                ) as answer:
                    for line in answer.iter_lines():
                        if line and last:
                            self.note(last)
                        last = time.monotonic() if line else last
                        if self.ending:
                            break
        except requests.RequestException as failure:
            self.failure = failure


def measure(url, path, body):
    """Send a body; return its (status, seconds, worst wait for /health, worst gap of a stream)."""
    health, stream = Health(url), Stream(url)
    health.start()
    stream.start()
    time.sleep(1)
    began = time.monotonic()
    status = requests.post(
        url + path, data=body, headers={"Content-Type": "application/json"}, timeout=120
    ).status_code
    took = time.monotonic() - began
    time.sleep(0.5)
    return status, took, health.end(), stream.end()


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    url = parser.parse_args().url.rstrip("/")
    print(f"{'body':36} status  answer s  /health ms  stream ms")
    status, took, health, stream = measure(url, "/health", b"")
    print(f"{'(none)':36} {'':6} {'':9}  {health * 1000:10.0f} {stream * 1000:10.0f}", flush=True)
    for kind, path, body in bodies():
        status, took, health, stream = measure(url, path, body)
        print(
            f"{kind:36} {status:6} {took:9.2f}  {health * 1000:10.0f} {stream * 1000:10.0f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
