"""MicroPython's `ntptime` module: the clock, set by NTP.

As micropython-lib documents it: `host`, `timeout` (seconds), `time()`, `settime()`. Beyond that,
`start()` keeps the clock set; `network` calls it where a lease names time servers.
"""
# SPDX-License-Identifier: MIT

import struct
import time as _time

import _x86
import socket
from net import host as _host
from net import ntp

host = "pool.ntp.org"
timeout = 1

_client = None


def _ask():
    """Ask one server. Return (its time, the clock's time when it answered), in ns since 1970."""
    address = socket.getaddrinfo(host, ntp.PORT)[0][-1]
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        s.settimeout(timeout)
        cookie = struct.unpack(">Q", _host.stack.random(8))[0]
        s.connect(address)
        asked = _time.time_ns()
        s.send(ntp.request(cookie))
        while True:
            stamps = ntp.parse(s.recv(512), cookie)
            if stamps is not None:
                break
    finally:
        s.close()
    arrived = _time.time_ns()
    received, transmitted = [ntp.from_timestamp(stamp, arrived) for stamp in stamps]
    return arrived + (received - asked + transmitted - arrived) // 2, arrived


def time():
    """Return the time that `host` gives, in seconds since 1970. OSError: no answer."""
    return _ask()[0] // 1000000000


def settime():
    """Set the clock by `host`. OSError: no answer."""
    ns, then = _ask()
    _x86.set_time(ns + _time.time_ns() - then)


def start(servers):
    """Keep the clock set by `servers` (addresses as integers). An empty list ends that."""
    global _client
    _host.enter()
    try:
        if _client is not None:
            _client.stop()
            _client = None
        if servers:
            _client = ntp.Client(_host.stack, servers, _time.time_ns, _x86.set_time)
            _client.start(_time.ticks_ms())
    finally:
        _host.leave()


def ask_again():
    """Ask start()'s servers now, after a pause of the machine: the clock may be wrong."""
    if _client is not None:
        _host.enter()
        try:
            _client.start(_time.ticks_ms())
        finally:
            _host.leave()


def status():
    """Return (whether start()'s servers have set the clock, by how many ns the last time)."""
    if _client is None or _client.synchronized is None:
        return False, 0
    return True, _client.offset
