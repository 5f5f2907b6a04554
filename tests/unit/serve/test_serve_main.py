"""The server as the image starts it: configuration, user code, and the module `cllm`."""

import asyncio
import sys
from pathlib import Path
from urllib import error, request

import pytest
from fake_engine import FakeEngine

from httpd import Server
from serve import main
from serve.scheduling.engine import EngineHost
from serve.service import Service


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


def test_serve_with_user_code(cllm, tmp_path, monkeypatch, capsys):
    (tmp_path / "model.gguf").write_bytes(b"x")
    (tmp_path / "app.py").write_text(APP)
    run_user_code = main.run_user_code
    monkeypatch.setattr(main, "_BOOT", str(tmp_path) + "/")
    monkeypatch.setattr(main, "run_user_code", lambda: run_user_code(str(tmp_path / "app.py")))
    servers = []

    class Loopback(Server):
        def __init__(self, app, host, port, limits):
            Server.__init__(self, app, "127.0.0.1", 0, limits)
            servers.append(self)

    monkeypatch.setattr(main, "Server", Loopback)

    async def go():
        task = asyncio.create_task(main.serve({"model": {"alias": "a"}}, make=FakeEngine))
        while not (servers and servers[0]._server and cllm.service.scheduler):
            await asyncio.sleep(0.01)
        url = "http://127.0.0.1:%d" % servers[0]._server.sockets[0].getsockname()[1]

        def get(path):
            try:
                with request.urlopen(url + path, timeout=5) as answer:
                    return answer.status, answer.read()
            except error.HTTPError as exc:
                return exc.code, exc.read()

        loop = asyncio.get_running_loop()
        assert await loop.run_in_executor(None, get, "/twice/ab") == (200, b'{"text":"abab"}')
        assert (await loop.run_in_executor(None, get, "/fail"))[0] == 500
        assert await loop.run_in_executor(None, get, "/health") == (200, b"mine")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(go())
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_serve_ends_when_it_is_asked_to(cllm, tmp_path, monkeypatch, capsys):
    (tmp_path / "model.gguf").write_bytes(b"x")
    monkeypatch.setattr(main, "_BOOT", str(tmp_path) + "/")
    monkeypatch.setattr(main, "run_user_code", lambda: None)
    drained = []

    class Loopback(Server):
        def __init__(self, app, host, port, limits):
            Server.__init__(self, app, "127.0.0.1", 0, limits)

        async def drain(self, seconds):
            drained.append(seconds)
            await Server.drain(self, seconds)

    monkeypatch.setattr(main, "Server", Loopback)

    async def go():
        button = asyncio.Event()
        config = {"limits": {"drain_s": 7}}
        task = asyncio.create_task(main.serve(config, make=FakeEngine, asked=button.wait))
        await asyncio.sleep(0.1)
        assert not task.done() and not drained
        button.set()
        await asyncio.wait_for(task, 5)

    asyncio.run(go())
    assert drained == [7] and "asked to end" in capsys.readouterr().out
    for wrong in (-1, 86401, "7"):
        with pytest.raises(main.ConfigError):
            main.Settings({"limits": {"drain_s": wrong}})


def test_broken_user_code_is_reported(tmp_path, capsys):
    path = tmp_path / "app.py"
    for source in ("def x(:", "1 / 0", "import nothing_of_this_name"):
        path.write_text(source)
        main.run_user_code(str(path))
        captured = capsys.readouterr()
        assert "the server goes on" in captured.out and "Error" in captured.err
    main.run_user_code(str(tmp_path / "absent.py"))


@pytest.mark.parametrize(
    "config, names",
    [
        ({"port": "x"}, "port"),
        ({"port": 70000}, "port"),
        ({"limits": []}, "limits"),
        ({"limits": {"bodyy": 1}}, "bodyy"),
        ({"model": "x"}, "model"),
        ({"model": {"n_ctx": 0}}, "n_ctx"),
        ({"model": {"file": 1}}, "file"),
        ({"model": {"slots": 100}}, "slots"),
    ],
)
def test_bad_settings(config, names):
    with pytest.raises(main.ConfigError, match=names):
        main.Settings(config)


def test_settings(tmp_path):
    settings = main.Settings({})
    assert settings.port == 80 and settings.path == "/boot/model.gguf"
    settings = main.Settings({"model": {"slots": 2}, "limits": {"queue": 3, "body": 9}})
    assert settings.bounds.slots == 2 and settings.bounds.queue == 3 and settings.limits.body == 9
    path = tmp_path / "config.json"
    assert main.read_config(str(path)) == {}
    path.write_text('{"port": 8080}')
    assert main.read_config(str(path)) == {"port": 8080}
    for bad in ("{", "[]"):
        path.write_text(bad)
        with pytest.raises(main.ConfigError):
            main.read_config(str(path))
