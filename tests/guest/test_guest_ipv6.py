"""IPv6 of a booted guest: on a link with a router's advertisements and no IPv4, against Linux; and
in QEMU's user network.

The first needs root and /dev/net/tun.
"""

import contextlib
import os
import re
import socket
import struct
import subprocess
import threading
import time
from pathlib import Path

import pytest
import requests

HERE = Path(__file__).resolve().parent
HOST = "2001:db8:78::1"
PREFIX = "2001:db8:78::"
ICMPV6 = socket.IPPROTO_ICMPV6


class Router(threading.Thread):
    """Advertises a prefix, an MTU and a name server on an interface, as radvd does."""

    def __init__(self, interface, mtu):
        super().__init__(daemon=True)
        self._socket = socket.socket(socket.AF_INET6, socket.SOCK_RAW, ICMPV6)
        self._index = socket.if_nametoindex(interface)
        for option in (socket.IPV6_MULTICAST_HOPS, socket.IPV6_UNICAST_HOPS):
            self._socket.setsockopt(socket.IPPROTO_IPV6, option, 255)
        self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, self._index)
        # RFC 4861 4.2, 4.6.2, 4.6.4, RFC 8106 5.1; the kernel writes the checksum.
        self._message = struct.pack(">BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0)
        self._message += struct.pack(">BBBBIII", 3, 4, 64, 0xC0, 7200, 3600, 0)
        self._message += socket.inet_pton(socket.AF_INET6, PREFIX)
        self._message += struct.pack(">BBHI", 5, 1, 0, mtu)
        self._message += struct.pack(">BBHI", 25, 3, 0, 600)
        self._message += socket.inet_pton(socket.AF_INET6, PREFIX + "53")
        self._end = threading.Event()

    def run(self):
        while not self._end.wait(0.5):
            with contextlib.suppress(OSError):  # the interface has no address yet
                self._socket.sendto(self._message, ("ff02::1", 0, 0, self._index))

    def stop(self):
        self._end.set()
        self.join()
        self._socket.close()


@pytest.fixture
def tap():
    if os.geteuid() != 0 or not Path("/dev/net/tun").exists():
        pytest.skip("a tap needs root and /dev/net/tun")
    if not Path("/proc/net/if_inet6").exists():
        pytest.skip("this machine has no IPv6")
    name = f"six{os.getpid()}"
    subprocess.run(["ip", "tuntap", "add", name, "mode", "tap"], check=True)
    subprocess.run(["ip", "link", "set", name, "up"], check=True)
    subprocess.run(["ip", "addr", "add", HOST + "/64", "dev", name, "nodad"], check=True)
    router = Router(name, 1400)
    router.start()
    yield name
    router.stop()
    subprocess.run(["ip", "link", "del", name], check=True)


def ping(address, size, scope=0, timeout=30):
    """Send an echo request until its answer comes; return the answer's data."""
    payload = bytes(number & 255 for number in range(size))
    with socket.socket(socket.AF_INET6, socket.SOCK_RAW, ICMPV6) as raw:
        raw.settimeout(1)
        until = time.monotonic() + timeout
        while time.monotonic() < until:
            raw.sendto(
                struct.pack(">BBHHH", 128, 0, 0, 77, size) + payload, (address, 0, 0, scope)
            )
            try:
                while True:
                    answer = raw.recv(65536)
                    if answer[0] == 129 and answer[4:8] == struct.pack(">HH", 77, size):
                        return answer[8:] == payload
            except TimeoutError:
                continue
    return False


def curl(address):
    """Return what curl gets of /health, by address alone."""
    command = ["curl", "-6", "-g", "-s", "-m", "60", f"http://[{address}]/health?network=1"]
    return subprocess.run(command, capture_output=True, text=True).stdout


class Capture(threading.Thread):
    """IPv6 packets from an address that arrive at an interface, until stop()."""

    def __init__(self, interface, source):
        super().__init__(daemon=True)
        self.packets = []
        self._source = socket.inet_pton(socket.AF_INET6, source)
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x86DD))
        self._socket.bind((interface, 0))
        self._socket.settimeout(0.2)
        self._end = threading.Event()
        self.start()

    def run(self):
        while not self._end.is_set():
            try:
                frame = self._socket.recv(65536)
            except TimeoutError:
                continue
            if frame[22:38] == self._source:
                self.packets.append(frame[14:])

    def stop(self):
        time.sleep(0.5)
        self._end.set()
        self.join()
        self._socket.close()
        return self.packets


