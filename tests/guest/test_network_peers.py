"""The guest's stack against Linux's on a tap and QEMU's networking, over a wire that loses frames,
under attack and crowded. tshark checks a capture of everything that it sends.

Needs root and /dev/net/tun. Tests with a program (curl, wget, nmap, nc, tshark) are skipped
without it.
"""

import fcntl
import os
import random
import select
import shutil
import socket
import struct
import subprocess
import threading
import time
from pathlib import Path

import pytest
import requests

HERE = Path(__file__).resolve().parent
GUEST, HOST = "10.78.0.2", "10.78.0.1"
LOSSY_GUEST, LOSSY_HOST = "10.79.0.2", "10.79.0.1"
STATIC = {"network": {"address": GUEST + "/24", "gateway": HOST}}
URL = f"http://{GUEST}"
HANDLERS = HERE / "handlers.py"
TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000


class Relay(threading.Thread):
    """A tap on this side, a guest's cable on the other, and faults between them.

    `loss`, `duplicate` and `reorder` are probabilities; `passed` and `lost` count frames.
    """

    def __init__(self, wire, seed=1):
        super().__init__(daemon=True)
        self.wire = wire
        self.random = random.Random(seed)
        self.loss = self.duplicate = self.reorder = 0.0
        self.passed = self.lost = 0
        self.name_of_tap = f"lossy{os.getpid() % 10000}"
        self._tap = os.open("/dev/net/tun", os.O_RDWR)
        name = struct.pack("16sH22x", self.name_of_tap.encode(), IFF_TAP | IFF_NO_PI)
        fcntl.ioctl(self._tap, TUNSETIFF, name)
        subprocess.run(
            ["ip", "addr", "add", LOSSY_HOST + "/24", "dev", self.name_of_tap], check=True
        )
        subprocess.run(["ip", "link", "set", self.name_of_tap, "up"], check=True)
        self._ended, self._end = os.pipe()

    def run(self):
        cable = self.wire._socket
        held = []
        while True:
            ready, _, _ = select.select([self._tap, cable, self._ended], [], [], 0.02)
            if self._ended in ready:
                return
            if not ready:
                for send, frame in held:
                    send(frame)
                held.clear()
            if self._tap in ready:
                self._pass(self.wire.send, os.read(self._tap, 65536), held)
            if cable in ready:
                self._pass(lambda frame: os.write(self._tap, frame), cable.recv(65536), held)

    def _pass(self, send, frame, held):
        rng = self.random
        if rng.random() < self.loss:
            self.lost += 1
            return
        self.passed += 1
        if rng.random() < self.reorder:
            held.append((send, frame))
            return
        for _ in range(2 if rng.random() < self.duplicate else 1):
            send(frame)
        while held:
            send, frame = held.pop()
            send(frame)

    def stop(self):
        os.write(self._end, b"x")
        self.join()
        for descriptor in (self._tap, self._ended, self._end):
            os.close(descriptor)


def need_tap():
    if os.geteuid() != 0 or not Path("/dev/net/tun").exists():
        pytest.skip("a tap needs root and /dev/net/tun")


def program(name):
    found = shutil.which(name)
    if not found:
        pytest.skip(f"{name} is not installed")
    return found


@pytest.fixture(scope="module")
def tap():
    need_tap()
    # A tap that a killed run left would still have the route.
    for link in Path("/sys/class/net").glob("peers*"):
        if not Path("/proc", link.name.removeprefix("peers")).exists():
            subprocess.run(["ip", "link", "del", link.name], check=True)
    name = f"peers{os.getpid()}"
    subprocess.run(["ip", "tuntap", "add", name, "mode", "tap"], check=True)
    subprocess.run(["ip", "addr", "add", HOST + "/24", "dev", name], check=True)
    subprocess.run(["ip", "link", "set", name, "up"], check=True)
    yield name
    subprocess.run(["ip", "link", "del", name], check=True)


