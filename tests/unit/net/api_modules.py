"""Frozen modules that need help on CPython: names that it has, too, and upstream's asyncio."""

import sys

MICROPYTHON = sys.implementation.name == "micropython"

if not MICROPYTHON:
    import importlib.util
    import os
    import types
    from pathlib import Path

    TOP = Path(__file__).resolve().parents[3]
    UPSTREAM = Path(os.environ.get("MICROPYTHON_SRC") or TOP / "micropython" / "src")


def load(name):
    """Import a module of frozen/lib."""
    if MICROPYTHON:
        return __import__(name)  # frozen/lib is on the path there
    return _execute("cllm_" + name, TOP / "frozen" / "lib" / (name + ".py"))


def _execute(name, path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def load_aio():
    """Import net.aio and the core of upstream's asyncio under it: (net.aio, asyncio.core).

    (None, None) on CPython where upstream's sources are not there.
    """
    if MICROPYTHON:
        from asyncio import core

        from net import aio

        return aio, core
    folder = UPSTREAM / "extmod" / "asyncio"
    if not folder.exists():
        return None, None
    package = types.ModuleType("upstream_asyncio")
    package.__path__ = [str(folder)]
    sys.modules[package.__name__] = package
    core = importlib.import_module("upstream_asyncio.core")
    package.core = core
    ours = sys.modules.get("asyncio")
    sys.modules["asyncio"] = package
    try:
        aio = _execute("cllm_aio", TOP / "frozen" / "net" / "aio.py")
    finally:
        if ours is None:
            del sys.modules["asyncio"]
        else:
            sys.modules["asyncio"] = ours
    # CPython's takes no streams in Python.
    core.select = types.SimpleNamespace(poll=Poll, POLLIN=1, POLLOUT=4)
    return aio, core


class Poll:
    """MicroPython's select.poll() for streams in Python: their ioctl() is asked."""

    def __init__(self):
        self._streams = {}

    def register(self, stream, events):
        self._streams[id(stream)] = [stream, events]

    def modify(self, stream, events):
        self._streams[id(stream)][1] = events

    def unregister(self, stream):
        del self._streams[id(stream)]

    def ipoll(self, timeout):
        assert timeout == 0
        # A dictionary that changes meanwhile raises RuntimeError.
        ready = [(s, s.ioctl(3, events)) for s, events in self._streams.values()]
        return [(s, events) for s, events in ready if events]
