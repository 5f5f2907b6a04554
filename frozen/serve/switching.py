"""Changes the model that is served: the next one is brought and loaded while the present one goes
on. If that fails, the present one stays.
"""
# SPDX-License-Identifier: MIT

import asyncio

from .config_keys import Url
from .scheduling.engine import LOADING, NONE, READY
from .scheduling.errors import RequestError, invalid, unavailable

_LOOK_S = 0.02  # between two looks for the end of what runs
URL = Url()
UNLOADED = "the model was unloaded: POST /models/load loads it"


class Switch:
    """service: a Service. error: why the last change failed, or None."""

    def __init__(self, service):
        self._service = service
        self.next = None  # the EngineHost of the model that is on its way
        self.error = None
        self._task = None

    @property
    def busy(self):
        """Whether a model is on its way in or out."""
        return self._task is not None and not self._task.done()

    @property
    def manages(self):
        """Whether no model is served because one is being changed, or was unloaded."""
        host = self._service.host
        return self.busy or (host.state == NONE and host.reason == UNLOADED)

    def load(self, path, alias=None):
        """Begin to serve the model at `path`, a file or a URL with "#sha256=HEX" behind
        it. Return the asyncio task, whose result is the reason if that fails, else None.
        RequestError while another one is on its way.
        """
        self._check()
        self.error = None
        self._task = asyncio.create_task(self._load(path, alias))
        return self._task

    def unload(self):
        """Begin to free the model, after what runs has ended. RequestError as load()."""
        self._check()
        if self._service.host.state != READY:
            raise invalid("the model is not loaded")
        self._task = asyncio.create_task(self._unload())

    def stop(self):
        """End what is under way."""
        if self.busy:
            self._task.cancel()

    def _check(self):
        if self.busy or self._service.host.state == LOADING:
            raise unavailable("a model is being loaded already", headers={"Retry-After": "5"})

    async def _load(self, path, alias):
        service = self._service
        old = service.host
        host = old.another(path, alias)
        self.next = host
        try:
            await host.load()
            if host.lacks_memory and old.state == READY:
                # Not both at once: the old one has to go first, and comes back if need be.
                print("cllm: not enough memory for two models, unloading %s first" % old.alias)
                await service.retire("Loading model")
                await host.load()
                if host.state != READY:
                    await service.start()
            if host.state != READY:
                self.error = host.reason
                if host.path != old.path:
                    service.discard(host.path)
                return host.reason
            await service.adopt(host)
            return None
        finally:
            self.next = None

    async def _unload(self):
        host = self._service.host
        await self._service.retire(UNLOADED)
        host.state = NONE
        host.reason = UNLOADED
        print("cllm: unloaded " + host.alias)


def states(service):
    """Return {alias: llama-server's `status` object} of the models that there are."""
    found = {}
    host = service.host
    for each in (host, service.switch.next):
        if each is None or not each.path:
            continue
        value = {READY: "loaded", LOADING: "loading"}.get(each.state, "unloaded")
        status = {"value": value}
        if value == "loading":
            status["progress"] = each.progress
        if value == "unloaded" and each.reason != UNLOADED:
            status["failed"] = True
            status["error"] = each.reason
        found[each.alias] = status
    return found


async def idle(scheduler, turns):
    """Wait until a scheduler and the Turns of its jobs have nothing to do."""
    while (scheduler and scheduler.busy) or turns.busy:
        await asyncio.sleep(_LOOK_S)


def source_of(body):
    """Return (path, alias) of the model that a request's object names; path is None for the one
    that is served. RequestError for what names none.
    """
    url, file, sha256 = body.get("url"), body.get("file"), body.get("sha256")
    for name in ("url", "file", "sha256", "model"):
        if body.get(name) is not None and not isinstance(body[name], str):
            raise invalid("Field '%s' must be a string" % name)
    if url and file:
        raise invalid("Name the model by 'url' or by 'file', not by both")
    if sha256 and (not url or len(sha256) != 64 or sha256.strip("0123456789abcdefABCDEF")):
        raise invalid("Field 'sha256' must be 64 hexadecimal digits, of the file at 'url'")
    if url:
        if not URL.takes(url):
            raise invalid("Field 'url' must be " + URL.words)
        if url.startswith("https://") and not sha256:
            raise invalid("An https:// URL needs the file's 'sha256': no authority is trusted")
        path = url.split("#")[0]
        return path + ("#sha256=" + sha256 if sha256 else ""), body.get("model")
    if file:
        if "/" in file.strip("/").replace("boot/", "", 1) or file.startswith("."):
            raise invalid("Field 'file' must be the name of a file in /boot, or on a disk")
        return "/boot/" + file.split("/")[-1], body.get("model")
    return None, body.get("model")


def failed(reason):
    """Return the RequestError for a model that was not loaded; the old one is served."""
    return RequestError(422, "invalid_request_error", reason)
