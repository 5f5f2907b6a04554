"""Each card on a wire: ARP and ICMP as frames from here, and Linux's own stack on a tap."""

import os
import re
import socket
import struct
import subprocess
import time
from pathlib import Path

import pytest
import requests
from cllm import qemu
from support.qemu_monitor import Monitor

GUEST_IP = bytes([10, 77, 0, 2])
OUR_IP = bytes([10, 77, 0, 1])
OUR_MAC = bytes([2, 0, 0, 0, 0, 1])
STATIC = {"network": {"address": "10.77.0.2/24", "gateway": "10.77.0.1"}}


def checksum(data):
    """Return the Internet checksum (RFC 1071)."""
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def arp(operation, to, target_mac, target_ip):
    return (
        to
        + OUR_MAC
        + struct.pack("!HHHBBH", 0x0806, 1, 0x0800, 6, 4, operation)
        + (OUR_MAC + OUR_IP + target_mac + target_ip)
    )


def echo_request(mac, number, payload):
    icmp = struct.pack("!BBHHH", 8, 0, 0, 77, number) + payload
    icmp = icmp[:2] + struct.pack("!H", checksum(icmp)) + icmp[4:]
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(icmp), number, 0, 64, 1, 0) + OUR_IP + GUEST_IP
    ip = ip[:10] + struct.pack("!H", checksum(ip)) + ip[12:]
    return mac + OUR_MAC + b"\x08\x00" + ip + icmp


def receive(wire, wanted, timeout=60):
    """Return the next frame for which wanted(frame) is true."""
    until = time.monotonic() + timeout
    while (left := until - time.monotonic()) > 0:
        frame = wire.receive(left)
        if frame and wanted(frame):
            return frame
    raise AssertionError("the guest did not answer")


NIC = os.environ.get("CLLM_NIC", "auto")
# What differs from card to card is tried on each that QEMU and cllm know; CLLM_NIC=NAME takes
# that one for all tests.
CARDS = [NIC] if NIC != "auto" else [name for name in qemu.CARDS if name != "auto"]


@pytest.fixture(params=CARDS)
def nic(request):
    """A card, by the name that `--nic` has."""
    return request.param


@pytest.fixture
def wired(boot, wire):
    guest = boot(netdev=wire.netdev, config_json=STATIC, wait=False)
    guest.serial.expect("listening")
    return wire


def resolve(wire):
    """Ask by ARP for the guest's hardware address."""
    wire.send(arp(1, b"\xff" * 6, bytes(6), GUEST_IP))
    answer = receive(wire, lambda f: f[12:14] == b"\x08\x06" and f[20:22] == b"\x00\x02")
    assert answer[28:32] == GUEST_IP and answer[38:42] == OUR_IP
    return answer[22:28]


@pytest.mark.parametrize("size", [0, 1, 56, 1472])
def test_ping(wired, size):
    mac = resolve(wired)
    payload = os.urandom(size)
    wired.send(echo_request(mac, 5, payload))
    answer = receive(wired, lambda f: f[12:14] == b"\x08\x00" and f[23] == 1)
    icmp = answer[34 : 14 + struct.unpack("!H", answer[16:18])[0]]
    assert checksum(answer[14:34]) == 0 and checksum(icmp) == 0
    assert answer[26:34] == GUEST_IP + OUR_IP
    assert icmp[0] == 0 and icmp[4:8] == struct.pack("!HH", 77, 5) and icmp[8:] == payload


def test_nonsense_on_the_wire_is_survived(wired):
    mac = resolve(wired)
    good = echo_request(mac, 1, b"x" * 64)
    for length in (1, 13, 14, 20, 33, 34, 41, 42):
        wired.send(good[:length])
    for at in range(12, 42):
        wired.send(good[:at] + bytes([good[at] ^ 0xFF]) + good[at + 1 :])
    for _ in range(200):
        wired.send(mac + OUR_MAC + b"\x08\x00" + os.urandom(60))
    for _ in range(10):  # a burst may have been too much for the ring
        wired.send(echo_request(mac, 9, b"still there"))
        try:
            receive(wired, lambda f: f[12:14] == b"\x08\x00" and b"still there" in f, timeout=3)
            return
        except AssertionError:
            continue
    raise AssertionError("the guest does not answer any more")