def report_path(tap, guest, mtu):
    """Tell a guest that an answer of its was too big for a path."""
    capture = Capture(tap, guest)
    assert ping(guest, 1300)
    (answer,) = [p for p in capture.stop() if p[6] == ICMPV6 and p[40] == 129][:1]
    with socket.socket(socket.AF_INET6, socket.SOCK_RAW, ICMPV6) as raw:
        raw.sendto(struct.pack(">BBHI", 2, 0, 0, mtu) + answer[:1000], (guest, 0))


def largest_of_an_answer(tap, guest):
    """Return the size of the largest packet of an answer of 100,000 bytes."""
    capture = Capture(tap, guest)
    data = requests.get(f"http://[{guest}]/stream/100000", timeout=120).content
    assert len(data) == 100000
    return max(len(packet) for packet in capture.stop())


def aaaa(name, index):
    """Ask multicast DNS for AAAA records, as a plain resolver (RFC 6762 6.7); return them."""
    question = b"".join(bytes((len(part),)) + part.encode() for part in name.split(".")) + b"\0"
    query = struct.pack(">6H", 5, 0, 1, 0, 0, 0) + question + struct.pack(">HH", 28, 1)
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as udp:
        udp.settimeout(2)
        for _ in range(20):
            udp.sendto(query, ("ff02::fb", 5353, 0, index))
            try:
                answer = udp.recv(4096)
            except TimeoutError:
                continue
            found = re.findall(
                re.escape(question + struct.pack(">HH", 28, 1)) + b".{4}\0\x10(.{16})",
                answer,
                re.S,
            )
            return {socket.inet_ntop(socket.AF_INET6, data) for data in found}
    return set()


def test_a_network_without_ipv4(boot, tap, tiny_model):
    guest = boot(
        netdev=f"tap,ifname={tap},script=no,downscript=no,vnet_hdr=off",
        model=str(tiny_model),
        app=str(HERE / "handlers.py"),
        config_json={"network": {"hostname": "six"}, "access_log": True},
        wait=False,
    )
    guest.serial.expect("listening on port 80")
    guest.serial.booted()  # which waits for an address: there is none of IPv4
    index = socket.if_nametoindex(tap)
    found = eval(
        guest.serial.run("import network; [a[0] for a in network.LAN().ipconfig('addr6')]")
    )
    local, own = found
    assert local.startswith("fe80::") and own.startswith("2001:db8:78:0:")
    # By the link-local address with its zone, and by the one of the router's prefix.
    assert '"status":"ok"' in curl(f"{local}%{tap}").replace(" ", "")
    said = requests.get(f"http://[{own}]/health?network=1", timeout=60).json()["network"]
    assert set(said["addresses"]) == {f"{local}/64", f"{own}/64"}
    assert said["dns"] == [PREFIX + "53"] and said["gateways"][0].startswith("fe80::")
    assert curl(own)
    guest.serial.expect("http .*peer=2001:db8:78:")
    # Echo, whole and in fragments each way; and of all nodes of the link.
    assert ping(own, 56) and ping(own, 4000)
    assert ping(local, 56, index) and ping("ff02::1", 16, index)
    # The router's MTU makes packets of 1400 bytes; a path's smaller ones. Its report may be lost,
    # and the next one comes with the next packet that is too big (RFC 8201 4).
    assert largest_of_an_answer(tap, own) == 1400
    for _ in range(5):
        report_path(tap, own, 1280)
        if (largest := largest_of_an_answer(tap, own)) != 1400:
            break
    assert largest == 1280
    assert ping(own, 1300)
    assert aaaa("six.local", index) == {local, own}
    assert b"Traceback" not in guest.log()


def test_an_address_in_qemus_user_network(guest):
    until = time.monotonic() + 60
    while time.monotonic() < until:
        answer = requests.get(guest.url + "/health?network=1", timeout=60).json()
        addresses = answer["network"]["addresses"]
        if any(address.startswith("fec0:") for address in addresses):
            break
        time.sleep(0.5)
    assert [a for a in addresses if a.startswith("10.0.2.")]
    assert [a for a in addresses if a.startswith("fec0:") and a.endswith("/64")]
    # The forwarded port is IPv4's as before.
    assert "10.0.2.3" in answer["network"]["dns"]
