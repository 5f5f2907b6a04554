"""The module `_engine` on CPython, over the host's library; in the image it is modules/engine.

    host_engine.install()     makes it importable as `_engine`

With it, frozen/serve runs unchanged with the real engine and without a machine.
"""

import asyncio
import json
import sys
import threading

import support.on_cpython  # noqa: F401, makes the next ones importable
from support import engine_library
from support.engine_library import LIBRARY, Chat, Reply  # noqa: F401

# isort: split
from _engine import Aborted, Assertion, BadNumbers, Error, Limit, Lost, NoSlot


class _Library(engine_library.Library):
    def failure(self, code, reason):
        return {
            1: NoSlot,
            2: Aborted,
            3: Limit,
            -1: ValueError,
            -3: Assertion,
            -4: MemoryError,
            -5: Assertion,
            -6: BadNumbers,
            -7: Lost,
        }.get(code, Error)(reason)


_library = None


def library():
    """Return the loaded library. Raises OSError if it was not built."""
    global _library
    if _library is None:
        _library = _Library(LIBRARY)
    return _library


def version():
    return library().ffi.string(library().so.engine_version()).decode()


def cpu(name=None):
    lib = library()
    if name is not None and (code := lib.so.engine_use_cpu(name.encode())):
        raise lib.failure(code, lib.ffi.string(lib.so.engine_error()).decode())
    return lib.ffi.string(lib.so.engine_cpu()).decode()


def gpu():
    return None  # a host's library has none


class Engine(engine_library.Engine):
    def __init__(
        self,
        path,
        *,
        n_ctx=2048,
        n_batch=64,
        n_seq=4,
        n_threads=1,
        sample_ms=0,
        job_ms=0,
        pooling=0,
        kernels=0,
        gpu_layers=-1,
        split_mode=0,
        main_gpu=0,
        tensor_split=None,
        progress=None,
        poll=None,
        background=False,
    ):
        # `background` is taken for the image's sake: the model is loaded when this returns.
        options = {"sample_ms": sample_ms, "job_ms": job_ms, "kernels": kernels}
        if progress:
            options["progress"] = lambda done: progress(done) or True
        if poll:
            options["poll"] = lambda: bool(poll())
        self._woken = threading.Event()
        self._waiting = []  # functions to call when a computation or a job has ended
        super().__init__(
            library(),
            path,
            n_ctx,
            n_batch,
            n_seq,
            n_threads,
            pooling,
            wait=self._wait,
            wake=self._wake,
            **options,
        )

    def _wait(self):
        self._woken.wait()
        self._woken.clear()

    def _wake(self):
        self._woken.set()
        for wake in list(self._waiting):
            wake()

    async def until(self, ended):
        """Wait until ended() is true; the end of a computation or a job makes it so."""
        loop, woken = asyncio.get_running_loop(), asyncio.Event()

        def wake():
            loop.call_soon_threadsafe(woken.set)

        self._waiting.append(wake)
        try:
            while not ended():
                await woken.wait()
                woken.clear()
        finally:
            self._waiting.remove(wake)

    def __getattr__(self, name):
        if name == "info":
            raise AttributeError(name)
        value = getattr(self.info, name)
        is_text = isinstance(value, self.ffi.CData)
        return self.ffi.string(value).decode() if is_text else value

    def loaded(self):
        return 1.0

    def sampler(self, params=None, chat=None):
        return super().sampler(_text(params), chat)

    def start_sampler(self, params=None, chat=None, ms=0):
        return super().start_sampler(_text(params), chat, ms)


def _text(params):
    if not isinstance(params, (dict, str)):
        raise TypeError("sampler parameters must be a dict or JSON")
    return params if isinstance(params, str) else json.dumps(params)


async def computed(item):
    """Wait until an Engine's computation or a Job has ended."""
    engine = item if isinstance(item, Engine) else item.engine
    await engine.until(item.ended)


def install():
    """Make this module importable as `_engine`."""
    library()
    sys.modules["_engine"] = sys.modules[__name__]
