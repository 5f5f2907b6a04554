"""Routes, the values handlers return, hooks and errors."""

import asyncio

import pytest
from httpd import router
from httpd.aio import END
from httpd.parser import HttpError, Request
from httpd.router import App, Response, Stream, respond


def request(method="GET", path="/"):
    return Request(method, path, 1, {}, path[1:].split("/"))


def call(app, method="GET", path="/"):
    async def go():
        req = request(method, path)
        route, params = app.find(req)
        response = await app.handle(req, route, params)
        if response.source is None:
            return response, bytes(response.body)
        data = []
        while True:
            piece = await response.next()
            if piece is END:
                return response, data
            data.append(piece)

    return asyncio.run(go())


def test_patterns():
    app = App()
    app.get("/a/<name>")(lambda r, name: "name " + name)
    app.get("/a/b")(lambda r: "fixed")
    app.get("/n/<int:n>")(lambda r, n: [n])
    app.get("/f/<path:rest>")(lambda r, rest: rest)
    assert call(app, path="/a/b")[1] == b"fixed"
    assert call(app, path="/a/c")[1] == b"name c"
    assert call(app, path="/n/-12")[1] == b"[-12]"
    assert call(app, path="/f/x/y/")[1] == b"x/y/"
    for path in ("/", "/a", "/a/", "/a/b/c", "/n/x", "/n/1.5", "/n/", "/f", "/zz"):
        with pytest.raises(HttpError) as info:
            call(app, path=path)
        assert info.value.status == 404, path


def test_an_encoded_slash_does_not_reach_a_fixed_path():
    app = App()
    app.get("/a/b")(lambda r: "x")
    req = Request("GET", "/a%2Fb", 1, {}, ["a/b"])
    with pytest.raises(HttpError) as info:
        app.find(req)
    assert info.value.status == 404


@pytest.mark.parametrize("pattern", ["a", "/<x:y>", "/<int:>", "/<path:a>/b"])
def test_bad_patterns(pattern):
    with pytest.raises(ValueError):
        App().get(pattern)(lambda r: None)


def test_methods():
    app = App()
    app.get("/a")(lambda r: "get")
    app.post("/a")(lambda r: "post")
    assert call(app, "POST", "/a")[1] == b"post"
    assert call(app, "HEAD", "/a")[1] == b"get"
    response, _ = call(app, "OPTIONS", "/a")
    assert response.status == 204 and response.headers["Allow"] == "GET, HEAD, OPTIONS, POST"
    with pytest.raises(HttpError) as info:
        call(app, "DELETE", "/a")
    assert info.value.status == 405 and "POST" in info.value.headers["Allow"]
    with pytest.raises(HttpError) as info:
        call(app, "BREW", "/a")
    assert info.value.status == 501


def test_later_route_replaces():
    app = App()
    app.get("/a")(lambda r: "one")
    app.get("/a")(lambda r: "two")
    assert call(app, path="/a")[1] == b"two"


class Numbers:
    def __init__(self, n):
        self.n = n
        self.closed = False

    def __aiter__(self):
        return self

    async def __anext__(self):
        await asyncio.sleep(0)
        if not self.n:
            raise StopAsyncIteration
        self.n -= 1
        return str(self.n)

    def close(self):
        self.closed = True


def kinds():
    async def coroutine(r):
        await asyncio.sleep(0)
        return {"a": 1}

    async def agen(r):
        yield "a"
        await asyncio.sleep(0)
        yield ""
        yield b"b"

    def gen(r):
        yield b"a"
        yield "b"

    async def nested(r):
        return gen(r)

    return [
        (lambda r: {"a": 1}, "application/json", b'{"a":1}'),
        (lambda r: [1], "application/json", b"[1]"),
        (lambda r: "é", "text/plain", "é".encode()),
        (lambda r: b"x", "application/octet-stream", b"x"),
        (lambda r: ("x", 201, {"A": "b"}), "text/plain", b"x"),
        (lambda r: Response("x", content_type="text/html"), "text/html", b"x"),
        (lambda r: None, "application/octet-stream", b""),
        (coroutine, "application/json", b'{"a":1}'),
        (agen, "text/plain", [b"a", b"b"]),
        (gen, "text/plain", [b"a", b"b"]),
        (nested, "text/plain", [b"a", b"b"]),
        (lambda r: Stream(gen(r), "text/event-stream"), "text/event-stream", [b"a", b"b"]),
        (lambda r: Stream(["a"], "x/y"), "x/y", [b"a"]),
        (lambda r: Numbers(2), "text/plain", [b"1", b"0"]),
        (lambda r: (gen(r), 202), "text/plain", [b"a", b"b"]),
    ]


