"""frozen/serve with the real engine on CPython, over a loopback socket, without an image.

with ApiServer(model, {"keys": ["secret"], "model": {"slots": 4}}) as server:
    requests.post(server.url + "/v1/completions", json={...})
"""

import asyncio
import threading
from pathlib import Path

import support.on_cpython  # noqa: F401, makes the next ones importable
from support import host_engine

# isort: split
from httpd import Limits, Server
from serve import main
from serve.scheduling.engine import EngineHost
from serve.service import Service
from serve.settings import Settings


class ApiServer:
    """A server that runs until the end of the `with` block, in a thread with a loop of its own.

    model: path. config: what the guest's config.json holds (`keys`, `limits`, `model` ...). setup:
    a function that gets the Service before the first request, to add routes.
    """

    def __init__(self, model, config=None, setup=None, tick_s=0.2):
        host_engine.install()
        self.settings = Settings(config or {})
        self.service = Service()
        host = EngineHost(
            str(model),
            self.settings.alias or Path(model).stem,
            self.settings.options,
            draft=self.settings.draft,
            tags=self.settings.tags,
            lora=self.settings.lora,
        )
        host.ended = host_engine.computed
        self.service.configure(host, self.settings.bounds, self.settings.hidden)
        main.install(self.service, self.settings.access)
        if setup:
            setup(self.service)
        self.tick_s = tick_s
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    async def _run(self):
        self._loop = asyncio.get_running_loop()
        self._done = asyncio.Event()
        server = Server(
            self.service.app, "127.0.0.1", 0, self.settings.limits or Limits(), self.tick_s
        )
        await server.start()
        self.port = server._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        await self.service.start()
        self._started.set()
        await self._done.wait()
        self.service.stop()
        await server.close()

    @property
    def scheduler(self):
        return self.service.scheduler

    def __enter__(self):
        self._thread.start()
        assert self._started.wait(60)
        return self

    def __exit__(self, *_):
        self._loop.call_soon_threadsafe(self._done.set)
        self._thread.join(30)
        engine = self.service.host.engine
        if engine:
            engine.close()
