"""Connections: carry bytes between asyncio streams and the parser, and bound what a client costs.

A connection has one task until a handler waits for something. From then on a second task, the
pump, reads for the rest of the connection: it feeds the parser while a handler runs, so it notices
at once that the client went away, and cancels the handler. Answers that are ready at once, such as
those to /health, need neither the second task nor its exchanges with the first.

One janitor counts time for all connections, in ticks: asyncio.wait_for makes two tasks per use on
MicroPython. A tick that comes late, because the engine computed, counts as one: no client is
blamed for time in which none was served.
"""
# SPDX-License-Identifier: MIT

import asyncio
import time

from micropython import const

from .aio import END, Eager
from .parser import HttpError, Limits, Parser
from .router import out_of_memory, print_exception

_READ = const(16384)  # bytes per read
_PIECE = const(16384)  # bytes per write, so that a stalled client is noticed in a large answer too
_AHEAD = const(65536)  # unparsed bytes of one connection at which its pump stops reading
_REFUSED = const(32)  # connections above the limit that may wait for their request to be refused
_CREDIT = const(4096)  # bytes of a body that earn a second

# A stream's ioctl request, and its events: input is there; the peer has ended its side (Linux).
_IOCTL_POLL = const(3)
_POLLIN = const(1)
_POLLRDHUP = const(0x2000)

# Arguments of setsockopt(), as POSIX and MicroPython number them.
_IPPROTO_TCP = const(6)
_TCP_NODELAY = const(1)

_DRAIN_S = 0.05  # between checks whether requests still run

# States of a connection: where its exchange of a request for an answer is.
_IDLE = const(0)  # nothing has come of the next request
_HEAD = const(1)  # a part of its header section has
_BODY = const(2)  # its body is being read, or is not wanted
_SERVING = const(3)  # all of it has come: the handler runs, or its answer is being sent
_LINGERING = const(4)  # the last answer is sent; input is thrown away

# What the connection's task does about input.
_ELSEWHERE = const(0)  # nothing: it computes, or waits for something else
_WAITS = const(1)  # waits for it
_LATE = const(2)  # has waited until the time limit


class Server:
    """HTTP server for the App `app`. tick_s: seconds per tick of the time limits. ssl: an
    ssl.SSLContext, None for plain HTTP.
    """

    def __init__(self, app, host="0.0.0.0", port=80, limits=None, tick_s=1, ssl=None):
        self.app = app
        self.ssl = ssl
        self.host = host
        self.port = port
        self.limits = limits or Limits()
        self.tick_s = tick_s
        self.connections = []
        self._refused = []  # the oldest first
        self.known = {}  # see Parser
        self.idle_ticks = max(1, int(self.limits.idle_s / tick_s))
        self._server = None
        self._janitor_task = None
        self.draining = False  # answers close their connections

    async def start(self):
        """Listen. Raise OSError if the port cannot be had."""
        self._server = await asyncio.start_server(
            self._accept, self.host, self.port, backlog=self.limits.backlog, ssl=self.ssl
        )
        self._janitor_task = asyncio.create_task(self._janitor())

    async def close(self):
        """Stop listening and drop all connections; their handlers are cancelled."""
        self._janitor_task.cancel()
        self._server.close()
        for connection in self.connections + self._refused:
            connection.cancel()
        while self.connections or self._refused:
            await asyncio.sleep(0)
        await self._server.wait_closed()

    async def drain(self, seconds):
        """Stop listening and answer the requests that run, for `seconds` at most.

        close() drops what is left.
        """
        self.draining = True
        self._server.close()
        ends = time.ticks_add(time.ticks_ms(), int(seconds * 1000))
        while self.connections and time.ticks_diff(ends, time.ticks_ms()) > 0:
            for connection in list(self.connections):
                if connection.idle:
                    connection.cancel()
            await asyncio.sleep(_DRAIN_S)

    async def _accept(self, reader, writer):
        count = len(self.connections)
        if count >= self.limits.connections:
            # An idle connection gives way to a new one.
            for connection in self.connections:
                if connection.idle:
                    connection.cancel()
                    count -= 1
                    break
        if count < self.limits.connections:
            kind = Connection
            served = self.connections
        else:
            kind = Refusal
            served = self._refused
            if len(served) >= _REFUSED:
                served.pop(0).cancel()
        try:
            connection = kind(self, reader, writer)
            served.append(connection)
        except MemoryError:
            await _shut(writer, True)
            return
        try:
            await connection.run()
        finally:
            if connection in served:
                served.remove(connection)

    async def _janitor(self):
        while True:
            await asyncio.sleep(self.tick_s)
            for connection in self.connections + self._refused:
                connection.tick()