class Server:
    """A DHCP server on the wire: leases GUEST_IP, or refuses what it offered."""

    def __init__(self, wire):
        self.wire = wire
        self.refuses = False
        # (time, message type, whether it names an address, hardware address) of what came.
        self.messages = []

    def serve(self, wanted, timeout=60):
        """Answer until a frame comes for which wanted(frame) is true; return it, or None."""
        until = time.monotonic() + timeout
        while (left := until - time.monotonic()) > 0:
            frame = self.wire.receive(left)
            if frame is None:
                break
            if frame[12:14] == b"\x08\x00" and frame[23] == 17 and frame[36:38] == b"\x00\x43":
                self.answer(frame)
            if wanted(frame):
                return frame
        return None

    def answer(self, frame):
        options = self.options(frame[282:])
        kind = options[53][0]
        self.messages.append((time.monotonic(), kind, 50 in options, frame[6:12]))
        answer, address = {1: (2, GUEST_IP), 3: (5, GUEST_IP)}[kind]
        if self.refuses and kind == 3:
            answer, address = 6, bytes(4)
        bootp = bytes([2, 1, 6, 0]) + frame[46:50] + bytes(8) + address + bytes(8) + frame[6:12]
        bootp += bytes(202) + b"\x63\x82\x53\x63" + bytes([53, 1, answer, 54, 4]) + OUR_IP
        bootp += bytes([1, 4, 255, 255, 255, 0, 51, 4, 0, 0, 14, 16, 255])
        udp = struct.pack("!HHHH", 67, 68, 8 + len(bootp), 0) + bootp
        ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0)
        ip += OUR_IP + b"\xff" * 4
        ip = ip[:10] + struct.pack("!H", checksum(ip)) + ip[12:]
        self.wire.send(b"\xff" * 6 + OUR_MAC + b"\x08\x00" + ip + udp)

    @staticmethod
    def options(data):
        found = {}
        while data[0] != 255:
            found[data[0]] = data[2 : 2 + data[1]]
            data = data[2 + data[1] :]
        return found


def test_a_lease_a_cable_and_what_others_send(boot, wire, nic, tmp_path):
    server = Server(wire)
    server.refuses = True
    boot(netdev=wire.netdev, nic=nic, qmp=tmp_path / "monitor", wait=False)
    assert server.serve(lambda f: len(server.messages) == 2)
    # A client that is refused what it was offered backs off.
    server.serve(lambda f: False, 5)
    assert 2 <= len(server.messages) <= 8
    server.refuses = False
    ours = GUEST_IP + bytes(6) + GUEST_IP
    assert server.serve(lambda f: f[12:14] == b"\x08\x06" and f[28:42] == ours)
    mac = server.messages[0][3]

    def pings(number, tag=b""):
        request = echo_request(mac, number, b"")
        wire.send(request[:12] + tag + request[12:])
        answer = b"\0\0", struct.pack("!HH", 77, number)
        is_answer = lambda f: f[23] == 1 and (f[34:36], f[38:42]) == answer  # noqa: E731
        return server.serve(lambda f: f[12:14] == b"\x08\0" and is_answer(f), 10)

    wire.send(arp(2, mac, mac, GUEST_IP))
    assert pings(1)
    # VLAN 0 is a priority (IEEE 802.1Q 6.9).
    assert pings(2, b"\x81\0\xe0\0")
    # A probe asks whether the address is taken (RFC 5227 2.1.1).
    probe = arp(1, b"\xff" * 6, bytes(6), GUEST_IP)
    wire.send(probe[:28] + bytes(4) + probe[32:])
    is_reply = lambda f: f[12:14] == b"\x08\x06" and f[20:22] == b"\0\2"  # noqa: E731
    assert server.serve(lambda f: is_reply(f) and f[28:32] == GUEST_IP and f[:6] == OUR_MAC, 10)
    # The second announcement comes 2 s after the first (RFC 5227 2.3); the one that is awaited
    # below is another.
    server.serve(lambda f: False, 3)
    # The cable is pulled out and plugged in: the lease is verified, the address announced.
    before = len(server.messages)
    with Monitor(tmp_path / "monitor") as monitor:
        monitor.human("set_link net0 off")
        server.serve(lambda f: False, 1)
        monitor.human("set_link net0 on")
        assert server.serve(lambda f: f[12:14] == b"\x08\x06" and f[28:42] == ours, 20)
    assert [message[1:3] for message in server.messages[before:]] == [(3, True)]
    wire.send(arp(2, mac, mac, GUEST_IP))
    assert pings(3)


