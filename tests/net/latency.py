"""How soon the guest answers a ping while it computes: one boot, Linux on a tap at the other end.

    .venv/bin/python tests/net/latency.py [--tokens 1000] [--smp 1] [--image build/cllm.elf]

It prints the answer times of a ping every 100 ms: idle, during a prompt of --tokens, and while
tokens are generated, with the model's speed. It needs root for the tap. Times include the host's
own, so compare within one run only.
"""

import argparse
import json
import os
import select
import socket
import struct
import threading
import time
import urllib.request
from pathlib import Path

from cllm import config, fetch
from speed import GUEST, booted

WORDS = (
    "the quick brown fox jumps over a lazy dog while two cats watch from an old stone wall"
).split()
PERIOD = 0.1


def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


class Pings(threading.Thread):
    """ICMP echo requests, one each PERIOD until end(). times: of the answers, in seconds."""

    def __init__(self):
        super().__init__(daemon=True)
        self.times = []
        self._sent = {}
        self._ending = threading.Event()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        self._id = os.getpid() & 0xFFFF
        self.start()

    def run(self):
        number, due = 0, time.monotonic()
        while not self._ending.is_set():
            head = struct.pack("!BBHHH", 8, 0, 0, self._id, number)
            head = struct.pack("!BBHHH", 8, 0, checksum(head), self._id, number)
            self._sent[number] = time.monotonic()
            self._socket.sendto(head, (GUEST, 0))
            number = (number + 1) & 0xFFFF
            due += PERIOD
            self._collect(due)
        self._collect(time.monotonic() + 5)

    def _collect(self, until):
        while (left := until - time.monotonic()) > 0 and (self._sent or not self._ending.is_set()):
            if select.select([self._socket], [], [], left)[0]:
                data = self._socket.recv(2048)
                now = time.monotonic()
                kind, _, _, ident, number = struct.unpack_from("!BBHHH", data, 20)
                if kind == 0 and ident == self._id and number in self._sent:
                    self.times.append(now - self._sent.pop(number))

    def end(self):
        """Wait for the last answers; return a line about all of them."""
        self._ending.set()
        self.join()
        times = sorted(self.times)
        if not times:
            return "no answers"
        return "ping of %d: p50 %.1f ms, p99 %.1f ms, worst %.1f ms, lost %d" % (
            len(times),
            1000 * times[len(times) // 2],
            1000 * times[len(times) * 99 // 100],
            1000 * times[-1],
            len(self._sent),
        )


def post(path, body):
    request = urllib.request.Request(
        f"http://{GUEST}{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=900) as answer:
        return json.load(answer)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=1000)
    parser.add_argument("--generate", type=int, default=16)
    parser.add_argument("--smp", type=int, default=1)
    parser.add_argument("--kernels", choices=config.KERNELS, default="auto")
    parser.add_argument("--image", type=Path)
    arguments = parser.parse_args()
    settings = {**config.DEFAULTS, "accel": "auto", "port": 0, "smp": arguments.smp}
    settings["model"] = str(fetch.default_model())
    settings["kernels"] = arguments.kernels
    with booted(settings, arguments.image):
        while True:
            try:
                if post("/tokenize", {"content": "a"})["tokens"]:
                    break
            except OSError:
                time.sleep(0.5)
        tokens = post("/tokenize", {"content": " ".join(WORDS * 80)})["tokens"]
        pings = Pings()
        time.sleep(3)
        print("idle      ", pings.end(), flush=True)
        pings = Pings()
        told = post("/completion", {"prompt": tokens[: arguments.tokens], "n_predict": 1})
        line = pings.end()
        told = told["timings"]
        print("prompt    ", line)
        rate = "%d tokens, %.2f/s" % (told["prompt_n"], told["prompt_per_second"])
        print("           " + rate, flush=True)
        pings = Pings()
        told = post(
            "/completion",
            {
                "prompt": tokens[:4],
                "n_predict": arguments.generate,
                "temperature": 0,
                "ignore_eos": True,
            },
        )
        line = pings.end()
        print("generation", line)
        print("           %.2f tokens/s" % told["timings"]["predicted_per_second"], flush=True)
        print("          ", repr(told["content"]))


if __name__ == "__main__":
    main()
