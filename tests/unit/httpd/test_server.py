"""The connection loop over loopback sockets: framing, limits, clients that leave."""

import asyncio
import json
import time

import pytest
from httpd import App, Limits, Server
from httpd.server import Connection

TICK = 0.02


def make_app(log):
    app = App()

    @app.get("/")
    def index(request):
        return {"path": request.path}

    @app.post("/echo")
    def echo(request):
        return request.body

    @app.post("/count", stream=True, limit=64 << 20)
    async def count(request):
        total = 0
        while True:
            data = await request.read()
            if not data:
                return {"total": total}
            total += len(data)

    @app.post("/ignore", stream=True)
    async def ignore(request):
        return "ignored"

    @app.get("/stream")
    async def stream(request):
        for i in range(3):
            yield "part %d\n" % i
            await asyncio.sleep(0)

    @app.get("/endless")
    async def endless(request):
        try:
            while True:
                yield b"x" * 100
                await asyncio.sleep(0.005)
        finally:
            log.append("endless closed")

    @app.get("/flood")
    def flood(request):
        try:
            while True:
                yield b"y" * 65536
        finally:
            log.append("flood closed")

    @app.get("/present")
    async def present(request):
        await asyncio.sleep(0.2)
        return str(request.gone())

    @app.get("/wait")
    async def wait(request):
        try:
            await asyncio.sleep(30)
        finally:
            log.append("wait closed")

    @app.post("/read-and-wait", stream=True)
    async def read_and_wait(request):
        try:
            while await request.read():
                pass
            await asyncio.sleep(30)
        finally:
            log.append("read-and-wait closed")

    @app.get("/boom")
    def boom(request):
        raise RuntimeError("boom")

    @app.get("/late-boom")
    async def late_boom(request):
        yield "some"
        raise RuntimeError("late")

    @app.get("/no-memory")
    def no_memory(request):
        raise MemoryError("memory allocation failed, allocating 4000000 bytes")

    @app.get("/split")
    def split(request):
        return "x", 200, {"A": "b\r\nC: d"}

    @app.get("/big")
    def big(request):
        return bytes(3 << 20)

    add_json(app)
    return app


def add_json(app):
    @app.post("/json")
    async def json_length(request):
        return {"length": len(request.json())}

    @app.post("/json-twice")
    def json_twice(request):
        assert request.json() is request.json()
        return [request.json()]

    @app.get("/inf")
    def infinity(request):
        return {"a": float("inf")}


class Client:
    def __init__(self, reader, writer):
        self.reader = reader
        self.writer = writer

    def send(self, data):
        self.writer.write(data)

    async def head(self):
        data = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 5)
        lines = data.decode().split("\r\n")
        fields = [line.split(": ", 1) for line in lines[1:-2]]
        return int(lines[0].split()[1]), {name.lower(): value for name, value in fields}

    async def response(self):
        status, headers = await self.head()
        if headers.get("transfer-encoding") == "chunked":
            body = b""
            while True:
                size = int(await self.reader.readline(), 16)
                body += await self.reader.readexactly(size)
                assert await self.reader.readexactly(2) == b"\r\n"
                if not size:
                    return status, headers, body
        if "content-length" in headers:
            return status, headers, await self.reader.readexactly(int(headers["content-length"]))
        if status in (100, 204):
            return status, headers, b""
        return status, headers, await self.reader.read()

    async def closed(self, timeout=3):
        try:
            return await asyncio.wait_for(self.reader.read(), timeout) == b""
        except ConnectionError:
            return True


def serve(scenario, **limits):
    limits.setdefault("linger_s", 0.5)

    async def go():
        log = []
        server = Server(make_app(log), "127.0.0.1", 0, Limits(**limits), TICK)
        await server.start()
        port = server._server.sockets[0].getsockname()[1]
        clients = []

        async def connect():
            clients.append(Client(*await asyncio.open_connection("127.0.0.1", port)))
            return clients[-1]

        async def gone(text=None):
            end = time.monotonic() + 3
            while (text and text not in log) or (not text and server.connections):
                assert time.monotonic() < end, (log, server.connections)
                await asyncio.sleep(0.005)

        try:
            await scenario(connect, gone, server)
            for client in clients:
                client.writer.close()
            await gone()
        finally:
            await server.close()
        await asyncio.sleep(0)
        left = [t for t in asyncio.all_tasks() if t is not asyncio.current_task() and not t.done()]
        await asyncio.sleep(0.02)
        left = [t for t in left if not t.done()]
        assert not left, left

    asyncio.run(go())


GET = b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n"


