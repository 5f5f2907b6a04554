"""MicroPython's `socket` module over net.stack: TCP and UDP for IPv4 and IPv6.

Sockets are streams (io.IOBase), so `select.poll` and asyncio take them. Where a socket that must
not wait would have to, its stream methods (read, readinto, readline, write) return None, and its
socket methods (recv, send, accept ...) raise OSError EAGAIN, as everywhere in MicroPython. With a
timeout, both raise ETIMEDOUT. `ioctl` answers a stream's poll and close requests.

Addresses are (host, port), of AF_INET6 (host, port, flow, zone) as in CPython; the last two may be
left out, and are 0. A socket of AF_INET6 speaks both IPs, unless IPV6_V6ONLY is set: to its user
IPv4's a.b.c.d is ::ffff:a.b.c.d (RFC 3493 3.7). The family is AF_INET unless one is named, or
bind() gets an address of IPv6.
"""
# SPDX-License-Identifier: MIT

import io
import struct
import sys
import time

from micropython import const
from net import dns_message, host, ipv4, ipv6
from net.dns import Resolver
from net.tcp.states import CLOSED, SYN_RECEIVED, SYN_SENT
from net.v6 import selection

AF_INET = 2
AF_INET6 = 10
SOCK_STREAM = 1
SOCK_DGRAM = 2
SOCK_RAW = 3
SOL_SOCKET = 1
SO_REUSEADDR = 4
SO_KEEPALIVE = 8
SO_LINGER = 13
SO_BROADCAST = 32
IPPROTO_IP = 0
IPPROTO_TCP = 6
IPPROTO_UDP = 17
IPPROTO_IPV6 = 41
IPV6_V6ONLY = 26
TCP_NODELAY = 1
TCP_KEEPIDLE = 4
TCP_KEEPINTVL = 5
TCP_KEEPCNT = 6
TCP_USER_TIMEOUT = 18
SHUT_RD = 0
SHUT_WR = 1
SHUT_RDWR = 2

# Requests and events of py/stream.h.
_IOCTL_POLL = const(3)
_IOCTL_CLOSE = const(4)
_POLL_RD = const(0x01)
_POLL_WR = const(0x04)
_POLL_ERR = const(0x08)
_POLL_HUP = const(0x10)
_POLL_NVAL = const(0x20)
_POLL_RDHUP = const(0x2000)  # Linux's: the peer has ended its side

# errno.h
_EBADF = const(9)
_EAGAIN = const(11)
_EINVAL = const(22)
_ENOPROTOOPT = const(92)
_EOPNOTSUPP = const(95)
_EAFNOSUPPORT = const(97)
_EADDRNOTAVAIL = const(99)
_EISCONN = const(106)
_ENOTCONN = const(107)
_ETIMEDOUT = const(110)
_EALREADY = const(114)
_EINPROGRESS = const(115)
_EAI_NONAME = const(-2)

_BACKLOG = const(16)

# Options that are fields of a connection's Keepalive: (field, factor from the option's unit).
_KEEPALIVE_OPTIONS = {
    TCP_KEEPIDLE: ("idle", 1000),
    TCP_KEEPINTVL: ("interval", 1000),
    TCP_KEEPCNT: ("limit", 1),
}

_resolver = Resolver(host.stack)


