"""The service in a thread of its own, with the fake engine, as clients see it over a socket."""

import asyncio
import json
import threading
from urllib import error, request

from fake_engine import FakeEngine
from httpd import Limits, Server
from serve import main
from serve.apis.access import Access
from serve.scheduling.engine import EngineHost
from serve.scheduling.scheduler import Bounds
from serve.service import Service

CHAT = {"messages": [{"role": "user", "content": "hé<y"}]}
MODEL = "fake-model"


class Running:
    """The service in a thread with its own loop, as clients see it."""

    def __init__(
        self, tmp_path, make=FakeEngine, load=True, slots=4, access=None, wait=True, **options
    ):
        path = tmp_path / "model.gguf"
        path.write_bytes(b"GGUF")
        self.service = Service()
        self.host = EngineHost(str(path), MODEL, options, make)
        bounds = Bounds(slots=slots, queue=2, speculate=False)
        self.service.configure(self.host, bounds)
        main.install(self.service, access or Access())
        self.started = threading.Event()
        self.load = load
        self.wait = wait  # until it is loaded
        self.thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    async def _run(self):
        self.loop = asyncio.get_running_loop()
        self.done = asyncio.Event()
        server = Server(self.service.app, "127.0.0.1", 0, Limits(), 0.05)
        await server.start()
        self.port = server._server.sockets[0].getsockname()[1]
        if not self.wait:
            self.started.set()
        if self.load:
            await self.service.start()
        self.started.set()
        await self.done.wait()
        self.service.stop()
        await server.close()

    def __enter__(self):
        self.thread.start()
        assert self.started.wait(5)
        self.url = "http://127.0.0.1:%d" % self.port
        return self

    def __exit__(self, *_):
        self.loop.call_soon_threadsafe(self.done.set)
        self.thread.join(5)
        assert not self.thread.is_alive()

    def raw(self, path, body=None):
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        try:
            with request.urlopen(request.Request(self.url + path, data), timeout=10) as answer:
                return answer.status, dict(answer.headers), answer.read()
        except error.HTTPError as exc:
            return exc.code, dict(exc.headers), exc.read()

    def call(self, path, body=None):
        status, _, data = self.raw(path, body)
        return status, json.loads(data)

    def stream(self, path, body):
        """The events of a stream, parsed; "[DONE]" stays a string."""
        status, headers, data = self.raw(path, dict(body, stream=True))
        assert status == 200, data
        assert headers["Content-Type"] == "text/event-stream"
        events = data.decode().split("\n\n")
        assert events.pop() == ""
        assert all(e.startswith("data: ") for e in events)
        return [e[6:] if e == "data: [DONE]" else json.loads(e[6:]) for e in events]


def message(**fields):
    return {"messages": [dict({"role": "user", "content": "x"}, **fields)]}
