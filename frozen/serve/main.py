# Puts the server together from the machine's configuration and runs it.
# MIT license; Copyright (c) 2026 cllm contributors

import asyncio

from httpd import Limits, Server, jsonio
from httpd.router import print_exception

from . import openai
from .engine import EngineHost
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


def _count(section, name, default, most):
    value = section.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise ConfigError("'%s' must be a number from 1 to %d" % (name, most))
    return value


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


class Settings:
    """The part of the configuration that concerns serving, checked; ConfigError names the key.

    port; limits: httpd.Limits; max_queue; path, alias, options: of the model, for EngineHost.
    """

    def __init__(self, config):
        self.port = _count(config, "port", 80, 65535)
        limits = dict(_section(config, "limits"))
        self.max_queue = _count(limits, "queue", 64, 4096)
        limits.pop("queue", None)
        try:
            self.limits = Limits(**limits)
        except ValueError as exc:
            raise ConfigError("'limits': %s" % exc)
        model = _section(config, "model")
        file = model.get("file") or "model.gguf"
        alias = model.get("alias")
        if not isinstance(file, str) or not (alias is None or isinstance(alias, str)):
            raise ConfigError("'model': 'file' and 'alias' must be strings")
        self.path = file if file.startswith("/") else _BOOT + file
        self.alias = alias
        self.options = {
            "n_ctx": _count(model, "n_ctx", 2048, 1 << 20),
            "n_batch": _count(model, "n_batch", 64, 4096),
            "n_seq": _count(model, "slots", 4, 256),
            "n_threads": _count(model, "threads", 1, 256),
        }
        if self.options["n_seq"] > self.options["n_batch"]:
            raise ConfigError("'slots' must not be more than 'n_batch'")


def run_user_code(path=_BOOT + "app.py"):
    """Runs the user's handlers, if any. An error in them is printed and the server goes on."""
    try:
        with open(path) as f:
            source = f.read()
    except OSError:
        return
    print("cllm: running %s" % path)
    try:
        exec(compile(source, path, "exec"), {"__name__": "app", "__file__": path})
    except Exception as exc:
        print("cllm: error in %s, the server goes on without the rest of it:" % path)
        print_exception(exc)


async def serve(config, poll=None, make=None):
    """Serves until cancelled.

    config: dict as read_config() gives. poll: called during a decode, see _engine. make:
    constructs the engine in place of _engine.Engine. Raises ConfigError, or OSError if the port
    cannot be had.
    """
    settings = Settings(config)
    if poll is not None:
        settings.options["poll"] = poll
    host = EngineHost(settings.path, settings.alias, settings.options)
    if make is not None:
        host.make = make
    service.configure(host, settings.max_queue)
    openai.install(service)
    run_user_code()
    server = Server(service.app, "0.0.0.0", settings.port, settings.limits)
    await server.start()
    print("cllm: listening on port %d" % settings.port)
    try:
        # Loading blocks. What connects before is told so; the rest is answered afterwards.
        await asyncio.sleep(0)
        service.start()
        while True:
            await asyncio.sleep(3600)
    finally:
        service.stop()
        await server.close()
