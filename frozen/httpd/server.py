# Connections: carries bytes between asyncio streams and the parser, and bounds what a client may
# cost.
#
# A connection has one task, until a handler has to wait for something: then a second one, the pump,
# takes over reading for the rest of the connection. It feeds the parser while a handler runs, and so
# notices at once that a client went away and cancels the handler. Answers that are there at once, like
# those to /health, cost neither the second task nor its exchanges with the first.
#
# Time is counted by one janitor for all connections, in ticks: asyncio.wait_for makes two tasks per
# use on MicroPython, and a tick that comes late because the engine computed does not count as more
# than one against a client that could not be served meanwhile.
# MIT license; Copyright (c) 2026 cllm contributors

import asyncio
import time

from .aio import END, Eager
from .parser import HttpError, Limits, Parser
from .router import out_of_memory, print_exception

_READ = 16384  # bytes per read
_PIECE = 16384  # bytes per write, so that a stalled client is noticed in a large answer too
_AHEAD = 65536  # unparsed bytes of one connection at which its pump stops reading
_REFUSED = 32  # connections above the limit that may wait for their request to be refused
_CREDIT = 4096  # bytes of a body that earn a second

# A stream's ioctl request, and events: something to read; Linux's for "the peer has ended its side".
_IOCTL_POLL = 3
_POLLIN = 1
_POLLRDHUP = 0x2000

# Of setsockopt(), as POSIX and MicroPython number them.
_IPPROTO_TCP = 6
_TCP_NODELAY = 1

_DRAIN_S = 0.05  # between looks at who is still served


