"""frozen/serve with the real engine on CPython, over a loopback socket: what the image serves,
without the image.

    with ApiServer(model, slots=4, speculate=False, keys=["secret"]) as server:
        requests.post(server.url + "/v1/completions", json={...})
"""

import asyncio
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
for folder in (ROOT / "tests/unit/shim", ROOT / "frozen"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
if not hasattr(time, "ticks_ms"):
    # As in tests/unit/conftest.py.
    time.ticks_ms = lambda: time.monotonic_ns() // 1_000_000
    time.ticks_us = lambda: time.monotonic_ns() // 1_000

import host_engine  # noqa: E402

from httpd import Limits, Server  # noqa: E402
from serve import main  # noqa: E402
from serve.scheduling.engine import EngineHost  # noqa: E402
from serve.service import Service  # noqa: E402
from serve.settings import Settings  # noqa: E402


class ApiServer:
    """Serves until the end of the `with` block, from a thread with a loop of its own.

    model: path. config: as the machine's configuration has it (`keys`, `limits`, `model` ...).
    setup(service): called before the first request, to add routes.
    """

    def __init__(self, model, config=None, setup=None, tick_s=0.2):
        host_engine.install()
        self.settings = Settings(config or {})
        self.service = Service()
        host = EngineHost(
            str(model), self.settings.alias or Path(model).stem, self.settings.options,
            draft=self.settings.draft,
        )
        host.ended = host_engine.computed
        self.service.configure(host, self.settings.bounds)
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