class Capture:
    """A capture of what a guest sent, made by QEMU's filter-dump, for tshark.

    source, destination: the addresses of the guest and of its peer.
    """

    def __init__(self, folder, source, destination):
        self.path = folder / "net.pcap"
        self._ends = f"ip.src == {source} && ip.dst == {destination}"

    def frames(self, display_filter):
        """Return the guest's frames that match a filter of tshark, a line for each."""
        command = [
            program("tshark"),
            "-r",
            str(self.path),
            "-o",
            "tcp.check_checksum:TRUE",
            "-o",
            "ip.check_checksum:TRUE",
            "-o",
            "udp.check_checksum:TRUE",
            "-Y",
            f"({display_filter}) && {self._ends}",
        ]
        # The capture goes on: its last frame may be cut.
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        return done.stdout.splitlines()

    def count(self, display_filter):
        """Return how many frames match."""
        return len(self.frames(display_filter))

    def check(self):
        """Assert that all frames are well-formed; return the number of TCP segments."""
        assert self.frames("_ws.malformed") == []
        # An ICMP error quotes frames that may be malformed. QEMU's e1000 writes a checksum of zero
        # as 0xFFFF, its equal (RFC 1071): UDP needs that, and tshark does not expect it of TCP.
        bad = "ip.checksum.status == 0 || (tcp.checksum.status == 0 && tcp.checksum != 0xffff)"
        assert self.frames(f"({bad}) && !icmp") == []
        assert self.frames("icmp.checksum.status == 0 || udp.checksum.status == 0") == []
        return self.count("tcp")


class Way:
    """A guest with handlers.py and without a model, and the way to it: host, port, url, capture."""

    def __init__(self, guest, host, port, capture):
        self.guest, self.host, self.port, self.capture = guest, host, port, capture
        self.url = f"http://{host}:{port}"

    def connect(self):
        return socket.create_connection((self.host, self.port), 60)

    def healthy(self):
        assert requests.get(self.url + "/health", timeout=60).status_code == 503  # it has no model


def check_log(guest):
    assert not guest.ended.is_set()
    errors = guest.log().decode("utf-8", "replace").split("Traceback")[1:]
    assert not errors, "Traceback".join(["", *errors])[:4000]


@pytest.fixture(scope="module")
def tapped(boot_once, tap, tmp_path_factory):
    """The way to a guest on the tap."""
    capture = Capture(tmp_path_factory.mktemp("tap"), GUEST, HOST)
    guest = boot_once(
        # Without vnet_hdr the capture has frames as they are on a wire.
        netdev=f"tap,ifname={tap},script=no,downscript=no,vnet_hdr=off",
        config_json=STATIC,
        wait=False,
        app=str(HANDLERS),
        pcap=str(capture.path),
    )
    guest.serial.expect("listening")
    yield Way(guest, GUEST, 80, capture)
    check_log(guest)


@pytest.fixture(scope="module")
def forwarded(boot_once, tmp_path_factory):
    """The way to a guest in QEMU's user networking, which has its address by DHCP."""
    capture = Capture(tmp_path_factory.mktemp("user"), "10.0.2.15", "10.0.2.2")
    guest = boot_once(app=str(HANDLERS), pcap=str(capture.path))
    yield Way(guest, "127.0.0.1", guest.port, capture)
    check_log(guest)


