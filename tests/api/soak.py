"""Requests of all kinds at once against frozen/serve with the real engine; a fifth are broken off.

At the end memory has not grown and every cell is free. /health was 200 throughout, and every answer
that was not broken off is complete.

    python tests/api/soak.py [--requests 10000] [--n-ctx 2048] [--slots 4] [--seed 1]
        [--clients 12]

Greedy answers are compared with those of each request alone. Many slots on a small cache (--n-ctx
256 --slots 12) preempt all the time, because the cache never has cells for all that runs.
"""

import argparse
import asyncio
import json
import random
import sys
import tempfile
from pathlib import Path

from support import tiny_model
from support.api_server import ApiServer

BAD = [
    "{",
    "[]",
    "{}",
    '{"prompt": 7}',
    '{"prompt": "x", "n": 99}',
    '{"prompt": [-1]}',
    '{"prompt": "x", "grammar": "("}',
    '{"messages": 1}',
]


def resident():
    """Return the bytes of memory that this process holds."""
    text = Path("/proc/self/statm").read_text().split()[1]
    return int(text) * 4096


class Soak:
    """The clients. answers: greedy text of each prompt alone. failures: lines of text."""

    def __init__(self, port, seed, answers):
        self.port = port
        self.random = random.Random(seed)
        self.answers = answers
        self.failures = []
        self.done = {"whole": 0, "aborted": 0, "bad": 0, "busy": 0}

    async def exchange(self, path, body, abort_after=None):
        """Send a request; return (status, body), None if it was broken off after some bytes."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            data = body.encode()
            head = f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
            request = (head + f"Content-Length: {len(data)}\r\n\r\n").encode() + data
            if abort_after is not None and abort_after < 0:
                writer.write(request[: len(request) + abort_after])
                await writer.drain()
                return None
            writer.write(request)
            if abort_after is not None:
                await asyncio.wait_for(reader.read(1 + abort_after), 0.001 * (1 + abort_after))
                return None
            answer = await asyncio.wait_for(reader.read(), 120)
        except asyncio.TimeoutError:
            if abort_after is None:
                self.failures.append(f"no answer to {body[:100]}")
            return None
        except ConnectionError:
            return None
        finally:
            writer.transport.abort()
        head, _, rest = answer.partition(b"\r\n\r\n")
        if not head:
            self.failures.append(f"connection closed without an answer to {body[:100]}")
            return None
        return int(head.split(b" ")[1]), rest

    async def one(self):
        """Send one random request and check its answer."""
        rng = self.random
        if rng.random() < 0.1:
            status = (await self.exchange("/completion", rng.choice(BAD)) or (None,))[0]
            self.done["bad"] += 1
            if status not in (400, 503):
                self.failures.append(f"a bad request got {status}")
            return
        prompt = rng.choice(list(self.answers))
        body = {
            "prompt": prompt,
            "n_predict": 24,
            "temperature": 0,
            "stream": rng.random() < 0.5,
            "priority": rng.randrange(2),
        }
        abort = None
        if rng.random() < 0.22:
            abort = rng.choice([-20, -1, 0, 5, 40, 300])
            body["n_predict"] = 400
        got = await self.exchange("/completion", json.dumps(body), abort)
        if abort is not None:
            self.done["aborted"] += 1
        elif got is not None:
            self.check(prompt, body, *got)

    def check(self, prompt, body, status, data):
        """Check an answer that was read to its end."""
        if status == 503:
            self.done["busy"] += 1
            return
        self.done["whole"] += 1
        if status != 200:
            self.failures.append(f"{status} for {body}: {data[:200]}")
            return
        if body["stream"]:
            parts = [
                json.loads(line[6:])
                for line in data.decode().split("\n")
                if line.startswith("data: ")
            ]
            text, end = "".join(p.get("content", "") for p in parts), parts and parts[-1]
        else:
            end = json.loads(data[data.index(b"{") : data.rindex(b"}") + 1])
            text = end["content"]
        if not end or not end.get("stop") or text != self.answers[prompt]:
            self.failures.append(f"{body} gave {text!r}, alone {self.answers[prompt]!r}")

    async def health(self):
        """Ask for /health now and then; any status but 200 is a failure."""
        while True:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            writer.write(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            if b" 200 " not in (await reader.read()).split(b"\r\n")[0]:
                self.failures.append("/health was not 200")
            writer.close()
            await asyncio.sleep(0.1)

    async def run(self, requests, clients):
        """Send `requests` random requests, `clients` at a time."""
        health = asyncio.create_task(self.health())
        left = requests

        async def client():
            nonlocal left
            while left > 0:
                left -= 1
                await self.one()

        await asyncio.gather(*[client() for _ in range(clients)])
        health.cancel()


def prompts():
    """Return prompts of all sizes, some with the same beginning."""
    shared = "The sea is wide and the world is round. " * 3
    return [shared[:n] + str(n) for n in (1, 5, 20, 40, 41, 44, 60, 63, 80, 90, 100, 110, 119)]


async def alone(port):
    """Return the answer to each prompt when nothing else runs.

    Prompts are left out where two tokens are nearly as likely: another batch sums in another order,
    and the cache rounds to 16 bits.
    """
    soak = Soak(port, 0, {})
    answers = {}
    for prompt in prompts():
        body = {"prompt": prompt, "n_predict": 24, "temperature": 0, "n_probs": 2}
        _, data = await soak.exchange("/completion", json.dumps(body))
        answer = json.loads(data)
        tops = [entry["top_logprobs"] for entry in answer["completion_probabilities"]]
        if min(top[0]["logprob"] - top[1]["logprob"] for top in tops) > 0.03:
            answers[prompt] = answer["content"]
    assert len(answers) >= 6
    return answers


def soak(requests, n_ctx, slots, seed, clients, model):
    """Run the soak; return (failures, counts, growth of memory in bytes)."""
    with ApiServer(model, {"model": {"n_ctx": 2048}}) as server:
        answers = asyncio.run(alone(server.port))
    config = {"model": {"n_ctx": n_ctx, "slots": slots, "n_batch": 32}, "limits": {"queue": 32}}
    with ApiServer(model, config) as server:
        warm = Soak(server.port, seed, answers)
        asyncio.run(warm.run(requests // 4, clients))
        before = resident()
        work = Soak(server.port, seed + 1, answers)
        asyncio.run(work.run(requests - requests // 4, clients))
        growth = resident() - before
        asyncio.run(asyncio.sleep(0.5))  # the last aborted ones
        scheduler = server.scheduler
        failures = warm.failures + work.failures
        if scheduler.busy or scheduler.cache.pinned:
            failures.append("something still runs")
        scheduler.cache.flush()
        if scheduler.cache.used:
            failures.append("cells are not free")
        metrics = scheduler.metrics
        counts = dict(work.done, preempted=metrics.preemptions, displaced=metrics.displaced)
    return failures, counts, growth


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--requests", type=int, default=10000)
    parser.add_argument("--n-ctx", type=int, default=2048)
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--clients", type=int, default=12)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "tiny.gguf"
        tiny_model.make(model, ascii_only=True, exact=True)
        failures, counts, growth = soak(
            arguments.requests,
            arguments.n_ctx,
            arguments.slots,
            arguments.seed,
            arguments.clients,
            model,
        )
    print(counts, f"memory grew by {growth >> 10} KiB")
    for failure in failures[:20]:
        print(failure)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
