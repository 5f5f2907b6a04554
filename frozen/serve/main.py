"""Puts the server together from the machine's settings and runs it."""
# SPDX-License-Identifier: MIT

import asyncio
import os
import sys

from httpd import Server
from httpd.router import print_exception

from .apis import (
    anthropic,
    embeddings,
    info,
    models,
    native_api,
    ollama,
    openai,
    openapi,
    page,
    predict,
    rerank,
    responses,
    saved,
    streams,
)
from .scheduling.engine import EngineHost
from .secure import Redirect
from .service import service
from .settings import BOOT, FLASH, VOLUME

# Both IPs. CPython's asyncio makes "::" mean IPv6 alone.
_ANY = "::" if sys.implementation.name == "micropython" else "0.0.0.0"


def install(service, access):
    """Add all routes and hooks to the service's application."""
    access.install(service.app)
    for part in (
        openai, native_api, embeddings, rerank, responses, anthropic, ollama, info, models, saved,
        streams, page, predict, openapi,
    ):  # fmt: skip
        part.install(service)


def _names(folder):
    try:
        names = os.listdir(folder)
    except OSError:
        return []
    # macOS leaves "._NAME" beside each file that it copies.
    return [name for name in names if name.endswith(".py") and name[0] != "."]


def user_code():
    """Return the paths of the user's handlers: app.py, then the others of the FAT volume by name. A
    boot module, which the loader may have read from that volume, stands for the file of its name,
    and /flash/app.py for both.
    """
    found = {}
    for folder in (VOLUME + "apps", BOOT):
        for name in _names(folder):
            found[name] = folder.rstrip("/") + "/" + name
    if "app.py" in _names(FLASH):
        found["app.py"] = FLASH + "app.py"
    return [found[name] for name in sorted(found, key=lambda name: (name != "app.py", name))]


def run_user_code(path=BOOT + "app.py"):
    """Run the user's handlers, if any. An error in them is printed and the server goes on."""
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


async def drain(servers, asked, seconds):
    """Wait for asked(), then for the requests that still run, for `seconds` at most."""
    await asked()
    print("cllm: asked to end, for what still runs there are %d s" % seconds)
    await asyncio.gather(*[server.drain(seconds) for server in servers])


def make_servers(app, settings):
    """Return the Servers for an App, not listening yet: a plain one, one with TLS, or both."""
    tls = settings.tls
    servers = []
    if tls is None or tls.plain != "off":
        plain = app if tls is None or tls.plain == "serve" else Redirect(app, tls.port)
        for port in settings.ports:
            servers.append(Server(plain, _ANY, port, settings.limits))
    if tls is not None:
        limits = settings.limits
        servers.append(Server(app, _ANY, tls.port, limits, ssl=tls.context))
    return servers


async def serve(settings, ended=None, make=None, asked=None, find=None):
    """Serve until cancelled, or drained.

    settings: Settings. ended: for the Scheduler. make: constructs the engine in place of
    _engine.Engine. asked: coroutine function; asked() returns when the machine is to end. find:
    for the EngineHost. Raise OSError if the port cannot be had.

    With a mistake in the configuration, nothing of it but the network counts: keys or limits may
    be missing, so no model is loaded and no user code runs. All that asks for the model gets a 503
    with the reason, as /health does.
    """
    host = EngineHost(
        settings.path,
        settings.alias,
        settings.options,
        draft=settings.draft,
        tags=settings.tags,
        lora=settings.lora,
    )
    host.ended = ended
    host.find = find
    if make is not None:
        host.make = make
    service.configure(host, settings.bounds, settings.hidden)
    install(service, settings.access)
    if settings.mistake:
        host.fail("wrong configuration: " + settings.mistake)
    else:
        for path in user_code():
            run_user_code(path)
    servers = make_servers(service.app, settings)
    for server in servers:
        await server.start()
        secure = " (TLS)" if server.ssl else ""
        print("cllm: listening on port %d%s" % (server.port, secure))
    starts = None
    if not settings.mistake:
        starts = asyncio.create_task(service.start())
    try:
        if asked is None:
            if starts:
                await starts
            while True:
                await asyncio.sleep(3600)
        await drain(servers, asked, settings.drain_s)
    finally:
        if starts:
            starts.cancel()
        service.stop()
        for server in servers:
            await server.close()