class socket(io.IOBase):
    """A socket. OSError EAFNOSUPPORT or EINVAL: neither IPv4 nor IPv6, neither TCP nor UDP."""

    def __init__(self, af=None, type=SOCK_STREAM, proto=0):
        # Without a family, that of the address to bind: asyncio.start_server() makes such sockets.
        self._takes_family = af is None
        if af is None:
            af = AF_INET
        elif af not in (AF_INET, AF_INET6):
            raise OSError(_EAFNOSUPPORT)
        if type not in (SOCK_STREAM, SOCK_DGRAM):
            raise OSError(_EINVAL)
        self._af = af
        # The one family of addresses that it speaks, None for both.
        self._only = ipv4 if af == AF_INET else None
        self._type = type
        self._timeout = None  # ms; None waits without end, 0 does not wait
        self._closed = False
        # One of these at most: a TCP connection, a TCP listener, a UDP endpoint.
        self._connection = None
        self._listener = None
        self._endpoint = None
        # The task that waits for the socket while it is none of these yet, see watch().
        self._waiter = None
        # Reserved by bind(), for TCP.
        self._address = 0
        self._port = 0
        self._nodelay = False
        self._keepalive = False
        # Fields of the connection's Keepalive: {field: value}.
        self._keepalive_options = {}
        self._user_timeout = None  # ms; None: the default
        self._reset_on_close = False

    # -- Opening and closing ----------------------------------------------------------------

    def bind(self, address):
        """Take the local (host, port); port 0 takes any. OSError: EADDRINUSE, EADDRNOTAVAIL."""
        self._check_open()
        if self._takes_family and ":" in address[0]:
            self._af = AF_INET6
            self._only = None
        ip, port = self._parse(address)
        host.enter()
        try:
            if self._port or self._endpoint or self._connection:
                raise OSError(_EINVAL)
            if ip and not host.stack.is_local(ip):
                raise OSError(_EADDRNOTAVAIL)
            if self._type == SOCK_DGRAM:
                self._open_port(port, ip)
            else:
                self._address = ip
                self._port = host.stack.tcp.bind(port)
        finally:
            host.leave()

    def listen(self, backlog=_BACKLOG):
        """Take connections; `backlog` is a hint of how many may come before accept()."""
        self._check_stream()
        host.enter()
        try:
            if self._connection or self._listener:
                raise OSError(_EINVAL)
            if not self._port:
                self._port = host.stack.tcp.bind(0)
            self._listener = host.stack.tcp.listen(self._address, self._port, backlog, self._only)
        finally:
            host.leave()

    def accept(self):
        """Return (socket, (host, port)) of the next connection."""
        self._check_stream()
        if self._listener is None:
            raise OSError(_EINVAL)
        connection = self._wait(self._listener.accept)
        accepted = socket(self._af)
        accepted._connection = connection
        # As MicroPython's other ports do.
        accepted._timeout = self._timeout
        return accepted, self._named(connection.remote, connection.remote_port)

    def connect(self, address):
        """Connect to (host, port). A socket that must not wait raises OSError EINPROGRESS."""
        self._check_open()
        ip, port = self._parse_peer(address)
        if self._type == SOCK_DGRAM:
            self._open_endpoint().remote = (ip, port)
            return
        host.enter()
        try:
            if self._connection is not None or self._listener is not None:
                connecting = self._connection and self._connection.state == SYN_SENT
                raise OSError(_EALREADY if connecting else _EISCONN)
            now = time.ticks_ms()
            self._connection = host.stack.tcp.connect(ip, port, self._port, now, self._address)
        finally:
            host.leave()
        self._apply_options()
        if self._timeout == 0:
            raise OSError(_EINPROGRESS)
        self._wait(self._connected)

    def _connected(self):
        connection = self._connection
        if connection.state in (SYN_SENT, SYN_RECEIVED):
            return None
        if connection.state == CLOSED and connection.error:
            error, connection.error = connection.error, 0
            raise OSError(error)
        return True

    def shutdown(self, how):
        """Close the sending direction for SHUT_WR and SHUT_RDWR."""
        connection = self._check_connected()
        host.enter()
        try:
            if how != SHUT_RD:
                connection.shutdown()
        finally:
            host.leave()

    def close(self):
        """Close the socket. Queued data is still sent; connections not accepted are reset."""
        if self._closed:
            return
        host.enter()
        try:
            self._closed = True
            thing = self._connection or self._listener or self._endpoint
            if thing is not None:
                # Wake whoever waits for this socket.
                host.stack.touch(thing)
            elif self._waiter is not None:
                host.stack.touched.append(self._waiter)
            if self._listener is not None:
                self._listener.close()
            if self._connection is not None:
                if self._reset_on_close:
                    self._connection.abort()
                self._connection.close(time.ticks_ms())
            if self._endpoint is not None:
                self._endpoint.close()
            if self._port:
                host.stack.tcp.release(self._port)
        finally:
            host.leave()

    # -- Options ----------------------------------------------------------------------------

    def settimeout(self, seconds):
        """Let each call wait for `seconds` at most; None: without end."""
        if seconds is not None and seconds < 0:
            raise ValueError("negative timeout")
        self._timeout = None if seconds is None else int(seconds * 1000)

    def setblocking(self, flag):
        """Wait without end, or not at all."""
        self._timeout = None if flag else 0

    def setsockopt(self, level, option, value):
        """Set SO_REUSEADDR or SO_BROADCAST (both are always on), SO_KEEPALIVE, SO_LINGER,
        TCP_NODELAY, TCP_KEEPIDLE or TCP_KEEPINTVL (seconds), TCP_KEEPCNT, TCP_USER_TIMEOUT
        (milliseconds), or, before bind() and connect(), IPV6_V6ONLY.

        SO_LINGER takes struct linger as bytes; if it is on with a time of 0, close() resets the
        connection. OSError ENOPROTOOPT: any other option; EINVAL: a time or count below 1.
        """
        self._check_open()
        if (level, option) == (IPPROTO_TCP, TCP_NODELAY):
            self._nodelay = bool(value)
            connection = self._connection
            if connection is not None:
                # Send what Nagle's algorithm holds back. A server sets this before there is any.
                connection.nodelay = self._nodelay
                if connection.snd_nxt < connection.snd_end:
                    self._apply_options()
        elif level == IPPROTO_TCP and (option in _KEEPALIVE_OPTIONS or option == TCP_USER_TIMEOUT):
            if value < 1:
                raise OSError(_EINVAL)
            if option == TCP_USER_TIMEOUT:
                self._user_timeout = value
            else:
                name, unit = _KEEPALIVE_OPTIONS[option]
                self._keepalive_options[name] = value * unit
            self._apply_options()
        elif (level, option) == (SOL_SOCKET, SO_KEEPALIVE):
            self._keepalive = bool(value)
            self._apply_options()
        elif (level, option) == (SOL_SOCKET, SO_LINGER):
            on, seconds = struct.unpack("ii", value)
            self._reset_on_close = bool(on) and seconds == 0
        elif (level, option) == (IPPROTO_IPV6, IPV6_V6ONLY) and self._af == AF_INET6:
            if self._listener or self._endpoint or self._connection:
                raise OSError(_EINVAL)
            self._only = ipv6 if value else None
        elif level != SOL_SOCKET or option not in (SO_REUSEADDR, SO_BROADCAST):
            raise OSError(_ENOPROTOOPT)

    def _apply_options(self):
        connection = self._connection
        if connection is None:
            return
        host.enter()
        try:
            connection.nodelay = self._nodelay
            if self._user_timeout is not None:
                connection.user_timeout = self._user_timeout
            connection.set_keepalive(self._keepalive, time.ticks_ms(), self._keepalive_options)
            # Nagle's algorithm may hold something back.
            host.stack.mark(connection)
        finally:
            host.leave()

    # -- Socket calls -----------------------------------------------------------------------

    def send(self, data):
        """Send as much of `data` as fits. Return how many bytes that is."""
        self._check_open()
        if self._type == SOCK_DGRAM:
            return self._send_datagram(data)
        return self._wait(self._try_send, self._check_connected(), data, 0)

    def sendall(self, data):
        """Send all of `data`. The timeout holds for each part of it."""
        self._check_open()
        if self._type == SOCK_DGRAM:
            self._send_datagram(data)
            return
        connection = self._check_connected()
        data = memoryview(data)
        sent = 0
        while sent < len(data):
            sent += self._wait(self._try_send, connection, data, sent)

    def sendto(self, data, address):
        """Send a datagram to (host, port)."""
        if self._type == SOCK_STREAM:
            return self.send(data)
        self._check_open()
        ip, port = self._parse_peer(address)
        endpoint = self._open_endpoint()
        host.enter()
        try:
            return endpoint.send(data, ip, port)
        finally:
            host.leave()

    def recv(self, size):
        """Return at most `size` bytes, b"" if the peer has closed. ValueError: size below 0."""
        _check_size(size)
        self._check_open()
        if self._type == SOCK_DGRAM:
            return self.recvfrom(size)[0]
        return self._wait(self._check_connected().receive_bytes, size)

    def recv_into(self, buf, size=0):
        """Receive into `buf`, at most `size` bytes unless it is 0. Return how many."""
        _check_size(size)
        self._check_open()
        size = min(size or len(buf), len(buf))
        if self._type == SOCK_DGRAM:
            data = self.recvfrom(size)[0]
            buf[: len(data)] = data
            return len(data)
        return self._wait(self._check_connected().receive, buf, 0, size)

    def recvfrom(self, size):
        """Return (bytes, (host, port)). The part of a datagram beyond `size` is lost."""
        _check_size(size)
        self._check_open()
        if self._type == SOCK_STREAM:
            connection = self._check_connected()
            peer = self._named(connection.remote, connection.remote_port)
            return self.recv(size), peer
        if self._endpoint is None:
            raise OSError(_EINVAL)
        data, ip, port = self._wait(self._endpoint.receive)
        return data[:size], self._named(ip, port)

    # -- Stream methods ---------------------------------------------------------------------

    def read(self, size=-1):
        """Return `size` bytes, fewer at the end or where more would need waiting; -1: all.

        A UDP socket returns one datagram. ValueError: any other size below 0.
        """
        if size > 0 and self._timeout == 0 and self._connection is not None and not self._closed:
            # asyncio reads in this way: take all that is there in one call.
            host.enter()
            try:
                return self._connection.receive_bytes(size)
            finally:
                host.leave()
        if size != -1:
            _check_size(size)
        parts = []
        left = size
        while left:
            try:
                part = self.recv(65536 if size < 0 else left)
            except OSError as error:
                if error.args[0] != _EAGAIN:
                    raise
                if not parts:
                    return None
                break
            if not part:
                break
            parts.append(part)
            left -= len(part)
            if self._type == SOCK_DGRAM:
                break
            if self._timeout == 0 and left and not self._connection_ready():
                break
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def readinto(self, buf, size=0):
        """Receive into `buf` what is there. Return how many bytes, 0 at the end."""
        try:
            return self.recv_into(buf, size)
        except OSError as error:
            if error.args[0] != _EAGAIN:
                raise
            return None

    def readline(self, size=-1):
        """Return a line with its end; less at the end or where more would need waiting."""
        connection = self._check_connected()
        line = b""
        while size < 0 or len(line) < size:
            # Ask before the search: data that arrives after it may hold the line's end.
            there = connection.available()
            ready = connection.find(b"\n") + 1
            ended = ready > 0
            if not ended:
                ready = max(there, 1)
            if size >= 0 and ready > size - len(line):
                ready = size - len(line)
                ended = True
            try:
                part = self.recv(ready)
            except OSError as error:
                if error.args[0] != _EAGAIN:
                    raise
                return line or None
            line = line + part if line else part
            if ended or not part:
                break
        return line

    def write(self, data):
        """Send `data`. Return how many bytes: all of them, unless more would need waiting."""
        if self._timeout == 0 and self._connection is not None and not self._closed:
            host.enter()
            try:
                count = len(data)
                return self._connection.send(data, 0, count) or (None if count else 0)
            finally:
                host.leave()
        try:
            if self._timeout == 0 or self._type == SOCK_DGRAM:
                return self.send(data)
            self.sendall(data)
            return len(data)
        except OSError as error:
            if error.args[0] != _EAGAIN:
                raise
            return None

    def ioctl(self, request, argument):
        """Answer a stream's poll and close requests; a negative errno for any other."""
        if request == _IOCTL_POLL:
            return self._polled(argument)
        if request == _IOCTL_CLOSE:
            self.close()
            return 0
        return -_EINVAL

    def makefile(self, mode="rb", buffering=0):
        """Return the socket itself, which is a stream."""
        return self

    def _poll(self):
        if self._closed:
            return _POLL_NVAL
        connection = self._connection
        if connection is not None:
            events = 0
            if connection.at_end():
                events = _POLL_RD | _POLL_RDHUP
            elif connection.available() > 0:
                events = _POLL_RD
            if connection.can_send():
                events |= _POLL_WR
            if connection.error:
                events |= _POLL_ERR
            if connection.state == CLOSED:
                events |= _POLL_HUP
            return events
        if self._listener is not None:
            return _POLL_RD if self._listener.ready() else 0
        if self._type == SOCK_DGRAM:
            ready = self._endpoint is not None and self._endpoint.ready()
            return _POLL_WR | (_POLL_RD if ready else 0)
        # Neither connected nor listening: as on Linux and on MicroPython's ports with lwIP.
        return _POLL_WR | _POLL_HUP

    # -- For net.aio ------------------------------------------------------------------------

    def watch(self, entry, writing):
        """Append `entry` to stack.touched whenever something happens; None ends that.

        Args: writing: somebody waits to send, so room in the send buffer counts, too.
        """
        thing = self._connection or self._listener or self._endpoint
        if thing is not None:
            thing.waiter = entry
            if self._connection is not None:
                thing.awaits_room = writing
        else:
            self._waiter = entry  # for a UDP port that may be opened later

    def events(self, mask):
        """Return the result of a poll for `mask`, for reading alone maybe without errors."""
        connection = self._connection
        if mask == _POLL_RD and connection is not None and not self._closed:
            return _POLL_RD if connection.readable() else 0
        return self._polled(mask)

    def _polled(self, mask):
        # The guard keeps callbacks from changing a buffer between two looks at it.
        host.enter()
        try:
            return self._poll() & (mask | _POLL_ERR | _POLL_HUP | _POLL_NVAL)
        finally:
            host.leave_unchanged()

    # -- Waiting ----------------------------------------------------------------------------

    def _wait(self, attempt, *args):
        """Repeat attempt(*args) until it returns something, waiting as the timeout allows."""
        deadline = None
        while True:
            host.enter()
            try:
                result = attempt(*args)
            finally:
                host.leave()
            if result is not None:
                return result
            if self._timeout == 0:
                raise OSError(_EAGAIN)
            left = None
            if self._timeout is not None:
                now = time.ticks_ms()
                if deadline is None:
                    deadline = now + self._timeout
                left = deadline - now
                if left <= 0:
                    raise OSError(_ETIMEDOUT)
            host.wait(left)
            if self._closed:
                raise OSError(_EBADF)

    @staticmethod
    def _try_send(connection, data, start):
        count = len(data) - start
        return connection.send(data, start, count) or (None if count else 0)

    def _connection_ready(self):
        return self._connection is not None and self._connection.available() > 0

    def _send_datagram(self, data):
        endpoint = self._endpoint
        if endpoint is None or endpoint.remote is None:
            raise OSError(_ENOTCONN)
        host.enter()
        try:
            return endpoint.send(data, *endpoint.remote)
        finally:
            host.leave()

    def _open_endpoint(self):
        if self._endpoint is None:
            host.enter()
            try:
                self._open_port(0)
            finally:
                host.leave()
        return self._endpoint

    def _open_port(self, port, address=0):
        self._endpoint = host.stack.open_udp(port, None, address, self._only)
        self._endpoint.waiter = self._waiter

    def _parse(self, address):
        """Return (ip, port) of a local address, ip 0 for any. ValueError: it is no address."""
        return _parse_address(address, self._af)

    def _parse_peer(self, address):
        """Return (ip, port) of another host. OSError: of a family that the socket is not for."""
        ip, port = self._parse(address)
        if not ip and self._af == AF_INET6:
            ip = ipv6.ANY
        if self._only is ipv6 and not isinstance(ip, bytes):
            raise OSError(_EINVAL)
        return ip, port

    def _named(self, ip, port):
        if self._af == AF_INET:
            return ipv4.address_text(ip), port
        return _name6(ip, port)

    def _check_open(self):
        if self._closed:
            raise OSError(_EBADF)

    def _check_stream(self):
        self._check_open()
        if self._type != SOCK_STREAM:
            raise OSError(_EOPNOTSUPP)

    def _check_connected(self):
        self._check_open()
        if self._connection is None:
            raise OSError(_ENOTCONN)
        return self._connection