@pytest.fixture
def tap():
    if os.geteuid() != 0 or not Path("/dev/net/tun").exists():
        pytest.skip("a tap needs root and /dev/net/tun")
    name = f"cllm{os.getpid() % 10000}"
    subprocess.run(["ip", "tuntap", "add", name, "mode", "tap"], check=True)
    subprocess.run(["ip", "addr", "add", "10.77.0.1/24", "dev", name], check=True)
    subprocess.run(["ip", "link", "set", name, "up"], check=True)
    yield name
    subprocess.run(["ip", "link", "del", name], check=True)


def test_linux_pings_and_fetches_over_a_tap(boot, tap, nic, tmp_path):
    app = tmp_path / "app.py"
    app.write_text(BULK)
    guest = boot(
        netdev=f"tap,ifname={tap},script=no,downscript=no",
        config_json=STATIC,
        nic=nic,
        app=str(app),
        wait=False,
    )
    guest.serial.expect("listening")
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as raw:
        raw.settimeout(30)
        for number in range(3):
            icmp = struct.pack("!BBHHH", 8, 0, 0, 99, number) + b"from linux"
            raw.sendto(icmp[:2] + struct.pack("!H", checksum(icmp)) + icmp[4:], ("10.77.0.2", 0))
            while True:
                packet = raw.recv(2000)
                if packet[20] == 0 and packet[24:28] == struct.pack("!HH", 99, number):
                    assert packet[28:] == b"from linux"
                    break
    assert requests.get("http://10.77.0.2/health", timeout=60).status_code == 503
    # Large enough for the card to cut up segments.
    answer = requests.get("http://10.77.0.2/bulk", timeout=60)
    assert answer.content == b"".join(b"%08d" % n for n in range(250_000))
    sent = requests.post("http://10.77.0.2/sum", data=answer.content, timeout=60)
    assert sent.text == str(len(answer.content))


BULK = """
from cllm import app


@app.get("/bulk")
def bulk(request):
    return b"".join([b"%08d" % n for n in range(250000)])


@app.post("/sum")
def total(request):
    return str(len(request.body))
"""


def test_its_name_is_found(boot, wire, nic):
    """By multicast DNS, so each card lets frames to the group in (tests/unit/net/test_mdns.py)."""
    wired = wire
    boot(netdev=wire.netdev, config_json=STATIC, nic=nic, wait=False).serial.expect("listening")
    mac = resolve(wired)
    group = bytes([224, 0, 0, 251])
    # In its first second it may still be probing for the name.
    for _ in range(10):
        dns = struct.pack("!6H", 0, 0, 1, 0, 0, 0) + b"\4cllm\5local\0" + struct.pack("!HH", 1, 1)
        datagram = struct.pack("!HHHH", 5353, 5353, 8 + len(dns), 0) + dns
        ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(datagram), 0, 0, 255, 17, 0)
        ip += OUR_IP + group
        ip = ip[:10] + struct.pack("!H", checksum(ip)) + ip[12:]
        wired.send(b"\1\0\x5e\0\0\xfb" + OUR_MAC + b"\x08\0" + ip + datagram)
        try:
            frame = receive(wired, lambda f: f[30:34] == group and f[44:46] == b"\x84\0", 2)
            break
        except AssertionError:
            pass
    assert frame[:12] == b"\1\0\x5e\0\0\xfb" + mac and GUEST_IP in frame[54:]


