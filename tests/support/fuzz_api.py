"""Broken HTTP and JSON into frozen/httpd and frozen/serve.

    python -m support.fuzz_api [--count 100000] [--seed 1]   on CPython, with a fake engine
    python -m support.fuzz_api --guest [--count 5000]        into a booted guest

Half of the cases are bytes for the HTTP parser, in pieces of any size; half are JSON bodies for
every route. Each answer must be a 2xx, a 4xx, 501, 503 or 505, and no exception may escape. A
well-behaved client is served in between; in a guest, all the time.
"""

import argparse
import asyncio
import http.client
import json
import random
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from cllm import config, health, run

import support.on_cpython  # noqa: F401, makes the next ones importable
from support import tiny_model

# isort: split
from fake_engine import FakeEngine
from httpd import Limits
from httpd.aio import END
from httpd.parser import HttpError, Parser, Request
from serve import main as serve_main
from serve.apis.access import Access
from serve.scheduling.engine import READY, EngineHost
from serve.scheduling.scheduler import Bounds, Scheduler
from serve.service import Service

ROUTES = [
    "/v1/chat/completions",
    "/v1/completions",
    "/completion",
    "/v1/messages",
    "/v1/responses",
    "/v1/messages/count_tokens",
    "/v1/embeddings",
    "/embedding",
    "/tokenize",
    "/detokenize",
    "/apply-template",
    "/infill",
]
FIELDS = [
    "messages",
    "prompt",
    "input",
    "content",
    "tokens",
    "system",
    "instructions",
    "max_tokens",
    "max_output_tokens",
    "n_predict",
    "n",
    "stream",
    "stream_options",
    "stop",
    "stop_sequences",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "seed",
    "logprobs",
    "top_logprobs",
    "n_probs",
    "logit_bias",
    "response_format",
    "json_schema",
    "grammar",
    "tools",
    "tool_choice",
    "thinking",
    "reasoning",
    "reasoning_effort",
    "text",
    "chat_template_kwargs",
    "cache_salt",
    "priority",
    "cache_prompt",
    "timings_per_token",
    "t_max_predict_ms",
    "samplers",
    "response_fields",
    "encoding_format",
    "dimensions",
    "embd_normalize",
    "input_prefix",
    "input_suffix",
    "include",
    "continue_final_message",
    "add_generation_prompt",
    "output_config",
    "output_format",
    "best_of",
    "parallel_tool_calls",
    "suffix",
    "post_sampling_probs",
    "ignore_eos",
    "min_tokens",
    "input_extra",
    "with_pieces",
    "add_special",
    "model",
    "previous_response_id",
    "min_tokens",
]
WORDS = [
    "role",
    "content",
    "type",
    "text",
    "user",
    "assistant",
    "tool",
    "function",
    "name",
    "id",
    "arguments",
    "tool_calls",
    "tool_call_id",
    "parameters",
    "schema",
    "json_schema",
    "image_url",
    "input_text",
    "message",
    "tool_use",
    "tool_result",
    "call_id",
    "output",
    "function_call",
    "function_call_output",
    "reasoning",
    "required",
    "auto",
    "base64",
]
REQUEST = (
    b"POST /v1/completions?a=b HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    b"Authorization: Bearer key\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5\r\nhello\r\n3;x=y\r\nabc\r\n0\r\nTrailer: z\r\n\r\n"
    b"GET /health HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc"
)
PIECES = [
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b":",
    b" ",
    b"HTTP/1.1",
    b"Content-Length: 5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"%",
    b"\xff",
    b"99999999999999999999",
    b"-1",
    b"0x5",
    b"Host: y\r\n",
    b"\r\n\r\n",
    b",",
    b";",
    b"\t",
]


def mutated(rng):
    """Return two requests with some damage."""
    data = bytearray(REQUEST)
    for _ in range(rng.randrange(1, 5)):
        at = rng.randrange(len(data) + 1)
        kind = rng.randrange(5)
        if kind == 0 and at < len(data):
            data[at] = rng.randrange(256)
        elif kind == 1:
            del data[at : at + rng.randrange(20)]
        elif kind == 2:
            data[at:at] = rng.choice(PIECES)
        elif kind == 3:
            data[at:at] = data[at : at + rng.randrange(60)]
        else:
            del data[at:]
    return bytes(data)


def parsed(data, sizes):
    """Feed `data` to the parser in pieces; return a list of (method, target), bodies, a status."""
    parser = Parser(Limits(line=200, head=600, body=500))
    result: list[Any] = []
    at = 0

    def wait(step):
        nonlocal at
        while True:
            value = step()
            if value is not None or at >= len(data):
                return value
            size = next(sizes)
            parser.feed(data[at : at + size])
            at += size

    try:
        while True:
            request = wait(parser.head)
            if request is None:
                return result
            result.append((request.method, request.target))
            parser.begin_body(500)
            body = b""
            while True:
                piece = wait(parser.body)
                if not piece:
                    break
                body += piece
            if piece is None:
                return result
            result.append(body)
    except HttpError as exc:
        assert 400 <= exc.status < 600 and exc.status not in (500, 502, 503), exc
        return result + [exc.status]