def _check_size(size):
    # As CPython. A negative size would take the same data out of the buffer twice.
    if size < 0:
        raise ValueError("negative size")


def _parse_address(address, af):
    """Return (ip, port) of a socket's address; "" and "::" are any, 0. ValueError: it is none."""
    if not 2 <= len(address) <= (4 if af == AF_INET6 else 2):
        raise ValueError("not an address of this family")
    text, port = address[:2]
    if not 0 <= port <= 65535:
        raise ValueError("port out of range")
    if af == AF_INET:
        return (ipv4.address(text) if text else 0), port
    if len(address) == 4 and address[3]:
        raise ValueError("no such zone")
    ip = ipv6.address(text) if text else ipv6.ANY
    if ip == ipv6.ANY:
        ip = 0
    elif ip[:12] == ipv6.MAPPED:
        ip = struct.unpack_from(">I", ip, 12)[0]
    return ip, port


def _name6(ip, port):
    if isinstance(ip, bytes):
        return ipv6.address_text(ip), port, 0, 0
    return "::ffff:" + ipv4.address_text(ip), port, 0, 0


def inet_pton(af, text):
    """Return the bytes of an address. ValueError: it is none."""
    if af == AF_INET:
        return struct.pack(">I", ipv4.address(text))
    if af != AF_INET6:
        raise OSError(_EAFNOSUPPORT)
    if "%" in text:
        raise ValueError("not an IPv6 address: " + text)
    return ipv6.address(text)


