"""Puts the server together from the machine's settings and runs it."""
# SPDX-License-Identifier: MIT

import asyncio
import sys

from httpd import Server
from httpd.router import print_exception

from .apis import anthropic, embeddings, info, native_api, openai, page, responses
from .scheduling.engine import EngineHost
from .service import service
from .settings import BOOT

# Both IPs. CPython's asyncio makes "::" mean IPv6 alone.
_ANY = "::" if sys.implementation.name == "micropython" else "0.0.0.0"


def install(service, access):
    """Add all routes and hooks to the service's application."""
    access.install(service.app)
    for part in (openai, native_api, embeddings, responses, anthropic, info, page):
        part.install(service)


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


async def drain(server, asked, seconds):
    """Wait for asked(), then for the requests that still run, for `seconds` at most."""
    await asked()
    print("cllm: asked to end, for what still runs there are %d s" % seconds)
    await server.drain(seconds)


async def serve(settings, ended=None, make=None, asked=None):
    """Serve until cancelled, or drained.

    settings: Settings. ended: for the Scheduler. make: constructs the engine in place of
    _engine.Engine. asked: coroutine function; asked() returns when the machine is to end. Raise
    OSError if the port cannot be had.

    With a mistake in the configuration, nothing of it but the network counts: keys or limits may
    be missing, so no model is loaded and no user code runs. All that asks for the model gets a 503
    with the reason, as /health does.
    """
    host = EngineHost(settings.path, settings.alias, settings.options, draft=settings.draft)
    host.ended = ended
    if make is not None:
        host.make = make
    service.configure(host, settings.bounds)
    install(service, settings.access)
    if settings.mistake:
        host.fail("wrong configuration: " + settings.mistake)
    else:
        run_user_code()
    server = Server(service.app, _ANY, settings.port, settings.limits)
    await server.start()
    print("cllm: listening on port %d" % settings.port)
    starts = None
    if not settings.mistake:
        starts = asyncio.create_task(service.start())
    try:
        if asked is None:
            if starts:
                await starts
            while True:
                await asyncio.sleep(3600)
        await drain(server, asked, settings.drain_s)
    finally:
        if starts:
            starts.cancel()
        service.stop()
        await server.close()