@pytest.fixture(scope="module", params=["tapped", "forwarded"])
def way(request):
    """Both ways, one after the other."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def peer(tapped):
    return tapped.guest


def healthy():
    assert requests.get(URL + "/health", timeout=60).status_code == 503  # it has no model


def heap(guest):
    guest.serial.send("\r")
    guest.serial.run("import gc; gc.collect()")
    return int(guest.serial.run("_ = gc.collect(); gc.mem_alloc()"))


# -- Programs -----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 1447, 1448, 1449, 100000, 1000000])
def test_bodies_come_back(way, size):
    body = random.Random(size).randbytes(size)
    assert requests.post(way.url + "/echo", data=body, timeout=120).content == body


def test_curl(way, tmp_path):
    command = [program("curl"), "-sS", "--fail", "-m", "100", way.url + "/stream/300000"]
    done = subprocess.run(command, capture_output=True, check=True)
    assert len(done.stdout) == 300000
    body = tmp_path / "body"
    body.write_bytes(os.urandom(200000))
    command = [program("curl"), "-sS", "-m", "100", "--data-binary", f"@{body}", way.url + "/echo"]
    assert subprocess.run(command, capture_output=True, check=True).stdout == body.read_bytes()


def test_wget(way):
    command = [program("wget"), "-q", "-T", "100", "-O", "-", way.url + "/stream/100000"]
    assert len(subprocess.run(command, capture_output=True, check=True).stdout) == 100000


def test_half_closed_client_gets_its_answer(way):
    # nc closes its sending side at the end of its input, and waits for the answer.
    command = [program("nc"), "-N", "-w", "60", way.host, str(way.port)]
    request = b"GET /stream/50000 HTTP/1.0\r\n\r\n"
    done = subprocess.run(command, input=request, capture_output=True, timeout=120)
    assert done.stdout.startswith(b"HTTP/1.") and len(done.stdout) > 50000


# -- Clients that are slow, many, or gone ---------------------------------------------------------


def test_slow_reader(way):
    with way.connect() as s:
        # Smaller pieces than a loopback's segment delay the forwarder, not the guest.
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096 if way.host == GUEST else 65536)
        s.sendall(b"GET /stream/400000 HTTP/1.0\r\n\r\n")
        time.sleep(2)
        way.healthy()  # nobody else waits for it
        got = 0
        while part := s.recv(3000):
            got += len(part)
            if got < 60000:
                time.sleep(0.01)
    assert got > 400000


def test_slow_writer(way):
    body = b"x" * 300
    with way.connect() as s:
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        head = (
            b"POST /echo HTTP/1.1\r\nHost: g\r\nConnection: close\r\nContent-Length: 300\r\n\r\n"
        )
        for byte in head + body:
            s.send(bytes([byte]))
            time.sleep(0.001)
        answer = b""
        while part := s.recv(4096):
            answer += part
    assert answer.endswith(body)


def test_idle_connections_do_not_stop_a_transfer(way):
    idle = []
    try:
        for _ in range(30):
            idle.append(way.connect())
            time.sleep(0.02)  # the forwarder takes one at a time
        body = os.urandom(300000)
        assert requests.post(way.url + "/echo", data=body, timeout=120).content == body
    finally:
        for s in idle:
            s.close()
    way.healthy()


def test_capture_is_well_formed(way):
    # Everything that the guest sent in the tests above.
    way.healthy()
    sent = way.capture.check()
    assert sent > 500
    # Nothing was lost on this cable, so any retransmission is a mistake.
    assert way.capture.count("tcp.analysis.retransmission") < sent * 0.02
    # A window closes where Linux sends faster than Python reads.
    assert way.capture.count("tcp.analysis.zero_window") < sent * 0.1


# -- Scans and crowds -----------------------------------------------------------------------------


def test_port_scan(peer):
    command = [program("nmap"), "-n", "-Pn", "-sS", "-T4", "-p", "1-300", GUEST]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert "80/tcp open" in done.stdout and "Nmap done" in done.stdout
    healthy()


def test_stack_fingerprint_probes(peer):
    command = [program("nmap"), "-n", "-Pn", "-O", "--max-retries", "1", "-p", "79,80", GUEST]
    subprocess.run(command, capture_output=True, timeout=300)
    healthy()


def test_churn_leaves_nothing_behind(peer):
    def visit(count):
        for number in range(count):
            with socket.create_connection((GUEST, 80), 60) as s:
                s.sendall(b"GET /health HTTP/1.0\r\n\r\n")
                if number % 3 == 0:  # some leave by a reset, before the answer
                    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                else:
                    while s.recv(4096):
                        pass

    visit(900)  # TIME-WAITs are at their limit from here on
    before = heap(peer)
    visit(600)
    assert heap(peer) < before + 300000
    healthy()


# -- Attacks --------------------------------------------------------------------------------------


def frame_socket(tap):
    s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    s.bind((tap, 0))
    return s


def addresses(tap):
    """(the guest's hardware address, the tap's)."""
    healthy()
    table = subprocess.run(["ip", "neigh", "show", GUEST], capture_output=True, text=True).stdout
    theirs = bytes.fromhex(table.split("lladdr ")[1].split()[0].replace(":", ""))
    with frame_socket(tap) as s:
        return theirs, s.getsockname()[4]


@pytest.fixture(scope="module")
def core():
    """The frozen core and the mutators of the unit tests, as modules."""
    import support.on_cpython  # noqa: F401, makes the next ones importable

    # isort: split
    import fuzzing
    from net import ipv4
    from net.tcp import wire as tcp

    return fuzzing, ipv4, tcp


def test_clients_are_served_during_a_flood(peer, tap, core):
    fuzzing, ipv4, tcp = core
    theirs, ours = addresses(tap)
    out = frame_socket(tap)
    served = 0
    for number in range(10000):
        source = ipv4.address("10.78.0.100") + number % 100
        frame = bytearray(54)
        frame[0:14] = theirs + ours + b"\x08\0"
        port = 1024 + number % 60000
        tcp.emit(frame, 34, port, 80, number, 0, tcp.SYN, 1000, 20, 0, 0)
        ipv4.emit(frame, 14, ipv4.TCP, source, ipv4.address(GUEST), 20)
        fuzzing.fix_checksums(frame)
        try:
            out.send(frame)
        except OSError:
            time.sleep(0.01)  # the tap's queue is full
        if number % 1000 == 999:
            healthy()
            served += 1
        if number % 20 == 0:
            time.sleep(0.002)
    out.close()
    assert served == 10


def test_mutated_frames_do_no_harm(peer, tap, core):
    fuzzing, ipv4, _ = core
    theirs, ours = addresses(tap)
    before = heap(peer)
    out = frame_socket(tap)
    mutator = fuzzing.Mutator(7, theirs, ipv4.address(GUEST), ours, ipv4.address("10.78.0.9"))
    mutator.ports = (80,)
    for number in range(10000):
        frame = mutator.frame()
        if len(frame) >= 14:
            try:
                out.send(frame)
            except OSError:
                time.sleep(0.01)
        if number % 20 == 0:
            time.sleep(0.002)
        if number % 2500 == 0:
            healthy()
    out.close()
    body = os.urandom(100000)
    assert requests.post(URL + "/echo", data=body, timeout=120).content == body
    assert heap(peer) < before + 500000


def test_answers_to_scans_and_attacks_were_well_formed(tapped):
    tapped.healthy()
    assert tapped.capture.check() > 4000


# -- A wire that loses frames ---------------------------------------------------------------------


@pytest.fixture
def lossy(boot, wire, tmp_path):
    need_tap()
    relay = Relay(wire)
    relay.start()
    static = {"network": {"address": LOSSY_GUEST + "/24", "gateway": LOSSY_HOST}}
    relay.capture = Capture(tmp_path, LOSSY_GUEST, LOSSY_HOST)
    guest = boot(
        netdev=wire.netdev,
        config_json=static,
        wait=False,
        app=str(HANDLERS),
        pcap=str(relay.capture.path),
    )
    guest.serial.expect("listening")
    yield relay
    relay.stop()


def test_transfers_over_a_lossy_wire(lossy):
    lossy.loss, lossy.duplicate, lossy.reorder = 0.03, 0.02, 0.02
    body = random.Random(5).randbytes(300000)
    with requests.Session() as session:
        for _ in range(2):
            url = f"http://{LOSSY_GUEST}/echo"
            assert session.post(url, data=body, timeout=200).content == body
    assert lossy.lost > 5
    sent = lossy.capture.check()
    # Retransmissions are of frames that were lost, or looked lost for a moment.
    again = lossy.capture.count("tcp.analysis.retransmission")
    assert again < 2 * lossy.lost + sent * 0.02