@pytest.mark.parametrize("index", range(15))
def test_return_values(index):
    handler, content_type, body = kinds()[index]
    app = App()
    app.get("/")(handler)
    response, got = call(app)
    assert got == body
    assert response.content_type.split(";")[0] == content_type


def test_handler_errors(capsys):
    app = App()

    def agen(r):
        raise KeyError("k")
        yield

    app.get("/crash")(lambda r: 1 / 0)
    app.get("/refuse")(lambda r: (_ for _ in ()).throw(HttpError(409, "no", {"A": "b"}, type="t")))
    app.get("/bad")(lambda r: object())
    app.get("/early")(agen)
    assert call(app, path="/crash")[0].status == 500
    assert "ZeroDivisionError" in capsys.readouterr().err
    assert call(app, path="/bad")[0].status == 500
    assert call(app, path="/early")[0].status == 500
    response, body = call(app, path="/refuse")
    assert response.status == 409 and response.headers == {"A": "b"}
    assert body == b'{"error":{"code":409,"message":"no","type":"t"}}'


def test_a_stream_that_fails_or_is_cancelled_at_once_is_closed():
    class Stuck(Numbers):
        async def __anext__(self):
            await asyncio.sleep(5 if self.n else 0)
            raise RuntimeError

    async def go(items, wait):
        app = App()
        app.get("/")(lambda r: items)
        task = asyncio.create_task(app.handle(request(), *app.find(request())))
        await asyncio.sleep(0.01)
        if wait:
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        else:
            assert (await task).status == 500

    for wait in (0, 1):
        items = Stuck(wait)
        asyncio.run(go(items, wait))
        assert items.closed


def test_hooks():
    app = App()
    seen = []

    @app.before
    async def guard(r):
        seen.append(r.path)
        if r.path == "/secret":
            raise HttpError(401)
        if r.path == "/short":
            return "short"

    @app.error
    def shape(r, error):
        return {"oops": error.status}, error.status

    app.get("/<x>")(lambda r, x: x)
    assert call(app, path="/a")[1] == b"a"
    assert call(app, path="/short")[1] == b"short"
    response, body = call(app, path="/secret")
    assert (response.status, body) == (401, b'{"oops":401}')
    assert seen == ["/a", "/short", "/secret"]


def test_broken_error_hook_still_answers(capsys):
    app = App()
    app.error(lambda r, e: 1 / 0)
    app.get("/")(lambda r: 1 / 0)
    assert call(app)[0].status == 500


def test_heads_of_answers():
    for _ in range(2):  # made, and remembered
        assert Response("x").head(1, None) == (
            b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\n"
            b"Content-Length: 1\r\n\r\n"
        )
        assert Response("", 404, {"A": "b"}).head(None, "close").split(b"\r\n") == [
            b"HTTP/1.1 404 Not Found",
            b"Content-Type: text/plain; charset=utf-8",
            b"A: b",
            b"Transfer-Encoding: chunked",
            b"Connection: close",
            b"",
            b"",
        ]
        assert b"\r\nA: c\r\n" in Response("", 404, {"A": "c"}).head(None, "close")
        head = Response("").head(-1, "keep-alive")
        assert head.endswith(b"utf-8\r\nConnection: keep-alive\r\n\r\n")
        # Not the same, though they are equal.
        for value, text in ((1, b"1"), (True, b"True"), (1.0, b"1.0")):
            assert b"\r\nN: " + text + b"\r\n" in Response("", 200, {"N": value}).head(0, None)
    for i in range(1000):
        assert b"\r\nN: %d\r\n" % i in Response("", 200, {"N": str(i)}).head(i, None)
    assert len(router._heads) <= 64


def test_headers_cannot_be_split():
    for _ in range(2):
        with pytest.raises(ValueError):
            Response("", headers={"A": "b\r\nC: d"}).head(0, None)
    with pytest.raises(TypeError):
        respond((1,))
