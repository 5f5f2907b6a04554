"""What TLS costs: handshakes, their memory, and what a running stream notices of them.

    python bench/tls.py [--handshakes 1000] [--tokens 150]

Boots a guest with a small random model. Prints handshakes per second of QEMU's processor time, the
heap and the machine's memory before and after all of them, and the worst gap of a stream alone and
while five handshakes a second arrive.
"""

import argparse
import socket
import ssl
import sys
import tempfile
import threading
import time
from pathlib import Path

import requests
from cllm import certificates, config, health, qemu, run
from support import tiny_model

APP = """
import gc, _x86
from cllm import app

@app.get("/memory")
def memory(request):
    gc.collect()
    return {"heap": gc.mem_alloc(), "machine": _x86.memory()}
"""


def processor_time(guest):
    fields = Path(f"/proc/{guest.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


class Client:
    """Handshakes with one guest. cafile: what it trusts."""

    def __init__(self, port, cafile):
        self.port = port
        self.cafile = cafile

    def shake(self, version=None):
        """Do one full handshake and ask for /health."""
        context = ssl.create_default_context(cafile=self.cafile)
        if version:
            context.maximum_version = context.minimum_version = version
        plain = socket.create_connection(("127.0.0.1", self.port), 60)
        with context.wrap_socket(plain, server_hostname="localhost") as sock:
            # The client ends the connection, so that the guest has no TIME-WAIT to remember.
            sock.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            assert sock.recv(4096).startswith(b"HTTP/1.1 200")

    def get(self, path):
        url = f"https://localhost:{self.port}{path}"
        return requests.get(url, verify=self.cafile, timeout=60).json()

    def worst_gap(self, tokens):
        """Return the longest wait between two tokens of a stream, in seconds."""
        body = {"prompt": "a", "n_predict": tokens, "stream": True, "ignore_eos": True}
        gaps = []
        url = f"https://localhost:{self.port}/completion"
        with requests.post(url, json=body, verify=self.cafile, stream=True, timeout=60) as answer:
            lines = (line for line in answer.iter_lines() if line)
            next(lines)
            last = time.monotonic()
            for _ in lines:
                gaps.append(time.monotonic() - last)
                last = time.monotonic()
        return max(gaps)


def measure(guest, client, options):
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        client.shake(version)
        before = processor_time(guest)
        for _ in range(50):
            client.shake(version)
        spent = (processor_time(guest) - before) / 50
        print(f"{version.name}: {1000 * spent:.1f} ms of QEMU's processor time a handshake")
    print(f"memory before: {client.get('/memory')}")
    for _ in range(options.handshakes):
        client.shake()
    print(f"memory after {options.handshakes} handshakes: {client.get('/memory')}")
    alone = max(client.worst_gap(options.tokens) for _ in range(3))
    stop = threading.Event()

    def shake():
        while not stop.wait(0.2):
            client.shake()

    thread = threading.Thread(target=shake)
    thread.start()
    beside = max(client.worst_gap(options.tokens) for _ in range(3))
    stop.set()
    thread.join()
    print(
        f"worst gap of a stream: {1000 * alone:.0f} ms, {1000 * beside:.0f} ms beside handshakes"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--handshakes", type=int, default=1000)
    parser.add_argument("--tokens", type=int, default=150)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tiny_model.make(folder / "tiny.gguf")
        (folder / "app.py").write_text(APP)
        pair = certificates.write(folder, *certificates.make(["localhost"])[:2])
        settings = {**config.DEFAULTS, "port": 0, "tls_port": qemu.free_port(), "accel": "tcg"}
        settings.update(model=str(folder / "tiny.gguf"), app=str(folder / "app.py"))
        tls = {"cert": str(pair[0]), "key": str(pair[1])}
        guest = run.make_guest(settings, {"tls": tls}, packed=False)
        guest.start()
        try:
            if reason := health.wait_until_decided(guest.port, guest.ended, 120):
                sys.exit(reason)
            measure(guest, Client(settings["tls_port"], pair[0]), options)
        finally:
            guest.stop()


if __name__ == "__main__":
    main()
