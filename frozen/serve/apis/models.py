"""Which model is served: load another one, unload it, and watch that happen."""
# SPDX-License-Identifier: MIT

import asyncio

from httpd import Stream
from httpd.jsonio import dumps

from ..scheduling.errors import invalid
from ..switching import failed, source_of, states
from .openai import object_of

_LOOK_S = 0.2  # between two looks for a change to tell
_SILENCE = 100  # looks without news until a sign of life


async def _events(service):
    # One event for each change of a model's status, beginning with what is.
    sent = {}
    silent = 0
    while True:
        now = states(service)
        for name in now:
            if sent.get(name) != now[name]:
                silent = 0
                data = {"model": name, "event": "status_change", "data": {"status": now[name]}}
                yield "data: " + dumps(data) + "\n\n"
        for name in sent:
            if name not in now:
                data = {"model": name, "event": "model_remove"}
                yield "data: " + dumps(data) + "\n\n"
        sent = now
        silent += 1
        if silent >= _SILENCE:
            silent = 0
            yield ":\n\n"
        await asyncio.sleep(_LOOK_S)


def install(service):
    """Add the routes to the service's application."""
    api = service.api

    @api.post(
        "/models/load",
        takes="ModelSource",
        gives="Success",
        codes=(422,),
        says="Load the model anew, or another one",
    )
    async def load(request):
        # llama-server's route, which names one of its models. url, file, sha256 and wait are ours.
        body = object_of(request) if request.body else {}
        path, name = source_of(body)
        if path is None:
            if name is not None and name != service.host.alias:
                raise invalid("there is no model '%s'" % name)
            service.reload()
            return {"success": True}
        task = service.switch.load(path, name)
        if body.get("wait"):
            reason = await task
            if reason:
                raise failed(reason)
        return {"success": True}

    @api.post("/models/unload", takes="ModelName", gives="Success", says="Free the model")
    def unload(request):
        body = object_of(request) if request.body else {}
        name = body.get("model")
        if name is not None and name != service.host.alias:
            raise invalid("there is no model '%s'" % name)
        service.switch.unload()
        return {"success": True}

    @api.get("/models/sse", gives="text/event-stream", says="An event for each model's change")
    def watch(request):
        return Stream(_events(service), "text/event-stream", headers={"Cache-Control": "no-cache"})
