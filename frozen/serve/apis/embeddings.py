"""Embeddings: OpenAI's route and llama-server's own."""
# SPDX-License-Identifier: MIT

import binascii
import struct

from ..scheduling.errors import invalid
from .openai import object_of
from .params import integer, prompts_of, typed


NONE = 4  # engine.h's ENGINE_POOLING_NONE
_MOST_APART = 512  # tokens of a text whose vectors are not pooled


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


async def vectors_of(service, request, body, prompts):
    """Return (the embeddings of `prompts`, the number of their tokens), with the `embd_normalize`
    and `dimensions` of the request's JSON object `body`.
    """
    normalize = integer(body, "embd_normalize", -1, 32)
    normalize = 2 if normalize is None else normalize
    size = integer(body, "dimensions", 1, service.engine().n_embd)
    work = service.prepare(request)
    all_tokens = []
    for prompt in prompts:
        all_tokens.append(await service.tokens(prompt, preparation=work))
    found = []
    for tokens in all_tokens:
        if service.engine().pooling == NONE and len(tokens) > _MOST_APART:
            raise invalid("At most %d tokens without pooling" % _MOST_APART)
        vector = await service.embed(tokens, normalize if size is None else -1, request)
        if service.engine().pooling == NONE:
            width = service.engine().n_embd
            vector = [vector[i : i + width] for i in range(0, len(vector), width)]
        elif size is not None:
            vector = _normalized(vector[:size], normalize)
        found.append(vector)
    return found, sum([len(tokens) for tokens in all_tokens])


def install(service):
    """Add the routes to the service's application."""
    api = service.api

    @api.post("/v1/embeddings", takes="Embeddings", gives="EmbeddingList", says="Embeddings")
    async def openai_embeddings(request):
        body = object_of(request)
        service.engine()
        prompts, native = _inputs(body)
        if service.engine().pooling == NONE and not native:
            raise invalid(
                "Pooling type 'none' is not OAI compatible. Please use a different pooling type"
            )
        coding = typed(body, "encoding_format", "string") or "float"
        if coding not in ("float", "base64"):
            raise invalid("The format to return the embeddings in. Can be either float or base64")
        found, n = await vectors_of(service, request, body, prompts)
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

    @api.post(
        "/embedding", "/embeddings", takes="Embeddings", gives="Array", says="Embeddings, plain"
    )
    async def native_embeddings(request):
        body = object_of(request)
        service.engine()
        found, _ = await vectors_of(service, request, body, _inputs(body)[0])
        return _native(found)


def _native(found):
    return [{"index": i, "embedding": found[i]} for i in range(len(found))]
