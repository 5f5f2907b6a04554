"""Saved prefixes and LoRA adapters: llama-server's routes. Prefixes are kept in /flash/slots where
the machine has such a file system, otherwise in memory until it ends.
"""
# SPDX-License-Identifier: MIT

import os
import struct
import time

from httpd import HttpError
from httpd.jsonio import dumps, loads

from ..scheduling import slots
from ..scheduling.errors import RequestError, invalid
from .openai import object_of
from .params import adapters_of, typed

_FLASH = "/flash"
_FOLDER = _FLASH + "/slots/"
_MAGIC = b"cllm slot 1\n"
_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_."


class _Memory:
    # Files by name.
    def __init__(self):
        self._files = {}

    def sizes(self):
        return {name: len(data) for name, data in self._files.items()}

    def write(self, name, data):
        self._files[name] = data

    def read(self, name):
        return self._files.get(name)


class _Flash:
    # Files in a folder of the machine's own disk.
    def __init__(self):
        try:
            os.mkdir(_FOLDER[:-1])
        except OSError:
            pass  # it is there

    def sizes(self):
        return {name: os.stat(_FOLDER + name)[6] for name in os.listdir(_FOLDER[:-1])}

    def write(self, name, data):
        # Under another name until it is whole: the machine may lose power.
        with open(_FOLDER + "new~", "wb") as f:
            f.write(data)
        os.rename(_FOLDER + "new~", _FOLDER + name)

    def read(self, name):
        try:
            with open(_FOLDER + name, "rb") as f:
                return f.read()
        except OSError:
            return None


class Saved:
    """Saved prefixes by file name, of at most `most` bytes together."""

    def __init__(self, most=0):
        self.most = most
        try:
            os.stat(_FLASH)
        except OSError:
            self._files = _Memory()
        else:
            self._files = _Flash()

    def put(self, name, data):
        """Save a file in place of one of the same name. RequestError: there is no room."""
        sizes = self._files.sizes()
        sizes[name] = len(data)
        if sum(sizes.values()) > self.most:
            raise invalid(
                "no room for %d bytes: saved prefixes may have %d in all (limits.saved)"
                % (len(data), self.most)
            )
        try:
            self._files.write(name, data)
        except OSError as exc:
            raise RequestError(500, "server_error", "cannot write %s: %s" % (name, exc))

    def get(self, name):
        """Return the bytes of a file; HttpError 404 if there is none."""
        data = self._files.read(name)
        if data is None:
            raise HttpError(404, "there is no saved prefix '%s'" % name)
        return data


def packed(host, salt, tokens, state):
    """Return the bytes of a file: magic, a line of JSON, the tokens, the engine's state."""
    about = {"model": _model(host), "salt": salt, "tokens": len(tokens)}
    return (
        _MAGIC + dumps(about).encode() + b"\n" + struct.pack("<%di" % len(tokens), *tokens) + state
    )


def unpacked(host, data):
    """Return (salt, tokens, state). RequestError: it is no such file, or another model's."""
    try:
        if data[: len(_MAGIC)] != _MAGIC:
            raise ValueError
        start = data.index(b"\n", len(_MAGIC)) + 1
        about = loads(data[len(_MAGIC) : start])
        n = about["tokens"]
        tokens = list(struct.unpack("<%di" % n, data[start : start + 4 * n]))
        salt = about["salt"]
        model = about["model"]
    except (ValueError, KeyError, TypeError):
        raise invalid("the file is damaged")
    if model != _model(host):
        raise invalid("the file was saved with another model")
    return salt, tokens, memoryview(data)[start + 4 * n :]


def _model(host):
    engine = host.engine
    return [host.alias, engine.desc, engine.size, engine.n_vocab, engine.n_embd]


def install(service):
    """Add the routes to the service's application."""
    api = service.api

    def named(request):
        name = typed(object_of(request), "filename", "string") or ""
        if not 0 < len(name) <= 64 or name[0] == "." or name.strip(_LETTERS):
            raise invalid("Invalid filename")
        return name

    async def save(request, slot):
        name = named(request)
        began = time.ticks_us()
        salt, tokens, state = await slots.save(service.scheduler, slot)
        data = packed(service.host, salt, tokens, state)
        service.saved.put(name, data)
        ms = (time.ticks_us() - began) / 1000
        return {
            "id_slot": slot,
            "filename": name,
            "n_saved": len(tokens),
            "n_written": len(data),
            "timings": {"save_ms": ms},
        }

    async def restore(request, slot):
        name = named(request)
        began = time.ticks_us()
        data = service.saved.get(name)
        salt, tokens, state = unpacked(service.host, data)
        await slots.restore(service.scheduler, slot, salt, tokens, state)
        ms = (time.ticks_us() - began) / 1000
        return {
            "id_slot": slot,
            "filename": name,
            "n_restored": len(tokens),
            "n_read": len(data),
            "timings": {"restore_ms": ms},
        }

    actions = {"action": {"type": "string", "enum": ["save", "restore", "erase"]}}

    @api.post(
        "/slots/<int:slot>", takes="SlotFile", gives="Object", query=actions, codes=(404,),
        says="Save what a slot has of its last prompt, restore or erase it",
    )  # fmt: skip
    async def act(request, slot):
        if not service.generator().divisible:
            raise RequestError(
                501, "not_supported_error", "this model's sequences cannot be saved"
            )
        if not 0 <= slot < service.bounds.slots:
            raise invalid("Invalid slot ID")
        action = request.query.get("action")
        if action == "save":
            return await save(request, slot)
        if action == "restore":
            return await restore(request, slot)
        if action == "erase":
            return {"id_slot": slot, "n_erased": await slots.erase(service.scheduler, slot)}
        raise invalid("Invalid action")

    @api.get("/lora-adapters", gives="Array", says="The model's LoRA adapters")
    def adapters(request):
        service.engine()
        return service.host.lora

    @api.post("/lora-adapters", takes="Adapters", gives="Success", says="Set their scales")
    def set_adapters(request):
        service.engine()
        wanted = adapters_of(request.json(), "lora")
        if wanted is None:
            raise invalid("Request body must be an array")
        service.host.scales(wanted)
        scales = dict(wanted)
        for adapter in service.host.lora:
            adapter["scale"] = scales.get(adapter["id"], 0.0)
        return {"success": True}

    @api.post(
        "/v1/chat/completions/control", "/chat/completions/control", takes="Control", gives="Object",
        says="End the thought of a chat with reasoning_control",
    )  # fmt: skip
    def control(request):
        body = object_of(request)
        name = typed(body, "id", "string")
        if not name:
            raise invalid("missing completion id")
        if body.get("action") != "reasoning_end":
            raise invalid("unknown control action")
        service.generator()
        found = [s for s in service.scheduler.running if s.name == name]
        if not found:
            return {"success": False, "message": "no active completion for this id"}
        if not found[0].controlled:
            words = "reasoning control not enabled for this completion"
            return {"success": False, "message": words}
        for sequence in found:
            sequence.ends_thought = True
        return {"success": True}
