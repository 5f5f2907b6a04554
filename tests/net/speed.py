"""How fast the guest's network stack is: one boot, Linux on a tap at the other end.

    .venv/bin/python tests/net/speed.py [--mib 64] [--requests 500] [--image build/cllm.elf]
        [--nic virtio e1000 ...] [--rounds 3]

Prints MiB/s of one connection each way, and requests/s of /health on one kept-alive connection and
on new ones, with the guest's answer times and QEMU's processor time. Cards take turns. Needs root
for the tap. Figures are this machine's, with all that runs on it: compare within one run only.
"""

import argparse
import contextlib
import os
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

from cllm import config, run

HOST, GUEST = "10.77.0.1", "10.77.0.2"
SETTINGS = {"network": {"address": GUEST + "/24", "gateway": HOST}}
SINK, SOURCE = 9000, 9001


@contextlib.contextmanager
def tap():
    """A tap interface with the address HOST; yields its name."""
    name = f"cllm{os.getpid() % 10000}"
    subprocess.run(["ip", "tuntap", "add", name, "mode", "tap"], check=True)
    try:
        subprocess.run(["ip", "addr", "add", HOST + "/24", "dev", name], check=True)
        subprocess.run(["ip", "link", "set", name, "up"], check=True)
        yield name
    finally:
        subprocess.run(["ip", "link", "del", name], check=True)


@contextlib.contextmanager
def booted(settings, image=None):
    """Boot a guest on a tap; yields once it accepts connections, and prints its log on failure."""
    with tap() as name:
        guest = run.make_guest(
            settings, SETTINGS, image=image, netdev=f"tap,ifname={name},script=no,downscript=no"
        )
        guest.start()
        try:
            connect(80).close()
            yield guest
        except BaseException:
            sys.stderr.write(guest.log()[-4000:].decode("utf-8", "replace"))
            raise
        finally:
            guest.stop()


def connect(port, patience=60):
    """Return a connection to the guest, as soon as it accepts one."""
    until = time.monotonic() + patience
    while True:
        try:
            return socket.create_connection((GUEST, port), 60)
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.2)


def ready(patience=120):
    """Wait until /health says 200."""
    until = time.monotonic() + patience
    while True:
        with connect(80) as s:
            s.sendall(b"GET /health HTTP/1.1\r\nHost: guest\r\nConnection: close\r\n\r\n")
            if s.recv(4096).startswith(b"HTTP/1.1 200"):
                return
        if time.monotonic() > until:
            raise TimeoutError("the guest did not load the model")
        time.sleep(0.1)


def receive_rate(size):
    """Return MiB/s into the guest."""
    with connect(SINK) as s:
        start = time.monotonic()
        data = memoryview(bytes(65536))
        left = size
        while left:
            left -= s.send(data[: min(left, len(data))])
        s.shutdown(socket.SHUT_WR)
        answer = b""
        while part := s.recv(100):
            answer += part
        assert int(answer) == size
        return size / (time.monotonic() - start) / (1 << 20)


def send_rate(size):
    """Return MiB/s out of the guest."""
    with connect(SOURCE) as s:
        start = time.monotonic()
        s.sendall(b"%d\n" % size)
        got = 0
        while part := s.recv(1 << 18):
            got += len(part)
        assert got == size
        return size / (time.monotonic() - start) / (1 << 20)


def request_rate(count, keep_alive):
    """Ask for /health, one after another; return (requests/s, list of seconds)."""
    times = []
    start = time.monotonic()
    s = None
    for _ in range(count):
        began = time.monotonic()
        if s is None:
            s = socket.create_connection((GUEST, 80), 60)
            s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        close = b"" if keep_alive else b"Connection: close\r\n"
        s.sendall(b"GET /health HTTP/1.1\r\nHost: guest\r\n" + close + b"\r\n")
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += s.recv(4096)
        head, _, body = answer.partition(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        while len(body) < length:
            body += s.recv(4096)
        if not keep_alive:
            s.close()
            s = None
        times.append(time.monotonic() - began)
    return count / (time.monotonic() - start), times


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mib", type=int, default=64)
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--image", type=Path)
    parser.add_argument("--nic", nargs="+", default=["auto"], choices=config.NICS)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--model", default=config.DEFAULT_MODEL)
    parser.add_argument("--pcap")
    arguments = parser.parse_args()
    flags = {"accel": "auto", "port": 0, "pcap": arguments.pcap, "model": arguments.model}
    settings, _ = config.settings(flags)
    settings["app"] = str(Path(__file__).with_name("speed_app.py"))
    found = {}  # {(nic, what): [MiB/s or requests/s]}, and the same of processor time
    for number in range(arguments.rounds):
        for nic in arguments.nic:
            settings["nic"] = nic
            with booted(settings, arguments.image) as guest:
                ready()
                if arguments.rounds > 1:
                    print(f"round {number + 1} of {arguments.rounds}, {nic}", flush=True)
                measure(guest, nic, arguments, found)
    if arguments.rounds > 1:
        for (nic, what), values in found.items():
            rates, costs = zip(*values)
            print(
                f"{nic:8} {what:26} median {statistics.median(rates):8.2f}/s, "
                f"QEMU {statistics.median(costs):7.2f} ms each"
            )


def measure(guest, nic, arguments, found):
    """Print the four figures, and add them to `found`."""
    size = arguments.mib << 20
    for what, rate_of in (("MiB received", receive_rate), ("MiB sent", send_rate)):
        before = processor_ms(guest)
        rate = rate_of(size)
        cost = (processor_ms(guest) - before) / arguments.mib
        print(f"{what:26} {rate:8.2f}/s   QEMU {cost:.2f} ms each", flush=True)
        found.setdefault((nic, what), []).append((rate, cost))
    for keep_alive in (True, False):
        what = "/health, " + ("kept alive" if keep_alive else "new connection")
        before = processor_ms(guest)
        rate, times = request_rate(arguments.requests, keep_alive)
        cost = (processor_ms(guest) - before) / arguments.requests
        times.sort()
        p50, p99 = (1000 * times[len(times) * part // 100] for part in (50, 99))
        print(
            f"{what:26} {rate:8.2f}/s   QEMU {cost:.2f} ms each   p50 {p50:.2f} ms, "
            f"p99 {p99:.2f} ms",
            flush=True,
        )
        found.setdefault((nic, what), []).append((rate, cost))


def processor_ms(guest):
    """Return the processor time that QEMU has taken so far (proc(5), utime and stime)."""
    fields = Path(f"/proc/{guest.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * 1000 / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