def test_drain_lets_what_runs_end():
    async def scenario(connect, gone, server):
        idle, slow, late, silent = [await connect() for _ in range(4)]
        idle.send(GET % b"/")
        await idle.response()
        slow.send(GET % b"/present")
        late.send(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\na")
        while len(server.connections) < 4 or sum(not c.idle for c in server.connections) < 2:
            await asyncio.sleep(0.005)
        drain = asyncio.create_task(server.drain(5))
        assert await idle.closed() and await silent.closed()
        with pytest.raises(OSError):
            await connect()
        late.send(b"b")
        for client, text in ((slow, b"False"), (late, b"ab")):
            status, headers, body = await client.response()
            assert (status, body, headers["connection"]) == (200, text, "close")
            assert await client.closed()
        await asyncio.wait_for(drain, 1)

    serve(scenario)


def test_drain_ends_in_time():
    async def scenario(connect, gone, server):
        client = await connect()
        client.send(GET % b"/endless")
        assert (await client.head())[0] == 200
        started = time.monotonic()
        await server.drain(0.3)
        assert 0.3 <= time.monotonic() - started < 2
        assert server.connections  # close() ends them
        await server.close()
        assert not server.connections
        await server.start()

    serve(scenario)


def test_keep_alive_many():
    async def scenario(connect, gone, server):
        client = await connect()
        for _ in range(200):
            client.send(GET % b"/")
            assert (await client.response())[2] == b'{"path":"/"}'

    serve(scenario)


def test_pipelining_keeps_order():
    async def scenario(connect, gone, server):
        client = await connect()
        client.send(GET % b"/" + GET % b"/stream" + GET % b"/nope" + GET % b"/")
        got = [(await client.response())[::2] for _ in range(4)]
        assert [g[0] for g in got] == [200, 200, 404, 200]
        assert got[1][1] == b"part 0\npart 1\npart 2\n"

    serve(scenario)


def test_bodies():
    blob = bytes(range(256)) * 4096

    async def scenario(connect, gone, server):
        client = await connect()
        head = b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
        client.send(head % (b"/echo", len(blob)) + blob)
        assert (await client.response())[2] == blob
        client.send(b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        for i in range(0, len(blob), 30000):
            part = blob[i : i + 30000]
            client.send(b"%x\r\n" % len(part) + part + b"\r\n")
        client.send(b"0\r\n\r\n")
        assert (await client.response())[2] == blob
        client.send(head % (b"/count", 8 * len(blob)))
        for _ in range(8):
            client.send(blob)
            await client.writer.drain()
        assert (await client.response())[2] == b'{"total":8388608}'
        client.send(GET % b"/big")
        assert (await client.response())[2] == bytes(3 << 20)

    serve(scenario)


def test_expect_continue():
    async def scenario(connect, gone, server):
        client = await connect()
        head = b"POST %s HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n"
        client.send(head % (b"/echo", 2))
        assert (await client.response())[0] == 100
        client.send(b"ok")
        assert (await client.response())[2] == b"ok"
        client.send(head % (b"/echo", 10 << 20))
        assert (await client.response())[0] == 413
        assert await client.closed()

    serve(scenario)


def test_reading_ahead_is_bounded():
    async def scenario(connect, gone, server):
        client = await connect()
        client.send(GET % b"/endless" + bytes(8 << 20))
        await client.head()
        parser = server.connections[0].parser
        end = time.monotonic() + 3
        while parser.buffered() < 65536:
            assert time.monotonic() < end, parser.buffered()
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.1)
        assert parser.buffered() < 100000
        client.writer.transport.abort()  # its end is behind what nobody reads: a write must fail
        await gone("endless closed")

    serve(scenario)


def test_http_1_0():
    async def scenario(connect, gone, server):
        client = await connect()
        client.send(b"GET /stream HTTP/1.0\r\n\r\n")
        status, headers, body = await client.response()
        assert "transfer-encoding" not in headers and headers["connection"] == "close"
        assert body == b"part 0\npart 1\npart 2\n"
        client = await connect()
        client.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" * 2)
        for _ in range(2):
            assert (await client.response())[1]["connection"] == "keep-alive"

    serve(scenario)


def test_head_has_no_body():
    async def scenario(connect, gone, server):
        client = await connect()
        client.send(b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\nHEAD /endless HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await client.head())[1]["content-length"] == "12"
        assert (await client.head())[0] == 200
        await gone("endless closed")
        client.send(GET % b"/")
        assert (await client.response())[0] == 200

    serve(scenario)


def test_errors_cost_nobody_else(capsys):
    async def scenario(connect, gone, server):
        other = await connect()
        client = await connect()
        client.send(GET % b"/boom" + GET % b"/split" + GET % b"/")
        assert [(await client.response())[0] for _ in range(2)] == [500, 500]
        assert await client.closed()
        client = await connect()
        client.send(GET % b"/late-boom")
        assert (await client.head())[0] == 200
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await client.reader.readuntil(b"0\r\n\r\n")
        for bad in (b"\x16\x03\x01\x02\n", b"GET / HTTP/1.1\r\nbad\r\n\r\n", b"z" * 20000):
            client = await connect()
            client.send(bad)
            client.writer.write_eof()
            status, headers, body = await client.response()
            assert status in (400, 414) and b'"error"' in body and headers["connection"] == "close"
        other.send(GET % b"/")
        assert (await other.response())[0] == 200

    serve(scenario)
    assert "boom" in capsys.readouterr().err


def test_large_body_gets_its_answer_while_still_sending():
    async def scenario(connect, gone, server):
        client = await connect()
        client.send(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 9000000\r\n\r\n")
        for _ in range(90):
            client.send(bytes(100000))
            await client.writer.drain()
        assert (await client.response())[0] == 413

    serve(scenario)


def test_half_requests():
    async def scenario(connect, gone, server):
        for part in (
            b"GET / HT",
            b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nab",
        ):
            client = await connect()
            client.send(part)
            client.writer.write_eof()
            assert (await client.response())[0] == 400
        client = await connect()  # a whole one, then the client's side ends
        client.send(GET % b"/")
        client.writer.write_eof()
        assert (await client.response())[0] == 200

    serve(scenario)


def test_a_handler_does_not_outlive_a_client_that_had_gone_before():
    async def scenario(connect, gone, server):
        client = await connect()
        reader = asyncio.StreamReader()
        reader.feed_data(GET % b"/wait")
        reader.feed_eof()
        connection = Connection(server, reader, client.writer)
        server.connections.append(connection)
        start = time.monotonic()
        await asyncio.wait_for(connection.run(), 2)
        assert time.monotonic() - start < 1  # its own end, not wait_for's
        server.connections.remove(connection)
        await gone("wait closed")

    serve(scenario, linger_s=0.1)


def test_unread_stream_body_closes():
    async def scenario(connect, gone, server):
        client = await connect()
        client.send(b"POST /ignore HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nabc")
        status, headers, body = await client.response()
        assert body == b"ignored" and headers["connection"] == "close"

    serve(scenario)


def test_time_limits():
    async def scenario(connect, gone, server):
        idle = await connect()
        slow_head = await connect()
        slow_head.send(b"GET / HT")
        slow_body = await connect()
        slow_body.send(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nab")
        assert (await slow_head.response())[0] == 408
        assert (await slow_body.response())[0] == 408
        assert await idle.closed()
        await gone()

    serve(scenario, idle_s=0.3, head_s=0.1, body_s=0.1, linger_s=0.05)


@pytest.mark.parametrize("piece", [1, 700, 1460, 4095, 4097, 8191])
def test_a_slow_body_earns_time_whatever_its_pieces(piece):
    """At just above the least rate a body is never too slow, and at just below it is."""
    for rate, late in ((4200, False), (3900, True)):
        connection = Connection.__new__(Connection)
        connection.server = Server(App(), limits=Limits(body_s=5), tick_s=0.25)
        connection._credit = 0
        connection._body_ticks = 20
        sent = spent = 0
        while sent < 1 << 20 and connection._body_ticks > 0:
            sent += piece
            connection._earn(piece)
            while spent < int(sent / rate / 0.25):
                spent += 1
                connection._body_ticks -= 1
        assert (connection._body_ticks <= 0) is late


def test_a_body_in_segments_is_not_too_slow():
    async def scenario(connect, gone, server):
        client = await connect()
        client.send(b"POST /count HTTP/1.1\r\nHost: x\r\nContent-Length: 14000\r\n\r\n")
        for _ in range(10):  # 14,000 bytes/s
            client.send(bytes(1400))
            await asyncio.sleep(0.1)
        assert (await client.response())[0] == 200

    serve(scenario, body_s=0.4)


def test_what_is_no_http_is_answered_and_closed_at_once():
    async def scenario(connect, gone, server):
        for data in (b"\x16\x03\x01\x02", b"\0\0\0\x08", b" GET", b"SSH-2.0-x\r\n"):
            client = await connect()
            client.send(data)
            status, headers, _ = await asyncio.wait_for(client.response(), 2)
            assert status == 400 and headers["connection"] == "close"
            assert await client.closed()

    serve(scenario, head_s=30)


def json_post(path, body):
    head = b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (path, len(body))
    return head + body


def test_json_bodies():
    async def scenario(connect, gone, server):
        client = await connect()
        for body in (b"[1,2]", b" [1.5" + b",2" * 5000 + b"]", b'"' + b"\\n" * 5000 + b'"'):
            client.send(json_post(b"/json", body) + json_post(b"/json-twice", body))
            assert json.loads((await client.response())[2]) == {"length": len(json.loads(body))}
            assert json.loads((await client.response())[2]) == [json.loads(body)]
        for body in (b"[1,2", b"[1e999]", b"[1" + b",2" * 5000, b"x" * 5000, b'["\\ud800"]', b""):
            client.send(json_post(b"/json", body))
            status, _, answer = await client.response()
            assert status == 400 and b"invalid JSON" in answer
        client.send(json_post(b"/echo", b"[1,2" * 5000))  # whose handler wants bytes
        assert (await client.response())[2] == b"[1,2" * 5000

    serve(scenario)


def test_the_memory_of_json_values_is_bounded():
    async def scenario(connect, gone, server):
        client = await connect()
        client.send(json_post(b"/json", b"[" + b"[]," * 9000 + b"0]"))
        assert (await client.response())[0] == 200
        client.send(json_post(b"/json", b"[" + b"[]," * 11000 + b"0]"))
        status, _, answer = await client.response()
        assert status == 400 and b"memory" in answer

    serve(scenario, json_memory=(96 + 16) * 10000)


def test_an_answer_that_is_no_json_is_an_error(capsys):
    async def scenario(connect, gone, server):
        client = await connect()
        client.send(GET % b"/inf" + GET % b"/")
        assert (await client.response())[0] == 500
        assert (await client.response())[0] == 200

    serve(scenario)


def test_a_handler_without_memory_is_503(capsys):
    async def scenario(connect, gone, server):
        client = await connect()
        client.send(GET % b"/no-memory" + GET % b"/")
        status, headers, body = await client.response()
        assert status == 503 and headers["retry-after"] == "1" and b"memory" in body
        assert (await client.response())[0] == 200

    serve(scenario)
    assert "out of memory in GET /no-memory" in capsys.readouterr().out


def test_dripping_is_bounded():
    async def scenario(connect, gone, server):
        client = await connect()
        client.send(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n")
        start = time.monotonic()
        while not client.reader.at_eof() and not client.reader._buffer:
            client.send(b"a")
            await asyncio.sleep(0.01)
            assert time.monotonic() - start < 2
        assert (await client.response())[0] == 408

    serve(scenario, body_s=0.2)


def test_client_leaves():
    async def scenario(connect, gone, server):
        for path, text in ((b"/endless", "endless closed"), (b"/wait", "wait closed")):
            client = await connect()
            client.send(GET % path)
            if path == b"/endless":
                await client.head()
            else:
                await asyncio.sleep(0.05)
            client.writer.close()
            await gone(text)

    serve(scenario)


@pytest.mark.parametrize("early", [False, True])
def test_a_handler_that_has_read_its_body_does_not_outlive_its_client(early):
    async def scenario(connect, gone, server):
        client = await connect()
        client.send(b"POST /read-and-wait HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc")
        if not early:
            await asyncio.sleep(0.05)
        client.writer.write_eof()
        await gone("read-and-wait closed")

    serve(scenario, linger_s=0.1)


def test_a_connection_is_idle_only_while_nothing_has_come():
    """An idle one may be dropped at any time; one that is being refused may not."""
    reader, seen, written = None, [], []

    class Writer:
        def write(self, data):
            seen.append(connection.idle)
            written.append(data)

        async def drain(self):
            seen.append(connection.idle)

        def close(self):
            pass

        wait_closed = drain

        def get_extra_info(self, name):
            return None

    async def go():
        nonlocal reader, connection
        reader = asyncio.StreamReader()
        connection = Connection(Server(App()), reader, Writer())
        task = asyncio.create_task(connection.run())
        await asyncio.sleep(0.01)
        assert connection.idle
        reader.feed_data(b"\r\n")
        await asyncio.sleep(0.01)
        assert connection.idle, "an empty line is no beginning of a request"
        reader.feed_data(b"GET / HT")
        await asyncio.sleep(0.01)
        assert not connection.idle
        reader.feed_data(b"XX/1.1\r\n\r\n")
        await asyncio.sleep(0.01)
        reader.feed_eof()
        await asyncio.wait_for(task, 1)

    connection = None
    asyncio.run(go())
    assert written[0].startswith(b"HTTP/1.1 400 ") and not any(seen)


def test_a_request_that_came_while_the_loop_stood_still_is_answered():
    """The idle limit ends while the request lies unread in the socket, as after a long handler."""

    class Writer:
        """Has its socket as `s`, as MicroPython's streams do; the socket is this object, too."""

        def __init__(self):
            self.s = self
            self.written = b""
            self.unread = False

        def ioctl(self, request, flags):
            return flags if self.unread else 0

        def write(self, data):
            self.written += data

        async def drain(self):
            pass

        def close(self):
            pass

        wait_closed = drain

        def get_extra_info(self, name):
            return None

    async def go():
        reader, writer = asyncio.StreamReader(), Writer()
        server = Server(make_app([]), limits=Limits(idle_s=5), tick_s=1)
        connection = Connection(server, reader, writer)
        task = asyncio.create_task(connection.run())

        async def answers(count):
            while writer.written.count(b"HTTP/1.1 200 ") < count or not connection.idle:
                assert not task.done()
                await asyncio.sleep(0)

        reader.feed_data(GET % b"/")
        await answers(1)
        for _ in range(4):
            connection.tick()
        writer.unread = True
        connection.tick()
        await asyncio.sleep(0)
        assert not task.done()
        writer.unread = False
        reader.feed_data(GET % b"/")
        await answers(2)
        for _ in range(5):
            assert not task.done()
            connection.tick()
        await task

    asyncio.run(asyncio.wait_for(go(), 10))


def test_a_request_knows_that_its_client_is_gone():
    async def scenario(connect, gone, server):
        client = await connect()
        client.send(GET % b"/present")
        assert (await client.response())[2] == b"False"
        client.send(GET % b"/present")
        client.writer.write_eof()
        assert (await client.response())[2] == b"True"

    serve(scenario)


def test_gone_asks_the_socket_before_the_pump_has_read():
    """MicroPython's streams have their socket as `s`."""

    class Stream:
        events = 0

        def __init__(self):
            self.s = self
            self.set = []

        def setsockopt(self, level, option, value):
            self.set.append((level, option, value))

        def ioctl(self, request, argument):
            assert request == 3
            return self.events & argument

        def get_extra_info(self, name):
            return None

    class Anything:
        limits = Limits()
        known = {}

    stream = Stream()
    connection = Connection(Anything(), None, stream)
    assert stream.set == [(6, 1, 1)]  # TCP_NODELAY: a token does not wait for the last one's ACK
    assert connection.gone() is False
    stream.events = 0x2000
    assert connection.gone() is True
    stream.events = 0
    connection.eof = True
    assert connection.gone() is True


def test_never_reading_client():
    async def scenario(connect, gone, server):
        client = await connect()
        client.send(GET % b"/flood")
        await gone("flood closed")

    serve(scenario, write_s=0.2)


def test_connection_limit():
    async def scenario(connect, gone, server):
        busy = [await connect() for _ in range(3)]
        for client in busy:
            client.send(GET % b"/endless")
            await client.head()
        client = await connect()
        client.send(GET % b"/")
        status, headers, _ = await client.response()
        assert status == 503 and headers["retry-after"] == "1"
        busy[0].writer.close()
        await gone("endless closed")
        client = await connect()
        client.send(GET % b"/")
        assert (await client.response())[0] == 200

    serve(scenario, connections=3)


def test_every_connection_above_the_limit_is_told_so():
    async def scenario(connect, gone, server):
        busy = [await connect() for _ in range(3)]
        for client in busy:
            client.send(GET % b"/endless")
            await client.head()
        crowd = [await connect() for _ in range(100)]
        await asyncio.sleep(0.05)
        assert len(server._refused) <= 32
        for client in crowd[:99]:
            client.send(GET % b"/")
        crowd[99].send(b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n")
        for client in crowd:
            status, headers = await client.head()
            assert status == 503 and headers["retry-after"] == "1"
            assert headers["connection"] == "close"
            if client is not crowd[99]:
                body = await client.reader.readexactly(int(headers["content-length"]))
                assert json.loads(body)["error"]["code"] == 503
            assert await client.closed()
        silent = await connect()
        assert (await silent.response())[0] == 503
        assert await silent.closed()
        assert not server._refused and len(server.connections) == 3

    serve(scenario, connections=3, linger_s=0.3)


def test_idle_connections_make_room():
    async def scenario(connect, gone, server):
        idle = [await connect() for _ in range(3)]
        for client in idle:
            client.send(GET % b"/")
            await client.response()
        client = await connect()
        client.send(GET % b"/")
        assert (await client.response())[0] == 200
        assert await idle[0].closed()

    serve(scenario, connections=3)
