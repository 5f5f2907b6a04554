"""The network while the engine computes, and the machine while there is nothing to do."""

import os
import struct
import time

from test_network import (
    GUEST_IP,
    OUR_IP,
    OUR_MAC,
    STATIC,
    checksum,
    echo_request,
    receive,
    resolve,
)

SETUP = """\
import _engine
count = 256
batch = ([5 + i % 100 for i in range(count)], list(range(count)), [0] * count, [0] * count)
e = _engine.Engine("/boot/model.gguf", n_ctx=count, n_batch=count)
"""


def test_pings_and_handshakes_in_the_middle_of_a_decode(boot, wire, tiny_model):
    # One call into the engine: answers that come before it returns were given while it computed.
    guest = boot(model=str(tiny_model), netdev=wire.netdev, config_json=STATIC, wait=False)
    guest.serial.expect("listening")
    guest.serial.booted()
    guest.serial.send("\x05")
    guest.serial.expect("=== ")
    guest.serial.send(SETUP.replace("\n", "\r") + "\x04")
    guest.serial.expect(">>> ")
    mac = resolve(wire)
    guest.serial.sendline("print('be' + 'gun'); e.decode(*batch); print('en' + 'ded')")
    guest.serial.expect("begun")
    answered = 0
    while answered < 20 and b"ended" not in guest.log():
        wire.send(echo_request(mac, answered, b"ping"))
        receive(wire, lambda f: f[12:14] == b"\x08\x00" and f[23] == 1 and b"ping" in f)
        wire.send(syn(mac, 2000 + answered))
        receive(wire, lambda f: f[12:14] == b"\x08\x00" and f[23] == 6 and f[47] == 0x12)
        answered += 1
    # The last one sent before it returned may have been answered afterwards.
    assert answered > 3
    guest.serial.expect("ended")


def syn(mac, port):
    tcp = struct.pack("!HHIIBBHHH", port, 80, 1000, 0, 5 << 4, 2, 65535, 0, 0)
    pseudo = OUR_IP + GUEST_IP + struct.pack("!BBH", 0, 6, len(tcp))
    tcp = tcp[:16] + struct.pack("!H", checksum(pseudo + tcp)) + tcp[18:]
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(tcp), 0, 0, 64, 6, 0) + OUR_IP + GUEST_IP
    ip = ip[:10] + struct.pack("!H", checksum(ip)) + ip[12:]
    return mac + OUR_MAC + b"\x08\x00" + ip + tcp


def processor_time(pid):
    """Return the processor time of a process's threads in seconds."""
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_idle_cores_halt(boot, tiny_model):
    guest = boot(model=str(tiny_model), smp=2)
    time.sleep(1)
    before = processor_time(guest.pid)
    time.sleep(4)
    # Two cores that poll would take two of the host's, or as much as there is.
    assert processor_time(guest.pid) - before < 1