def inet_ntop(af, packed):
    """Return the text of an address's bytes, of IPv6 in the form of RFC 5952."""
    packed = bytes(packed)
    if af not in (AF_INET, AF_INET6):
        raise OSError(_EAFNOSUPPORT)
    if len(packed) != (4 if af == AF_INET else 16):
        raise ValueError("not the bytes of an address")
    if af == AF_INET:
        return ipv4.address_text(struct.unpack(">I", packed)[0])
    return ipv6.address_text(packed)


def getaddrinfo(name, port, af=0, type=0, proto=0, flags=0):
    """Return [(family, type, proto, "", address), ...] of a host, the best first (RFC 6724).

    Args: name: an address, "", or a host name, which DNS resolves; af: AF_INET, AF_INET6, or 0 for
    both. Of "localhost", IPv4's is first, because most servers here are asked for by it.
    Raise OSError: -2 for an unknown name, ETIMEDOUT or EIO if no server answers.
    """
    if not 0 <= port <= 65535:
        raise ValueError("port out of range")
    if af not in (0, AF_INET, AF_INET6):
        raise OSError(_EAFNOSUPPORT)
    addresses = _numeric(name, af)
    if addresses is None:
        addresses = _look_up(name, af)
    kind = type or SOCK_STREAM
    found = []
    for ip in addresses:
        if isinstance(ip, bytes):
            found.append((AF_INET6, kind, proto, "", _name6(ip, port)))
        else:
            found.append((AF_INET, kind, proto, "", (ipv4.address_text(ip), port)))
    return found


