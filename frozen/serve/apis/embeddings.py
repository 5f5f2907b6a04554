"""Embeddings: OpenAI's route and llama-server's own."""
# SPDX-License-Identifier: MIT

import binascii
import struct

from ..scheduling.errors import invalid
from .openai import object_of
from .params import integer, prompts_of, typed


def _inputs(body):
    # Returns (list of prompts, whether the answer has llama-server's own shape).
    if body.get("input") is not None:
        return prompts_of(body["input"], "input"), False
    if body.get("content") is not None:
        return prompts_of(body["content"], "content"), True
    raise invalid('"input" or "content" must be provided')


def _normalized(vector, how):
    # As llama.cpp's common_embd_normalize(), for a part of a vector.
    if how < 0:
        return vector
    if how == 0:
        # By the largest magnitude, to the range of 16-bit integers.
        size = max([abs(x) for x in vector]) / 32760
    else:
        size = sum([abs(x) ** how for x in vector]) ** (1 / how)
    return [x / size for x in vector] if size > 0 else vector


def _base64(vector):
    data = struct.pack("<%df" % len(vector), *vector)
    return binascii.b2a_base64(data).decode().strip()


def install(service):
    """Add the routes to the service's application."""
    app = service.app

    async def vectors(request, body, prompts):
        normalize = integer(body, "embd_normalize", -1, 32)
        normalize = 2 if normalize is None else normalize
        size = integer(body, "dimensions", 1, service.engine().n_embd)
        work = service.prepare(request)
        all_tokens = []
        for prompt in prompts:
            all_tokens.append(await service.tokens(prompt, preparation=work))
        found = []
        for tokens in all_tokens:
            vector = await service.embed(tokens, normalize if size is None else -1, request)
            found.append(vector if size is None else _normalized(vector[:size], normalize))
        return found, sum([len(tokens) for tokens in all_tokens])

    @app.post("/v1/embeddings")
    async def openai_embeddings(request):
        body = object_of(request)
        service.engine()
        prompts, native = _inputs(body)
        coding = typed(body, "encoding_format", "string") or "float"
        if coding not in ("float", "base64"):
            raise invalid("The format to return the embeddings in. Can be either float or base64")
        found, n = await vectors(request, body, prompts)
        if native:
            return _native(found)
        data = []
        for i in range(len(found)):
            item = {"embedding": found[i], "index": i, "object": "embedding"}
            if coding == "base64":
                item["embedding"] = _base64(found[i])
                item["encoding_format"] = coding
            data.append(item)
        model = typed(body, "model", "string") or service.host.alias
        usage = {"prompt_tokens": n, "total_tokens": n}
        return {"model": model, "object": "list", "usage": usage, "data": data}

    @app.post("/embedding")
    @app.post("/embeddings")
    async def native_embeddings(request):
        body = object_of(request)
        service.engine()
        found, _ = await vectors(request, body, _inputs(body)[0])
        return _native(found)


def _native(found):
    return [{"index": i, "embedding": found[i]} for i in range(len(found))]
