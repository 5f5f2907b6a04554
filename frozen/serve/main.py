# Puts the server together from the machine's configuration and runs it.
# MIT license; Copyright (c) 2026 cllm contributors

import asyncio

import _x86
from httpd import Limits, Server, jsonio
from httpd.router import print_exception

from .apis import anthropic, embeddings, info, native_api, openai, page, responses
from .apis.access import Access
from .scheduling.engine import EngineHost
from .scheduling.scheduler import Bounds
from .service import service

_BOOT = "/boot/"


class ConfigError(Exception):
    """The configuration does not make sense; the message says where."""


def _section(config, name):
    section = config.get(name)
    if section is None:
        return {}
    if not isinstance(section, dict):
        raise ConfigError("'%s' must be an object" % name)
    return section


def _count(section, name, default, most, least=1):
    value = section.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ConfigError("'%s' must be a number from %d to %d" % (name, least, most))
    return value


def _flag(section, name, default):
    value = section.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise ConfigError("'%s' must be true or false" % name)
    return value


def _file(section, name, default=None):
    file = section.get(name) or default
    if file is None:
        return None
    if not isinstance(file, str):
        raise ConfigError("'%s' must be a string" % name)
    return file if file.startswith("/") else _BOOT + file


def read_config(path=_BOOT + "config.json"):
    """The configuration as a dict, {} without a file. Raises ConfigError if it is not JSON."""
    try:
        with open(path, "rb") as f:
            data = f.read()
    except OSError:
        return {}
    try:
        config = jsonio.loads(data)
    except ValueError as exc:
        raise ConfigError("%s: %s" % (path, exc))
    if not isinstance(config, dict):
        raise ConfigError("%s: must hold an object" % path)
    return config


# How embeddings are pooled: engine.h's ENGINE_POOLING_*.
_POOLING = {"model": 0, "mean": 1, "cls": 2, "last": 3}

# Whose matrix products: engine.h's ENGINE_KERNELS_*.
_KERNELS = {"auto": 0, "ggml": 1, "tcg": 2, "exact": 3}


class Settings:
    """The part of the configuration that concerns serving, checked; ConfigError names the key.

    port; limits: httpd.Limits; bounds: scheduler.Bounds; drain_s: seconds for what runs when the
    machine is to end; access: Access; path, alias, options: of the model, for EngineHost; draft:
    path of a small model, or None.
    """

    def __init__(self, config):
        self.port = _count(config, "port", 80, 65535)
        limits = dict(_section(config, "limits"))
        model = _section(config, "model")
        self.bounds = self._bounds(limits, model)
        self.drain_s = _count(limits, "drain_s", 30, 86400, 0)
        limits.pop("drain_s", None)
        try:
            self.limits = Limits(**limits)
        except ValueError as exc:
            raise ConfigError("'limits': %s" % exc)
        self.access = self._access(config)
        self.alias = model.get("alias")
        if not (self.alias is None or isinstance(self.alias, str)):
            raise ConfigError("'alias' must be a string")
        self.path = _file(model, "file", "model.gguf")
        self.draft = _file(model, "draft")
        pooling = model.get("pooling") or "model"
        if pooling not in _POOLING:
            raise ConfigError("'pooling' must be one of %s" % ", ".join(sorted(_POOLING)))
        kernels = model.get("kernels") or "auto"
        if kernels not in _KERNELS:
            raise ConfigError("'kernels' must be one of %s" % ", ".join(sorted(_KERNELS)))
        slots = self.bounds.slots
        self.options = {
            "n_ctx": _count(model, "n_ctx", 2048, 1 << 20),
            "n_batch": _count(model, "n_batch", 64, 4096),
            # As many again for the prefixes of requests that have ended.
            "n_seq": min(256, slots + max(4, slots)),
            "n_threads": _count(model, "threads", _x86.cpu_count(), 256),
            "sample_ms": self.bounds.sample_ms,
            "job_ms": self.bounds.job_ms,
            "pooling": _POOLING[pooling],
            "kernels": _KERNELS[kernels],
        }
        if model.get("cpu_variant"):
            self.options["cpu"] = model["cpu_variant"]
            if not isinstance(self.options["cpu"], str):
                raise ConfigError("'cpu_variant' must be a string")
        if self.options["n_batch"] < self.options["n_seq"]:
            raise ConfigError(
                "'n_batch' must be at least %d for %d slots" % (self.options["n_seq"], slots)
            )

    def _bounds(self, limits, model):
        bounds = Bounds(
            slots=_count(model, "slots", 4, 252),
            queue=_count(limits, "queue", 64, 4096),
            per_client=_count(limits, "per_client", 0, 4096, 0),
            queue_s=_count(limits, "queue_s", 0, 86400, 0),
            request_s=_count(limits, "request_s", 0, 86400, 0),
            step_ms=_count(limits, "step_ms", 500, 60000),
            sample_ms=_count(limits, "sample_ms", 1000, 60000),
            job_ms=_count(limits, "job_ms", 1000, 60000),
            speculate=_flag(model, "speculate", True),
        )
        for name in ("queue", "per_client", "queue_s", "request_s", "step_ms", "sample_ms",
                     "job_ms"):
            limits.pop(name, None)
        return bounds

    def _access(self, config):
        keys = config.get("keys") or []
        if not isinstance(keys, list) or not all([isinstance(k, str) and k for k in keys]):
            raise ConfigError("'keys' must be an array of strings that are not empty")
        origin = config.get("cors")
        if origin is None:
            origin = "*"
        if not isinstance(origin, str):
            raise ConfigError("'cors' must be a string")
        return Access(keys, origin, _flag(config, "access_log", False))


def install(service, access):
    """Adds all routes and hooks to the service's application."""
    access.install(service.app)
    for part in (openai, native_api, embeddings, responses, anthropic, info, page):
        part.install(service)


def run_user_code(path=_BOOT + "app.py"):
    """Runs the user's handlers, if any. An error in them is printed and the server goes on."""
    try:
        f = open(path)
    except OSError:
        return
    print("cllm: running %s" % path)
    try:
        with f:
            source = f.read()  # UnicodeError if it is not UTF-8
        exec(compile(source, path, "exec"), {"__name__": "app", "__file__": path})
    except Exception as exc:
        print("cllm: error in %s, the server goes on without the rest of it:" % path)
        print_exception(exc)


async def drain(server, asked, seconds):
    """Returns when asked() has and then nothing runs any more, or for `seconds` at most."""
    await asked()
    print("cllm: asked to end, for what still runs there are %d s" % seconds)
    await server.drain(seconds)


async def serve(config, ended=None, make=None, asked=None):
    """Serves until cancelled, or drained.

    config: dict as read_config() gives. ended: for the Scheduler. make: constructs the engine in
    place of _engine.Engine. asked: coroutine function; asked() returns when the machine is to end.
    Raises ConfigError, or OSError if the port cannot be had.
    """
    settings = Settings(config)
    host = EngineHost(settings.path, settings.alias, settings.options, draft=settings.draft)
    host.ended = ended
    if make is not None:
        host.make = make
    service.configure(host, settings.bounds)
    install(service, settings.access)
    run_user_code()
    server = Server(service.app, "0.0.0.0", settings.port, settings.limits)
    await server.start()
    print("cllm: listening on port %d" % settings.port)
    starts = asyncio.create_task(service.start())
    try:
        if asked is None:
            await starts
            while True:
                await asyncio.sleep(3600)
        await drain(server, asked, settings.drain_s)
    finally:
        starts.cancel()
        service.stop()
        await server.close()