class Server:
    """HTTP server for `app` on host:port. tick_s: seconds per tick of the time limits."""

    def __init__(self, app, host="0.0.0.0", port=80, limits=None, tick_s=1):
        self.app = app
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
        """Listens. Raises OSError if the port cannot be had."""
        self._server = await asyncio.start_server(
            self._accept, self.host, self.port, backlog=self.limits.backlog
        )
        self._janitor_task = asyncio.create_task(self._janitor())

    async def close(self):
        """Stops listening and drops all connections; their handlers are cancelled."""
        self._janitor_task.cancel()
        self._server.close()
        for connection in self.connections + self._refused:
            connection.cancel()
        while self.connections or self._refused:
            await asyncio.sleep(0)
        await self._server.wait_closed()

    async def drain(self, seconds):
        """Stops listening and lets requests that run be answered, for `seconds` at most.

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
            # Kept connections that wait for a next request make room for one that has a request.
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
    return peer[0] if isinstance(peer, tuple) else None


def _report_error(exc):
    print("error in a connection:")
    print_exception(exc)


async def _shut(writer, abort):
    """Closes the socket. abort: do not wait for the client to take what is still queued."""
    try:
        if abort and hasattr(writer, "transport"):
            writer.transport.abort()  # CPython's close() would wait for the client
        writer.close()
        await writer.wait_closed()
    except (OSError, asyncio.CancelledError):
        pass


def _send_at_once(writer):
    # Nagle's algorithm would hold a token back until the client acknowledged the last, which it may do
    # 40 ms later. CPython's loop has it off anyway.
    sock = getattr(writer, "s", None)
    if hasattr(sock, "setsockopt"):
        sock.setsockopt(_IPPROTO_TCP, _TCP_NODELAY, 1)


class Refusal:
    """A connection above the limit: whatever it asks, the answer is 503.

    It has no parser and reads for linger_s at most; where more of them come than may wait, the
    oldest is answered unasked.
    """

    def __init__(self, server, reader, writer):
        self.server = server
        self.reader = reader
        self.writer = writer
        self._ticks = max(1, int(server.limits.linger_s / server.tick_s))
        self._task = asyncio.current_task()
        self._answered = False

    async def run(self):
        """Answers once something is asked, or when the time is over; never raises."""
        try:
            # Some clients take an answer that comes before their request for an error.
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
            # A new connection has room for so little.
            self.writer.write(data)
        except OSError:
            return
        app.report(None, response, 0, len(data))

    def tick(self):
        """Called by the janitor."""
        self._ticks -= 1
        if self._ticks == 0:
            self.cancel()

    def cancel(self):
        """Answers and ends the connection."""
        self._task.cancel()


class Connection:
    """One client."""

    def __init__(self, server, reader, writer):
        self.server = server
        self.limits = server.limits
        self.reader = reader
        self.writer = writer
        self.parser = Parser(server.limits, server.known)
        self.idle = False  # waits for a next request
        self.eof = False
        self._task = None
        self._pump_task = None
        self._more = None  # Event: the pump's input arrived, ended, or took too long
        self._room = None  # Event: the pump may read on
        self._ticks = 0  # left of the time limit that runs; 0: none runs
        self._body_ticks = 0  # the body's time limit, while a streaming handler is between reads
        self._credit = 0  # bytes of the body that have not earned a tick yet
        self._late = False
        self._waits = False  # for input
        self._serves = False  # a handler runs or its answer is being sent
        self._discard = False  # input is thrown away
        self._unread = False  # a body was not read to its end
        self._since = time.ticks_ms()  # when the request's header section had come
        self._sent = 0  # bytes of its response
        self.peer = _address(writer)
        _send_at_once(writer)

    async def run(self):
        """Serves requests until the connection ends; never raises."""
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
        # From now on another task reads.
        if self._pump_task is None:
            self._more = asyncio.Event()
            self._room = asyncio.Event()
            self._pump_task = asyncio.create_task(self._pump())

    def gone(self):
        """Whether the client has ended its side, as far as the network knows: the pump may not have
        had its turn. (CPython's loop reads ahead of it anyway.)
        """
        if self.eof or not hasattr(getattr(self.writer, "s", None), "ioctl"):
            return self.eof
        return self.writer.s.ioctl(_IOCTL_POLL, _POLLRDHUP) != 0

    def cancel(self):
        """Ends the connection and what runs for it."""
        self._task.cancel()

    def tick(self):
        """Called by the janitor."""
        if self._ticks:
            self._ticks -= 1
            if not self._ticks:
                if self._waits:
                    self._late = True
                    if self._pump_task is not None:
                        self._more.set()
                        return
                # Without a pump the task itself waits in read(), see _take().
                self.cancel()

    def _allow(self, seconds):
        self._ticks = max(1, int(seconds / self.server.tick_s)) if seconds else 0

    async def _pump(self):
        try:
            while True:
                data = await self.reader.read(_READ)
                if not data:
                    break
                if self._discard:
                    continue
                self.parser.feed(data)
                self._more.set()
                while self.parser.buffered() >= _AHEAD and not self._discard:
                    self._room.clear()
                    await self._room.wait()
        except OSError:
            pass
        self.eof = True
        self._more.set()
        if self._serves:
            # Gone, or done sending and still reading: the end of its data does not tell. What is
            # ready soon is for the latter; then the handler is cancelled.
            self._allow(self.limits.linger_s)

    async def _take(self):
        # Reads without a pump, until the time limit that runs is over.
        self._waits = True
        try:
            data = await self.reader.read(_READ)
        except asyncio.CancelledError:
            if not self._late:
                raise
            return
        finally:
            self._waits = False
        if not data:
            self.eof = True
        elif not self._discard:
            self.parser.feed(data)

    async def _pumped(self):
        # Waits for the pump's input. The caller has cleared _more before it looked at the parser.
        self._room.set()
        self._waits = True
        await self._more.wait()
        self._waits = False

    async def _input(self):
        # Waits for more of a request.
        if self.eof:
            raise HttpError(400, "the request ended early")
        await (self._take() if self._pump_task is None else self._pumped())
        if self._late:
            raise HttpError(408, "the request came too slowly")

    def _looking(self):
        # What the pump reports from here on is news.
        if self._more is not None:
            self._more.clear()

    async def _exchange(self):
        # One request and its answer. Returns whether another may follow.
        app = self.server.app
        request = None
        self._sent = 0
        try:
            request = await self._head()
            if request is None:
                return False
            self._unread = request.length != 0
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
            elif self._unread:
                request.body = await self._collect()
        except HttpError as exc:
            self._allow(0)
            response = app.failure(request, exc)
        except MemoryError:
            self._allow(0)
            response = app.failure(request, out_of_memory())
        else:
            # See _pump: the client may have ended its side already.
            if self.eof:
                self._allow(self.limits.linger_s)
            else:
                self._ticks = 0
            self._serves = not self._unread
            if self._room is not None:
                self._room.set()  # the request may have filled the buffer: watch for the end again
            work = Eager(app.handle(request, route, params), self._start_pump)
            response = work.value if work.done else await work
        keep = request is not None and request.keep_alive and not self._unread
        app.finish(request, response)
        try:
            return await self._send(request, response, keep)
        finally:
            self._serves = False
            app.report(request, response, time.ticks_ms() - self._since, self._sent)

    async def _head(self):
        # The next request; None when the client ended in between or waited too long to send one.
        parser = self.parser
        self._ticks = self.server.idle_ticks
        started = False
        while True:
            self._looking()
            request = parser.head() if parser.pos < len(parser.buf) else None
            if request is not None:
                self.idle = False
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
            self.idle = not started
            if self._pump_task is None:
                await self._take()
            else:
                await self._pumped()
            if self._late:
                if not parser.buffered():
                    return None
                raise HttpError(408, "the request came too slowly")

    async def _read_body(self):
        """Next piece of the body, b"" at its end. Raises HttpError when it is too large,
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
                    self._unread = False
                return data
            await self._input()

    def _earn(self, size):
        # Each 4 KiB earns a second: slow links get through, a trickle does not. Pieces are often
        # smaller: what is left of one counts for the next.
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
            keep = False  # RFC 9112 6.3: the end of such an answer is that of the connection
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
            # The header section and the body leave in one write: one segment for most.
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
                # The status is sent; breaking off without the last chunk tells the client.
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
        # In pieces, and the header section in one write with the first.
        view = memoryview(body)
        await self._write(head + view[:_PIECE])
        for i in range(_PIECE, len(view), _PIECE):
            await self._write(view[i : i + _PIECE])

    async def _write(self, data):
        if self._put(data):
            await self._drain()

    def _put(self, data):
        # Writes; returns whether it is to be waited for the client to take it.
        self._sent += len(data)
        writer = self.writer
        writer.write(data)
        # MicroPython's drain() gives way to other tasks in any case; who has sent an answer does so
        # when it reads the next request.
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
        self._serves = False
        self._discard = True
        if self._room is not None:
            self._room.set()
        if not (self._unread or self.parser.buffered() or self._unread_in_socket()):
            return
        self._allow(self.limits.linger_s)
        while not self.eof and self._ticks:
            if self._pump_task is None:
                await self._take()
            else:
                self._looking()
                self._waits = True
                await self._more.wait()

    def _unread_in_socket(self):
        # CPython's loop reads ahead, whether or not somebody takes it; the sockets of MicroPython's
        # unix port cannot be asked.
        return (
            self._pump_task is None
            and hasattr(getattr(self.writer, "s", None), "ioctl")
            and self.writer.s.ioctl(_IOCTL_POLL, _POLLIN) != 0
        )
