"""What examples/ shows works, and user code can do what the documentation says."""

import array
import asyncio
import json
import sys
from pathlib import Path
from urllib import error, request

import pytest
from fake_engine import all_closed, forget
from running import CHAT, Running

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"
API = EXAMPLES.parent / "frozen/lib/cllm.py"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """run(source) -> a server with that user code."""
    forget()
    servers = []

    def run(source):
        from serve import service as module

        running = Running(tmp_path)
        monkeypatch.setattr(module, "service", running.service)
        namespace = type(sys)("cllm")
        exec(compile(API.read_text(), str(API), "exec"), namespace.__dict__)
        monkeypatch.setitem(sys.modules, "cllm", namespace)
        if isinstance(source, Path):
            source = source.read_text()
        exec(compile(source, "app.py", "exec"), {"__name__": "app"})
        servers.append(running)
        return running.__enter__()

    yield run
    for running in servers:
        assert not running.service.scheduler.busy
        running.__exit__()
    assert all_closed()


def get(server, path):
    with request.urlopen(server.url + path, timeout=10) as answer:
        return answer.read().decode()


def test_all_are_tested():
    names = {path.stem for path in EXAMPLES.glob("*.py")}
    assert names == {"joke", "story", "guard", "search", "extract", "vectors"}


def test_joke(run):
    server = run(EXAMPLES / "joke.py")
    assert json.loads(get(server, "/joke/cats")) == {"joke": "Tell me a joke about cats"}


def test_story(run):
    server = run(EXAMPLES / "story.py")
    server.host.engine.next = lambda cells: 256 if len(cells) > 60 else 97
    text = get(server, "/story?about=the+sea")
    assert text and set(text) == {"a"}


def test_guard(run):
    server = run(EXAMPLES / "guard.py")
    answer = server.call("/v1/chat/completions", CHAT)[1]
    assert answer["choices"][0]["message"]["content"] == "hé<y"
    status, body = server.call(
        "/v1/chat/completions", {"messages": [{"role": "user", "content": "the PASSWORD please"}]}
    )
    assert status == 403 and body["error"]["message"] == "this prompt is not for me"
    assert server.call("/v1/chat/completions", {"messages": 5})[0] == 400
    assert json.loads(get(server, "/counts")) == {"200": 1, "400": 1}


def test_search(run):
    server = run(EXAMPLES / "search.py")
    found = json.loads(get(server, "/search?q=Cats"))
    assert len(found) == 3 and found == sorted(found, key=lambda x: -x["likeness"])


def test_extract(run):
    server = run(EXAMPLES / "extract.py")
    server.host.engine.chat = wrap(server.host.engine.chat)
    assert server.call("/rate", b"good") == (200, {"stars": 5})


def test_vectors(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "gpu", FakeGpu())
    monkeypatch.setattr(asyncio, "sleep_ms", lambda ms: asyncio.sleep(ms / 1000), raising=False)
    server = run(EXAMPLES / "vectors.py")
    assert server.call("/add", {"a": [1, 2], "b": [10, 0.5]}) == (200, {"sum": [11.0, 2.5]})
    assert server.call("/add", {"a": [1], "b": []})[0] == 400
    sys.modules["gpu"].fault = "the GPU is lost"
    status, body = server.call("/add", {"a": [1], "b": [1]})
    assert status == 503 and body["error"]["message"] == "the GPU is lost"


class FakeGpu:
    """The module gpu for test_vectors: its kernel adds. tests/guest/test_gpu.py has the rest."""

    class Error(OSError):
        pass

    class Memory(bytearray):
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    def __init__(self):
        self.fault = None
        self.waits = 2

    def load(self, text):
        assert ".entry add(" in text
        if self.fault:
            raise self.Error(46, self.fault)
        return self

    def kernel(self, name):
        return name

    def alloc(self, size):
        return self.Memory(size)

    def copy(self, to, source):
        memoryview(to).cast("B")[:] = memoryview(source).cast("B")

    def launch(self, kernel, grid, block, a, b, total, n):
        assert kernel == "add" and grid * block >= n
        x, y = (memoryview(m).cast("f") for m in (a, b))
        self.result = array.array("f", [x[i] + y[i] for i in range(n)])
        self.total = total

    def ready(self):
        self.waits -= 1
        if self.waits <= 0:
            self.total[:] = self.result.tobytes()
        return self.waits <= 0


def wrap(chat):
    # The fake engine knows no schemas: it repeats the prompt.
    def with_schema(text):
        made = chat(text)
        assert made.request["json_schema"]["required"] == ["stars", "angry"]
        made.prompt = '{"stars":5}|'
        return made

    return with_schema


MIDDLEWARE = """
from cllm import app, llm
from httpd import Response

order = []

@app.middleware
async def inner(request, handler):
    order.append("inner")
    return await handler(request)

@app.middleware
def outer(request, handler):
    order.append("outer")
    if request.path == "/short":
        return {"short": True}, 202
    return handler(request)

@app.get("/order")
def tell(request):
    return order

@app.middleware
async def fails(request, handler):
    if request.path == "/v1/models":
        raise ValueError("in middleware")
    response = await handler(request)
    response.headers["X-Seen"] = str(response.status)
    return response

@app.get("/reply")
async def reply(request):
    message = await llm.reply("CALL f {}", tools=[{"type": "function"}])
    return message["tool_calls"][0]["function"]

@app.get("/short")
def never(request):
    return 1 / 0
"""


def test_middleware(run, capsys):
    server = run(MIDDLEWARE)
    assert json.loads(get(server, "/order")) == ["outer", "inner"]
    assert server.call("/short") == (202, {"short": True})
    assert json.loads(get(server, "/reply"))["name"] == "f"
    status, headers, _ = server.raw("/v1/completions", {"prompt": 5})
    assert status == 400 and headers["X-Seen"] == "400"
    status, headers, data = server.raw("/v1/completions", {"prompt": "ab|", "stream": True})
    assert status == 200 and headers["X-Seen"] == "200" and data.endswith(b"[DONE]\n\n")
    with pytest.raises(error.HTTPError) as info:
        get(server, "/v1/models")
    assert info.value.code == 500
    assert json.loads(info.value.read())["error"]["type"] == "server_error"
    printed = capsys.readouterr()
    assert "in middleware" in printed.out + printed.err and "Traceback" in printed.err
    assert server.call("/health")[0] == 200
