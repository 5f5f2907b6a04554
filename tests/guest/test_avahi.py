"""A user's computer finds the guest by its name: Avahi, nss-mdns and curl on the other end of the
cable, in a network namespace of their own.

Needs root and /dev/net/tun. Debian's packages are unpacked below build/, and the daemons have
sockets and a /run of their own.
"""

import fcntl
import os
import select
import shutil
import struct
import subprocess
import threading
from pathlib import Path

import pytest
from support import debian_packages

TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000
HERE, GUEST = "10.80.0.1", "10.80.0.2"
NAME = "finds-me"
SETTINGS = {"network": {"address": GUEST + "/24", "gateway": HERE, "hostname": NAME}}
PACKAGES = (
    "avahi-daemon",
    "avahi-utils",
    "libnss-mdns",
    "libavahi-client3",
    "libavahi-common3",
    "libavahi-core7",
    "libdaemon0",
    "libexpat1",
    "libdbus-1-3",
    "dbus-daemon",
)

BUS = """\
<busconfig>
  <type>system</type>
  <listen>unix:path=/run/dbus/system_bus_socket</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow send_destination="*"/> <allow receive_sender="*"/> <allow own="*"/>
  </policy>
</busconfig>
"""

AVAHI = """\
[server]
host-name=other-end
use-ipv4=yes
use-ipv6=no
allow-interfaces={tap}
enable-dbus=yes
"""

SCRIPT = """\
set -e
mount -t tmpfs tmpfs /run
mkdir /run/dbus /run/avahi-daemon
for file in nsswitch.conf passwd group; do
    mount --bind $file /etc/$file
done
dbus-daemon --config-file=bus.conf --nofork --nopidfile &
bus=$!
for i in $(seq 100); do
    [ -S /run/dbus/system_bus_socket ] && break
    sleep 0.1
done
avahi-daemon -f avahi.conf --no-drop-root --no-chroot --no-rlimits >avahi.log 2>&1 &
avahi=$!
trap 'kill $avahi $bus' EXIT
for i in $(seq 100); do
    grep -q "startup complete" avahi.log && break
    sleep 0.1
done
for i in $(seq 10); do # in its first second the guest still probes for the name
    avahi-resolve -4 -n NAME.local && break
done
curl -s -m 30 -w ' %{http_code}\\n' http://NAME.local/health
avahi-browse -rpt _http._tcp
avahi-resolve -a ADDRESS
"""


class Cable(threading.Thread):
    """A tap in a namespace of its own on one side, a guest's wire on the other."""

    def __init__(self, wire):
        super().__init__(daemon=True)
        self.wire = wire
        self.tap = f"avahi{os.getpid() % 10000}"
        self.namespace = f"cllm-{self.tap}"
        self._file = os.open("/dev/net/tun", os.O_RDWR)
        name = struct.pack("16sH22x", self.tap.encode(), IFF_TAP | IFF_NO_PI)
        fcntl.ioctl(self._file, TUNSETIFF, name)
        ip("netns", "add", self.namespace)
        ip("link", "set", self.tap, "netns", self.namespace)
        ip("-n", self.namespace, "addr", "add", HERE + "/24", "dev", self.tap)
        for device in ("lo", self.tap):
            ip("-n", self.namespace, "link", "set", device, "up")
        self._ended, self._end = os.pipe()

    def run(self):
        cable = self.wire._socket
        while True:
            ready, _, _ = select.select([self._file, cable, self._ended], [], [])
            if self._ended in ready:
                return
            if self._file in ready:
                self.wire.send(os.read(self._file, 65536))
            if cable in ready:
                os.write(self._file, cable.recv(65536))

    def stop(self):
        os.write(self._end, b"x")
        self.join()
        ip("netns", "del", self.namespace)
        for descriptor in (self._file, self._ended, self._end):
            os.close(descriptor)


def ip(*words):
    subprocess.run(["ip", *words], check=True)


@pytest.fixture
def cable(wire):
    if os.geteuid() != 0 or not Path("/dev/net/tun").exists():
        pytest.skip("a namespace with a tap needs root and /dev/net/tun")
    for program in ("ip", "curl", "unshare"):
        if shutil.which(program) is None:
            pytest.skip(f"no {program} here")
    cable = Cable(wire)
    cable.start()
    yield cable
    cable.stop()


@pytest.fixture(scope="module")
def packages():
    try:
        return debian_packages.unpack(*PACKAGES)
    except debian_packages.MissingPackagesError as error:
        pytest.skip(str(error))


def test_by_its_name(boot, cable, packages, tmp_path):
    guest = boot(netdev=cable.wire.netdev, config_json=SETTINGS, wait=False)
    guest.serial.expect("listening")
    (tmp_path / "bus.conf").write_text(BUS)
    (tmp_path / "avahi.conf").write_text(AVAHI.format(tap=cable.tap))
    (tmp_path / "nsswitch.conf").write_text("hosts: files mdns4_minimal [NOTFOUND=return] dns\n")
    # The daemon wants its user, though it runs as this one.
    user = {"passwd": "avahi:x:997:997::/:/bin/false\n", "group": "avahi:x:997:\n"}
    for name, line in user.items():
        (tmp_path / name).write_text(Path("/etc", name).read_text() + line)
    script = SCRIPT.replace("NAME", NAME).replace("ADDRESS", GUEST)
    done = subprocess.run(
        ["ip", "netns", "exec", cable.namespace]
        + ["unshare", "-m", "--propagation", "private", "sh", "-c", script],
        cwd=tmp_path,
        env=debian_packages.environment(packages),
        capture_output=True,
        text=True,
        timeout=120,
    )
    said = done.stdout + done.stderr + (tmp_path / "avahi.log").read_text()
    assert done.returncode == 0, said
    resolved, health, *services = [line for line in done.stdout.splitlines() if line.strip()]
    assert resolved.split() == [f"{NAME}.local", GUEST], said
    assert "no model" in health and health.endswith(" 503"), said
    # Its HTTP server is announced (RFC 6763), and the address leads back to the name.
    found = [line.split(";") for line in services if line.startswith("=")]
    assert [f"{NAME}.local", GUEST, "80"] in [line[6:9] for line in found], said
    assert services[-1].split() == [GUEST, f"{NAME}.local"], said