def sizes_of(rng, most):
    while True:
        yield rng.randrange(1, most)


def value(rng, depth=0):
    """Return any JSON value, made of words that mean something to some route."""
    kind = rng.randrange(12 if depth < 5 else 8)
    if kind == 0:
        return None
    if kind == 1:
        return rng.random() < 0.5
    if kind == 2:
        return rng.choice([0, 1, -1, 5, 2**31, -(2**63), 10**30])
    if kind == 3:
        return rng.choice([0.5, -1.5, 1e300, 1e-300])
    if kind <= 6:
        return rng.choice(WORDS + ["", "x", "é€😀", "\0", "a|", "*ab|", "|" * 300, "x" * 5000])
    if kind == 7:
        return [rng.randrange(300) for _ in range(rng.randrange(5))]
    if kind <= 9:
        return [value(rng, depth + 1) for _ in range(rng.randrange(4))]
    return {rng.choice(WORDS): value(rng, depth + 1) for _ in range(rng.randrange(4))}


def body_of(rng):
    """Return the body of a request: mostly JSON, mostly an object, partly valid."""
    body = {rng.choice(FIELDS): value(rng) for _ in range(rng.randrange(1, 7))}
    if rng.random() < 0.6:
        body.setdefault("messages", [{"role": "user", "content": "hello"}])
        body.setdefault("prompt", "hello|")
        body.setdefault("input", "hello")
    if "max_tokens" not in body and "n_predict" not in body:
        body["max_tokens"] = 6
    data = json.dumps(body).encode()
    if rng.random() < 0.15:
        at = rng.randrange(len(data))
        piece = rng.choice([b"", b"{", b"]", b'"', b"\xff", b"\\u12"])
        data = data[:at] + piece + data[at + rng.randrange(3) :]
    return data


class Target:
    """The service with a fake engine, without sockets."""

    def __init__(self):
        self.service = Service()
        host = EngineHost("fake", "fake")
        host.engine, host.state = FakeEngine(n_ctx=512), READY
        self.service.configure(host, Bounds())
        self.service.scheduler = Scheduler(host.engine, self.service.bounds)
        serve_main.install(self.service, Access())

    async def ask(self, path, body):
        """Return (status, bytes) of the answer."""
        app = self.service.app
        request = Request("POST", path, 1, {}, path[1:].split("/"))
        request.body = body
        try:
            route, params = app.find(request)
            response = await app.handle(request, route, params)
        except HttpError as exc:
            response = app.failure(request, exc)
        app.finish(request, response)
        response.head(0, None)
        if response.source is None:
            return response.status, bytes(response.body)
        data = b""
        while True:
            piece = await response.next()
            if piece is END:
                return response.status, data
            data += piece


async def fuzz_json(count, seed):
    """Feed bodies to all routes. Raises AssertionError, which names the case that failed."""
    target = Target()
    task = asyncio.create_task(target.service.scheduler.run())
    seen: dict[int, int] = {}
    for number in range(count):
        rng = random.Random(f"{seed}/json/{number}")
        path, body = rng.choice(ROUTES), body_of(rng)
        try:
            status, _ = await asyncio.wait_for(target.ask(path, body), 20)
        except Exception as exc:
            raise AssertionError(f"case {number}: {path} {body[:500]!r} raised {exc!r}") from exc
        assert status == 200 or 400 <= status < 500 or status in (501, 503), (
            f"case {number}: {path} {body[:500]!r} gave {status}"
        )
        seen[status] = seen.get(status, 0) + 1
        if number % 500 == 0:
            status, data = await target.ask("/v1/completions", b'{"prompt": "good|"}')
            assert status == 200 and json.loads(data)["choices"][0]["text"] == "good"
    scheduler = target.service.scheduler
    assert not scheduler.busy and not scheduler.cache.pinned
    task.cancel()
    return seen


def fuzz_http(count, seed):
    """Feed damaged requests to the parser, twice in different pieces; the results must agree."""
    failed = 0
    for number in range(count):
        rng = random.Random(f"{seed}/http/{number}")
        data = mutated(rng)
        try:
            whole = parsed(data, iter([len(data)] * 9))
            pieces = parsed(data, sizes_of(rng, 40))
        except Exception as exc:
            raise AssertionError(f"case {number}: {data!r} raised {exc!r}") from exc
        # The requests must agree; an error may be noticed earlier or later.
        sound = [[x for x in result if not isinstance(x, int)] for result in (whole, pieces)]
        assert sound[0] == sound[1], f"case {number}: {data!r}"
        failed += whole != sound[0]
    return failed


def is_fine(status):
    """Return whether an answer to a broken request may have this status."""
    return status in (100, 200, 204, 501, 503, 505) or 400 <= status < 500