def _numeric(name, af):
    """Return the addresses that a text is or stands for without a question; None for a name."""
    if not name:
        return [ipv6.ANY if af == AF_INET6 else 0]
    if name == "localhost":
        return [ipv4.LOOPBACK] * (af != AF_INET6) + [ipv6.LOOPBACK] * (af != AF_INET)
    try:
        ip = ipv6.address(name) if ":" in name else ipv4.address(name)
    except ValueError:
        if ":" in name:
            raise OSError(_EAI_NONAME)
        return None
    if af not in (0, AF_INET6 if isinstance(ip, bytes) else AF_INET):
        raise OSError(_EAI_NONAME)
    return [ip]


def _look_up(name, af):
    stack = host.stack
    kinds = [dns_message.TYPE_A] * (af != AF_INET6) + [dns_message.TYPE_AAAA] * (af != AF_INET)
    if not af:
        # As AI_ADDRCONFIG: what cannot be reached is not asked for.
        if not stack.six.has_global():
            kinds = kinds[:1]
        elif not stack.address:
            kinds = kinds[1:]
    host.enter()
    try:
        queries = [_resolver.resolve(name, time.ticks_ms(), kind) for kind in kinds]
    finally:
        host.leave()
    try:
        while not all([query.done for query in queries]):
            host.wait(None)
    finally:
        host.enter()
        try:
            for query in queries:
                query.cancel()
        finally:
            host.leave()
    addresses = []
    for query in queries:
        addresses += query.addresses
    if not addresses:
        # That there is no such name is known of both types or of none.
        error = min([query.error for query in queries])
        raise OSError(_EAI_NONAME if error == 2 else error)
    return _ordered(addresses) if len(addresses) > 1 else addresses


def _ordered(addresses):
    """Sort addresses of both families, the best first (RFC 6724 6)."""
    stack = host.stack

    def source_of(destination):
        if destination[:12] != ipv6.MAPPED:
            return stack.six.find_source(destination)
        try:
            return ipv6.mapped(stack.source_for(struct.unpack_from(">I", destination, 12)[0]))
        except OSError:
            return None

    plain = {}
    for ip in addresses:
        plain[ip if isinstance(ip, bytes) else ipv6.mapped(ip)] = ip
    keys = [ip if isinstance(ip, bytes) else ipv6.mapped(ip) for ip in addresses]
    return [plain[key] for key in selection.order(keys, source_of, stack.six.is_deprecated)]


# CPython, where unit tests run this file, keeps its own asyncio.
if sys.implementation.name == "micropython":
    from net import aio

    aio.install()