def test_two_cards(boot, wire, monkeypatch):
    # The wire is at the second, which the configuration names.
    arguments = qemu.Guest.arguments
    first = ["-netdev", "user,id=net1", "-device", "virtio-net-pci,netdev=net1,romfile=,addr=3"]
    monkeypatch.setattr(qemu.Guest, "arguments", lambda guest: [*first, *arguments(guest)])
    section = {**STATIC["network"], "card": "e1000"}
    guest = boot(netdev=wire.netdev, config_json={"network": section}, nic="e1000", wait=False)
    guest.serial.expect("listening")
    assert resolve(wire)


def test_a_card_that_is_not_there(boot, wire):
    section = {**STATIC["network"], "card": "00:1f.0"}
    guest = boot(netdev=wire.netdev, config_json={"network": section}, wait=False)
    guest.serial.expect("cllm: network.card: no card 00:1f.0.*\r\n")
    guest.serial.expect("listening")
    assert resolve(wire)


@pytest.mark.parametrize("nic", ["virtio", "e1000e", "vmxnet3"])
def test_an_address_does_not_keep_the_boot_waiting(boot, monkeypatch, nic):
    # In virtual time, which does not depend on the host: 2 ns an instruction.
    arguments = qemu.Guest.arguments

    def counted(guest):
        line = arguments(guest)
        line[line.index("-accel") + 1] = "tcg,thread=single"
        return [*line, "-icount", "shift=1,sleep=off"]

    monkeypatch.setattr(qemu.Guest, "arguments", counted)
    guest = boot(nic=nic, smp=1)
    table = dict(re.findall(r"^ +([\d.]+) ms  (.*?)\r?$", guest.log().decode(), re.MULTILINE))
    table = {name: float(ms) for ms, name in table.items()}
    assert table["address"] <= 20


def test_without_a_card_the_model_is_there_at_the_repl(boot, tiny_model, monkeypatch):
    # A card without a driver is like none.
    arguments = qemu.Guest.arguments
    monkeypatch.setattr(
        qemu.Guest,
        "arguments",
        lambda guest: [word.replace("virtio-net-pci,", "rtl8139,") for word in arguments(guest)],
    )
    guest = boot(model=str(tiny_model), wait=False)
    guest.serial.expect("cllm: no driver for the network card 10ec:8139 at 00:0[0-9a-f].0\r\n")
    guest.serial.expect("cllm: no network card of a kind that is known.*\r\n")
    guest.serial.booted()
    guest.serial.run("import asyncio; from cllm import llm")
    line = "len(asyncio.run(llm.generate('Hello', max_tokens=4))) > 0"
    assert guest.serial.run(line) == "True"
    assert b"Traceback" not in guest.log()


def test_off_and_on_again_takes_no_memory(boot, nic):
    guest = boot(nic=nic)
    serial = guest.serial
    serial.send("\r")
    serial.expect(">>> ")
    serial.run("import gc, network, _x86; l = network.LAN()")
    cycle = "[(l.active(False), l.active(True), gc.collect()) for _ in range({})] and None"
    serial.run(cycle.format(3))
    free = int(serial.run("_x86.memory()[1]"))
    serial.run(cycle.format(25))
    assert free - int(serial.run("_x86.memory()[1]")) < 512 * 1024  # 25 MiB without reuse
    serial.send("\x04")  # a soft reset takes it all back
    serial.expect("MPY: soft reboot\r\n")
    serial.booted()
    assert requests.get(guest.url + "/health", timeout=60).status_code == 503