class WellBehaved(threading.Thread):
    """A client that asks the same again and again while others misbehave.

    times: seconds of each answer. failure: the exception that ended it, or None.
    """

    BODY = json.dumps({"prompt": "Hello there", "max_tokens": 8, "temperature": 0, "priority": -5})

    def __init__(self, port):
        super().__init__()
        self.port = port
        self.times = []
        self.failure = None
        self.text = self.ask()
        self._over = threading.Event()

    def ask(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        began = time.monotonic()
        connection.request("POST", "/v1/completions", self.BODY)
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        assert answer.status == 200, f"the well-behaved client got {answer.status} {text[:300]!r}"
        self.times.append(time.monotonic() - began)
        return json.loads(text)["choices"][0]["text"]

    def run(self):
        try:
            while not self._over.is_set():
                text = self.ask()
                assert text == self.text, (
                    f"answer {len(self.times)} was {text!r}, alone {self.text!r}"
                )
        except Exception as exc:
            self.failure = exc

    def stop(self):
        self._over.set()
        self.join()
        if self.failure:
            raise AssertionError(f"the well-behaved client: {self.failure!r}")


def send_damaged(port, data):
    """Send bytes and close the sending side; return the statuses of the answers."""
    with socket.create_connection(("127.0.0.1", port), timeout=120) as connection:
        answer = b""
        try:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            while part := connection.recv(65536):
                answer += part
        except ConnectionError:
            pass  # the server closed the connection with some bytes unread
    found = []
    for at in range(len(answer)):
        if answer.startswith(b"HTTP/1.1 ", at):
            found.append(int(answer[at + 9 : at + 12]))
    return found


def send_body(port, path, body):
    """Return the status of the answer to a JSON body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    connection.request("POST", path, body)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.status


def fuzz_port(port, count, seed, clients=4):
    """Send `count` cases to a server, `clients` at a time, beside a well-behaved client.

    Return ({status: number}, the WellBehaved). Raises AssertionError, which names the case.
    """
    seen: dict[int, int] = {}
    failures: list[str] = []
    numbers = iter(range(count))
    lock = threading.Lock()
    good = WellBehaved(port)
    good.start()

    def case(number):
        rng = random.Random(f"{seed}/guest/{number}")
        if rng.random() < 0.5:
            data = mutated(rng)
            statuses = send_damaged(port, data)
        else:
            path, data = rng.choice(ROUTES), body_of(rng)
            statuses = [send_body(port, path, data)]
        for status in statuses:
            assert is_fine(status), f"{data[:500]!r} gave {status}"
            seen[status] = seen.get(status, 0) + 1

    def client():
        while not failures and not good.failure:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            try:
                case(number)
            except Exception as exc:
                failures.append(f"case {number}: {exc!r}")

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    while threads[0].is_alive():
        threads[0].join(30)
        counts = f"{sum(seen.values())} answers, {len(good.times)} good ones"
        print(counts, file=sys.stderr, flush=True)
    for thread in threads:
        thread.join()
    good.stop()
    assert not failures, failures
    return seen, good


# Some cases generate until the context is full, so it is small. No time limit ends an answer, as a
# busy host may stop the guest for a while.
GUEST = {"model": {"n_ctx": 256}}


def fuzz_guest(count, seed):
    """Boot the image with the tiny model and send it `count` cases."""
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "tiny.gguf"
        tiny_model.make(model, ascii_only=True, exact=True)
        settings = {**config.DEFAULTS, "port": 0, "accel": "tcg", "model": str(model)}
        guest = run.make_guest(settings, GUEST)
        guest.start()
        try:
            verdict = health.wait_until_decided(guest.port, guest.ended, 120)
            assert verdict is None, f"the guest is not ready: {verdict}"
            seen, good = fuzz_port(guest.port, count, seed)
            status, message = health.ask(guest.port, 60)
            assert status == 200, f"afterwards /health is {status} {message}"
            lines = [
                line
                for line in guest.log().decode("utf-8", "replace").splitlines()
                if "Traceback" in line or "error in" in line
            ]
            assert not lines, lines
        finally:
            guest.stop()
    return seen, good


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--guest", action="store_true")
    parser.add_argument("--count", type=int)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    seed = arguments.seed
    if arguments.guest:
        seen, good = fuzz_guest(arguments.count or 5000, seed)
        print("answers by status:", dict(sorted(seen.items())))
        times = sorted(good.times)
        print(
            f"the well-behaved client got {len(times)} answers, half of them within "
            f"{times[len(times) // 2]:.1f} s, the slowest in {times[-1]:.1f} s"
        )
        return
    count = arguments.count or 100_000
    half = count // 2
    print(f"{fuzz_http(half, seed)} of {half} damaged requests refused")
    print("answers by status:", asyncio.run(fuzz_json(count - half, seed)))


if __name__ == "__main__":
    main()
