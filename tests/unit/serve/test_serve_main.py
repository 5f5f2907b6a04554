"""The server as the image starts it: configuration, user code, and the module `cllm`."""

import asyncio
import json
import sys
from pathlib import Path
from urllib import error, request

import pytest
from fake_engine import FakeEngine
from httpd import Server
from serve import main, settings
from serve.scheduling.engine import EngineHost
from serve.service import Service
from serve.settings import Settings


def test_handlers_that_are_no_text_cost_nobody_else_anything(tmp_path, capsys):
    (tmp_path / "app.py").write_bytes(b"# caf\xe9\n")
    main.run_user_code(str(tmp_path / "app.py"))
    assert "the server goes on without" in capsys.readouterr().out


@pytest.fixture
def cllm(monkeypatch):
    """The module that user code imports, fresh, with a service of its own."""
    api = Path(main.__file__).resolve().parent.parent / "lib" / "cllm.py"
    from serve import service as module

    monkeypatch.setattr(module, "service", Service())
    monkeypatch.setattr(main, "service", module.service)
    namespace = type(sys)("cllm")
    exec(compile(api.read_text(), str(api), "exec"), namespace.__dict__)
    monkeypatch.setitem(sys.modules, "cllm", namespace)
    return namespace


def test_llm(cllm, tmp_path):
    path = tmp_path / "m.gguf"
    path.write_bytes(b"x")

    async def go():
        with pytest.raises(Exception) as info:
            await cllm.llm.generate("x")
        assert info.value.status == 503
        cllm.service.configure(EngineHost(str(path), None, {}, FakeEngine))
        await cllm.service.start()
        assert await cllm.llm.generate("hello|", max_tokens=4) == "hell"
        assert await cllm.llm.chat("hi") == "hi"
        assert await cllm.llm.chat([{"role": "user", "content": "ho"}], stop="o") == "h"
        assert [item.text async for item in cllm.llm.stream("ab|")] == ["a", "b", ""]
        assert await cllm.llm.tokenize("a") == [97]
        with pytest.raises(Exception, match="temperature"):
            await cllm.llm.generate("x", temperature="y")
        cllm.service.stop()

    asyncio.run(go())


APP = """
from cllm import app, llm

@app.get("/twice/<text>")
async def twice(request, text):
    return {"text": await llm.generate(text + text + "|")}

@app.get("/fail")
def fail(request):
    return 1 / 0

@app.get("/health")
def health(request):
    return "mine"
"""


@pytest.fixture
def loopback(cllm, tmp_path, monkeypatch):
    """The servers that main.serve() starts, on a free port of this host; /boot is `tmp_path`."""
    servers = []

    class Loopback(Server):
        def __init__(self, app, host, port, limits):
            Server.__init__(self, app, "127.0.0.1", 0, limits)
            self.asked_port = port
            self.drained = []
            servers.append(self)

        async def drain(self, seconds):
            self.drained.append(seconds)
            await Server.drain(self, seconds)

    (tmp_path / "model.gguf").write_bytes(b"x")
    monkeypatch.setattr(settings, "BOOT", str(tmp_path) + "/")
    monkeypatch.setattr(main, "user_code", lambda: [str(tmp_path / "app.py")])
    monkeypatch.setattr(main, "Server", Loopback)
    return servers


async def fetch(server, path, body=None):
    """(status, headers, bytes) of an answer; the loop goes on meanwhile."""
    url = "http://127.0.0.1:%d" % server._server.sockets[0].getsockname()[1]

    def call():
        try:
            with request.urlopen(request.Request(url + path, body), timeout=5) as answer:
                return answer.status, answer.headers, answer.read()
        except error.HTTPError as exc:
            return exc.code, exc.headers, exc.read()

    return await asyncio.get_running_loop().run_in_executor(None, call)


async def until(condition):
    while not condition():
        await asyncio.sleep(0.01)


def test_serve_with_user_code(cllm, loopback, tmp_path, capsys):
    (tmp_path / "app.py").write_text(APP)

    async def go():
        alias = Settings({"model": {"alias": "a"}})
        task = asyncio.create_task(main.serve(alias, make=FakeEngine))
        await until(lambda: loopback and loopback[0]._server and cllm.service.scheduler)
        (server,) = loopback
        status, _, body = await fetch(server, "/twice/ab")
        assert (status, body) == (200, b'{"text":"abab"}')
        assert (await fetch(server, "/fail"))[0] == 500
        assert (await fetch(server, "/health"))[2] == b"mine"
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(go())
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_serve_ends_when_it_is_asked_to(loopback, capsys):
    async def go():
        button = asyncio.Event()
        drain = Settings({"limits": {"drain_s": 7}})
        task = asyncio.create_task(main.serve(drain, make=FakeEngine, asked=button.wait))
        await asyncio.sleep(0.1)
        assert not task.done() and not loopback[0].drained
        button.set()
        await asyncio.wait_for(task, 5)

    asyncio.run(go())
    assert loopback[0].drained == [7] and "asked to end" in capsys.readouterr().out


@pytest.mark.parametrize(
    "config, words",
    [
        ('{"keyz": ["secret"], "port": 8000}', '"keyz" is unknown'),
        ('{"limits": {"queue_s": "5"}, "port": 8000}', '"limits.queue_s" must be a whole number'),
        ('{"port": 8000', "8000"),
        ("[]", "must be an object"),
    ],
)
def test_a_wrong_configuration_is_served_as_the_reason(
    cllm, loopback, tmp_path, capsys, config, words
):
    (tmp_path / "config.json").write_text(config)
    (tmp_path / "app.py").write_text(APP)
    made = []

    async def go():
        wrong = settings.read_settings()
        task = asyncio.create_task(main.serve(wrong, make=lambda *_, **__: made.append(1)))
        await until(lambda: loopback and loopback[0]._server)
        (server,) = loopback
        for path, body in (
            ("/health", None),
            ("/v1/completions", b'{"prompt": "x"}'),
            ("/v1/models", None),
            ("/metrics", None),
            ("/slots", None),
        ):
            status, headers, data = await fetch(server, path, body)
            message = json.loads(data)["error"]["message"]
            assert status == 503 and "wrong configuration: " in message and words in message
            assert int(headers["Retry-After"]) > 0
        assert (await fetch(server, "/twice/ab"))[0] == 404, "user code runs"
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    if words == "8000":
        words = "wrong configuration: "  # what is wrong with the JSON is in the reader's words
    asyncio.run(go())
    assert not made and words in capsys.readouterr().out
    assert loopback[0].asked_port == (8000 if config.endswith("8000}") else 80)


def test_broken_user_code_is_reported(tmp_path, capsys):
    path = tmp_path / "app.py"
    for source in ("def x(:", "1 / 0", "import nothing_of_this_name"):
        path.write_text(source)
        main.run_user_code(str(path))
        captured = capsys.readouterr()
        assert "the server goes on" in captured.out and "Error" in captured.err
    main.run_user_code(str(tmp_path / "absent.py"))