def _address(writer):
    # The client's address without its port, or None.
    try:
        peer = writer.get_extra_info("peername")
    except (OSError, AttributeError):
        return None
    if not isinstance(peer, tuple):
        return None
    # A client of IPv4, as a socket of both IPs names it.
    return peer[0][7:] if peer[0].startswith("::ffff:") else peer[0]


def _report_error(exc):
    print("error in a connection:")
    print_exception(exc)


async def _shut(writer, abort):
    """Close the socket. abort: do not wait for the client to take what is still queued."""
    try:
        if abort and hasattr(writer, "transport"):
            writer.transport.abort()  # CPython's close() would wait for the client
        writer.close()
        await writer.wait_closed()
    except (OSError, asyncio.CancelledError):
        pass


def _send_at_once(writer):
    # Nagle's algorithm would hold a token back until the client acknowledged the one before, up to
    # 40 ms later. CPython's loop has it off.
    sock = getattr(writer, "s", None)
    if hasattr(sock, "setsockopt"):
        sock.setsockopt(_IPPROTO_TCP, _TCP_NODELAY, 1)


class Refusal:
    """A connection above the limit: whatever it asks, the answer is 503.

    It has no parser, and reads for linger_s at most. Where too many of them wait, the oldest is
    answered without being asked.
    """

    def __init__(self, server, reader, writer):
        self.server = server
        self.reader = reader
        self.writer = writer
        self._ticks = max(1, int(server.limits.linger_s / server.tick_s))
        self._task = asyncio.current_task()
        self._answered = False

    async def run(self):
        """Answer once something is asked, or when the time is over. Never raises."""
        try:
            # To some clients, an answer that comes before their request is an error.
            data = await self.reader.read(_READ)
            if data:
                self._answer(data.startswith(b"HEAD "))
            while data:  # RFC 9112 9.6: see Connection._linger()
                data = await self.reader.read(_READ)
        except asyncio.CancelledError:
            self._answer(False)
        except OSError:  # the client is gone
            pass
        except Exception as exc:
            _report_error(exc)
        await _shut(self.writer, False)

    def _answer(self, head_only):
        if self._answered:
            return
        self._answered = True
        app = self.server.app
        response = app.failure(None, HttpError(503, "too many connections", {"Retry-After": "1"}))
        app.finish(None, response)
        data = response.head(len(response.body), "close")
        if not head_only:
            data += response.body
        try:
            # It fits the buffer of a new connection.
            self.writer.write(data)
        except OSError:
            return
        app.report(None, response, 0, len(data))

    def tick(self):
        """Count a tick of the time limit; the janitor calls this."""
        self._ticks -= 1
        if self._ticks == 0:
            self.cancel()

    def cancel(self):
        """Answer and end the connection."""
        self._task.cancel()


class Connection:
    """One client. state: see _IDLE; eof: the client has ended its side."""

    def __init__(self, server, reader, writer):
        self.server = server
        self.limits = server.limits
        self.reader = reader
        self.writer = writer
        self.parser = Parser(server.limits, server.known)
        self.state = _IDLE
        self.eof = False
        self._task = None
        self._pump_task = None
        self._more = None  # Event: the pump's input arrived, ended, or took too long
        self._room = None  # Event: the pump may read on
        self._input = _ELSEWHERE
        self._ticks = 0  # that remain of the running time limit; 0: none runs
        self._body_ticks = 0  # the body's time limit, while a streaming handler is between reads
        self._credit = 0  # bytes of the body that have not earned a tick yet
        self._since = time.ticks_ms()  # when the request's header section had come
        self._sent = 0  # bytes of its response
        self.peer = _address(writer)
        _send_at_once(writer)

    @property
    def idle(self):
        """Whether the connection waits for a next request."""
        return self.state == _IDLE

    async def run(self):
        """Serve requests until the connection ends. Never raises."""
        self._task = asyncio.current_task()
        clean = False
        try:
            while await self._exchange():
                pass
            clean = True
            await self._linger()
        except asyncio.CancelledError:
            pass
        except OSError:  # the client is gone
            clean = False
        except Exception as exc:
            clean = False
            _report_error(exc)
        if self._pump_task is not None:
            self._pump_task.cancel()
        await _shut(self.writer, not clean)

    def _start_pump(self):
        # From now on the pump reads.
        if self._pump_task is None:
            self._more = asyncio.Event()
            self._room = asyncio.Event()
            self._pump_task = asyncio.create_task(self._pump())

    def gone(self):
        """Return whether the client has ended its side. The network is asked, because the pump may
        not have had its turn; CPython's loop, whose streams have no ioctl(), reads ahead of it.
        """
        if self.eof or not hasattr(getattr(self.writer, "s", None), "ioctl"):
            return self.eof
        return self.writer.s.ioctl(_IOCTL_POLL, _POLLRDHUP) != 0

    def cancel(self):
        """End the connection and what runs for it."""
        self._task.cancel()

    def tick(self):
        """Count a tick of the time limit; the janitor calls this."""
        if self._ticks:
            self._ticks -= 1
            if not self._ticks:
                if self._input == _WAITS:
                    if self.state != _LINGERING and self._unread_in_socket():
                        # The loop is late, not the client: what came is read first.
                        self._ticks = 1
                        return
                    self._input = _LATE
                    if self._pump_task is not None:
                        self._more.set()
                        return
                # Without a pump the task itself waits in read(), see _wait().
                self.cancel()

    def _allow(self, seconds):
        self._ticks = max(1, int(seconds / self.server.tick_s)) if seconds else 0

    async def _pump(self):
        try:
            while True:
                data = await self.reader.read(_READ)
                if not data:
                    break
                if self.state == _LINGERING:
                    continue
                self.parser.feed(data)
                self._more.set()
                while self.parser.buffered() >= _AHEAD and self.state != _LINGERING:
                    self._room.clear()
                    await self._room.wait()
        except OSError:
            pass
        self.eof = True
        self._more.set()
        if self.state == _SERVING:
            self._allow_after_end()

    def _allow_after_end(self):
        # EOF may mean that the client left, or only that it finished sending. Wait linger_s for
        # the answer, then cancel the handler.
        self._allow(self.limits.linger_s)

    async def _wait(self):
        # Waits for input until the time limit that runs is over; returns whether it is.
        late = False
        self._input = _WAITS
        try:
            if self._pump_task is None:
                data = await self.reader.read(_READ)
                if not data:
                    self.eof = True
                elif self.state != _LINGERING:
                    self.parser.feed(data)
            else:
                # The caller called _looking() before it looked at the parser.
                self._room.set()
                await self._more.wait()
                late = self._input == _LATE
        except asyncio.CancelledError:
            if self._input != _LATE or self._pump_task is not None:
                raise
            late = True
        finally:
            self._input = _ELSEWHERE
        return late

    async def _wait_for_body(self):
        if self.eof:
            raise HttpError(400, "the request ended early")
        if await self._wait():
            raise HttpError(408, "the request came too slowly")

    def _looking(self):
        # From here on, what the pump reports wakes _wait().
        if self._more is not None:
            self._more.clear()

    async def _exchange(self):
        # Serves one request. Returns whether another may follow.
        app = self.server.app
        request = None
        self._sent = 0
        try:
            request = await self._head()
            if request is None:
                return False
            self.state = _BODY if request.length != 0 else _SERVING
            route, params = app.find(request)
            limit = self.limits.body
            if route is not None and route.limit is not None:
                limit = route.limit
            self.parser.begin_body(limit)
            if request.expects_continue:
                await self._write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self._body_ticks = max(1, int(self.limits.body_s / self.server.tick_s))
            self._credit = 0
            if route is not None and route.stream:
                request.read = self._read_body
                self._start_pump()
            elif self.state == _BODY:
                request.body = await self._collect()
        except HttpError as exc:
            self._allow(0)
            response = app.failure(request, exc)
        except MemoryError:
            self._allow(0)
            response = app.failure(request, out_of_memory())
        else:
            # The client may have ended its side already.
            if self.eof:
                self._allow_after_end()
            else:
                self._ticks = 0
            if self._room is not None:
                self._room.set()  # the request may have filled the buffer; read on to see EOF
            work = Eager(app.handle(request, route, params), self._start_pump)
            response = work.value if work.done else await work
        keep = request is not None and request.keep_alive and self.state == _SERVING
        app.finish(request, response)
        try:
            return await self._send(request, response, keep)
        finally:
            app.report(request, response, time.ticks_ms() - self._since, self._sent)

    async def _head(self):
        # Returns the next request, None if the client has ended instead, or sent none in time.
        parser = self.parser
        self._ticks = self.server.idle_ticks
        started = False
        while True:
            self._looking()
            request = None
            if parser.pos < len(parser.buf):
                self.state = _HEAD
                request = parser.head()
            if request is not None:
                self._ticks = 0
                request.peer = self.peer
                request.json_memory = self.limits.json_memory
                request.json_containers = self.limits.json_containers
                request.gone = self.gone
                self._since = time.ticks_ms()
                return request
            if parser.buffered():
                if self.eof:
                    raise HttpError(400, "the request ended early")
                if not started:
                    started = True
                    self._allow(self.limits.head_s)
            elif self.eof:
                return None
            else:
                self.state = _IDLE  # nothing came, or empty lines
            if await self._wait():
                if not parser.buffered():
                    return None
                raise HttpError(408, "the request came too slowly")

    async def _read_body(self):
        """Return the next piece of the body, b"" at its end. Raise HttpError if it is too large,
        malformed, too slow, or cut off.
        """
        self._ticks = self._body_ticks
        while True:
            self._looking()
            data = self.parser.body()
            if data is not None:
                self._body_ticks = self._ticks
                self._earn(len(data))
                self._ticks = 0
                if not data:
                    self.state = _SERVING
                    if self.eof:
                        self._allow_after_end()
                return data
            await self._wait_for_body()

    def _earn(self, size):
        # Each 4 KiB earns a second: slow links get through, a trickle does not. Pieces are often
        # smaller, so the remainder of one counts for the next.
        self._credit += size
        ticks = int(self._credit / (_CREDIT * self.server.tick_s))
        self._credit -= ticks * _CREDIT * self.server.tick_s
        self._body_ticks += ticks

    async def _collect(self):
        pieces = []
        while True:
            data = await self._read_body()
            if not data:
                return pieces[0] if len(pieces) == 1 else b"".join(pieces)
            pieces.append(data)

    async def _send(self, request, response, keep):
        # Sends the answer; returns whether the connection can be kept.
        source = response.source
        keep = keep and not self.server.draining
        length = -1
        empty = response.status in (204, 304)
        if source is None:
            if not empty:
                length = len(response.body)
        elif request is not None and not request.minor:
            keep = False  # RFC 9112 6.3: in HTTP/1.0, the end of the connection ends a stream
        else:
            length = None
        connection = None
        if not keep:
            connection = "close"
        elif not request.minor:
            connection = "keep-alive"
        try:
            try:
                head = response.head(length, connection)
            except ValueError as exc:
                response = self.server.app.crash(request, exc)
                keep = False
                head = response.head(len(response.body), "close")
            if empty or (request is not None and request.method == "HEAD"):
                await self._write(head)
            elif response.source is not None:
                await self._stream(response, head, length is None)
            elif len(response.body) > _PIECE:
                await self._write_all(head, response.body)
            # Header section and body leave in one write, which most times fits one segment.
            elif self._put(head + response.body):
                await self._drain()
        finally:
            if source is not None:
                await source.close()
        return keep

    async def _stream(self, response, head, chunked):
        self._start_pump()
        while True:
            try:
                data = await response.next()
            except Exception as exc:
                # The status is sent. Without a last chunk, the client sees that the stream broke.
                print("error in a stream:")
                print_exception(exc)
                raise OSError("stream failed")
            if data is END:
                if chunked or head:
                    await self._write(head + b"0\r\n\r\n" if chunked else head)
                return
            if chunked:
                head += b"%x\r\n" % len(data)
            if len(data) > _PIECE:
                await self._write_all(head, data)
                if chunked:
                    await self._write(b"\r\n")
            else:
                await self._write(head + data + b"\r\n" if chunked else head + data)
            head = b""

    async def _write_all(self, head, body):
        # Writes in pieces, the first together with the header section.
        view = memoryview(body)
        await self._write(head + view[:_PIECE])
        for i in range(_PIECE, len(view), _PIECE):
            await self._write(view[i : i + _PIECE])

    async def _write(self, data):
        if self._put(data):
            await self._drain()

    def _put(self, data):
        # Writes; returns whether to wait until the client has taken it.
        self._sent += len(data)
        writer = self.writer
        writer.write(data)
        # MicroPython's drain() always gives way to other tasks. Without a pump, the read of the
        # next request does that, so what the socket took at once needs no drain().
        return self._pump_task is not None or getattr(writer, "out_buf", None) != b""

    async def _drain(self):
        self._allow(self.limits.write_s)
        await self.writer.drain()
        self._ticks = 0

    async def _linger(self):
        # RFC 9112 9.6: closing with input unread resets the connection, which can take the answer
        # away from a client that is still sending. Throw input away until it stops, for a while.
        if self.eof:
            return
        unread = self.state == _BODY
        self.state = _LINGERING
        if self._room is not None:
            self._room.set()
        pumped = self._pump_task is not None
        if not (unread or self.parser.buffered() or (not pumped and self._unread_in_socket())):
            return
        self._allow(self.limits.linger_s)
        while not self.eof and self._ticks:
            self._looking()
            await self._wait()

    def _unread_in_socket(self):
        # CPython's loop has read it already; sockets of MicroPython's unix port cannot be asked.
        stream = getattr(self.writer, "s", None)
        return hasattr(stream, "ioctl") and stream.ioctl(_IOCTL_POLL, _POLLIN) != 0
