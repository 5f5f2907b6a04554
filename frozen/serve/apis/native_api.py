"""llama-server's own routes: completion, infill, tokens, templates."""
# SPDX-License-Identifier: MIT

import asyncio

from httpd.jsonio import dumps, integers

from ..scheduling.detok import Utf8, text_of
from ..scheduling.errors import RequestError, invalid
from .native_shape import Completion
from .openai import object_of
from .params import Params, prompts_of, tokens_of, typed
from .sse import Writer, stream

_SLICE = 1024  # tokens that become text between two turns of the event loop
_MOST_BYTES = 1024  # of a token that `with_pieces` shows


class NativeWriter(Writer):
    """Events of a native completion; there is no [DONE]."""

    def __init__(self, completion):
        self.completion = completion

    def progress(self, reply, progress):
        return "data: " + dumps(self.completion.progress(reply, progress)) + "\n\n"

    def piece(self, reply, piece):
        return "data: " + dumps(self.completion.part(reply, piece)) + "\n\n"

    def end(self, reply, piece):
        return "data: " + dumps(self.completion.whole(reply)) + "\n\n"


async def infill_tokens(service, body, request):
    """Return the prompt that fills in the middle, in llama-server's layout (Qwen's pattern for
    repositories, arXiv 2409.12186): [extra files] prefix, suffix, then the start of the middle.
    """
    engine = service.generator()
    work = service.prepare(request)
    prefix = await service.tokenize(_text(body, "input_prefix", True), False, False, work)
    suffix = await service.tokenize(_text(body, "input_suffix", True), False, False, work)
    prompt = await service.tokenize(_text(body, "prompt", False), False, True, work)
    extra = await _extra_tokens(service, body, work)
    # Three quarters of a batch go to the prefix, one to the suffix. llama-server's batch is 2048;
    # here the context bounds it.
    size = min(2048, engine.n_ctx // 2)
    prefix = prefix[max(0, len(prefix) - 3 * (size // 4)) :]
    suffix = suffix[: max(0, size // 4 - 2 - len(prompt))]
    room = max(0, engine.n_ctx - size - 2 * max(0, _predicted(body)))
    extra = extra[max(0, len(extra) - room) :]
    tokens = extra
    if engine.add_bos:
        tokens = tokens + [engine.bos]
    tokens = tokens + [engine.fim_pre] + prefix + prompt
    return tokens + [engine.fim_suf] + suffix + [engine.fim_mid]


def _predicted(body):
    n = body.get("n_predict")
    return n if isinstance(n, int) and not isinstance(n, bool) else 0


def _text(body, name, required):
    value = typed(body, name, "string")
    if value is None:
        if required:
            raise invalid('"%s" is required' % name)
        return ""
    return value


async def _extra_tokens(service, body, work):
    engine = service.host.engine
    chunks = typed(body, "input_extra", "array") or []
    tokens = []
    if engine.fim_rep >= 0:
        tokens = [engine.fim_rep] + await service.tokenize("myproject\n", False, False, work)
    for chunk in chunks:
        text = chunk.get("text") if isinstance(chunk, dict) else None
        if not isinstance(text, str):
            raise invalid('extra_context chunk must contain a "text" field with a string value')
        name = typed(chunk, "filename", "string") or "tmp"
        if engine.fim_sep >= 0:
            tokens += [engine.fim_sep] + await service.tokenize(name + "\n", False, False, work)
        else:
            tokens += await service.tokenize("\n\n--- snippet ---\n\n", False, False, work)
        tokens += await service.tokenize(text, False, False, work)
    if engine.fim_sep >= 0:
        tokens += [engine.fim_sep] + await service.tokenize("filename\n", False, False, work)
    return tokens


def install(service):
    """Add the routes to the service's application."""
    api = service.api

    async def complete(request, body, params, prompts):
        replies = await service.generate(prompts, params, request)
        ends = await service.ends() if params.sampling.get("ignore_eos") else ()
        completion = Completion(service, params, body, prompts, ends)
        if params.stream:
            return stream(replies, NativeWriter(completion), service, request)
        await replies.collect()
        objects = []
        for reply in replies.replies:
            objects.append(await completion.answer(reply))
        return objects[0] if len(objects) == 1 else objects

    @api.post(
        "/completion", "/completions", takes="Completion", gives="Any", events=True,
        says="Complete a prompt, in llama-server's shape",
    )  # fmt: skip
    async def completion(request):
        body = object_of(request)
        service.generator()
        params = Params(body, service.bounds.slots)
        return await complete(request, body, params, prompts_of(body.get("prompt")))

    @api.post(
        "/infill",
        takes="Infill",
        gives="Any",
        events=True,
        codes=(501,),
        says="Fill in the middle",
    )
    async def infill(request):
        body = object_of(request)
        engine = service.generator()
        missing = [
            "%s token is missing. " % name
            for name, token in (
                ("prefix", engine.fim_pre), ("suffix", engine.fim_suf), ("middle", engine.fim_mid)
            )
            if token < 0
        ]  # fmt: skip
        if missing:
            message = "Infill is not supported by this model: " + "".join(missing)
            raise RequestError(501, "not_supported_error", message)
        params = Params(body, service.bounds.slots)
        return await complete(request, body, params, [await infill_tokens(service, body, request)])

    @api.post("/tokenize", takes="Tokenize", gives="Tokens", says="Tokens of a text")
    async def tokenize(request):
        body = object_of(request)
        engine = service.engine()
        content = body.get("content")
        if content is None:
            return {"tokens": []}
        special = typed(body, "parse_special", "boolean")
        tokens = await service.tokens(
            prompts_of(content, "content")[0] if content not in ("", []) else "",
            bool(typed(body, "add_special", "boolean")),
            True if special is None else special,
            service.prepare(request),
        )
        if not typed(body, "with_pieces", "boolean"):
            return {"tokens": tokens}
        if not integers(tokens, 0, engine.n_vocab - 1):
            raise invalid("Field 'content': a token is not in the vocabulary")
        pieces = []
        for token in tokens:
            if not len(pieces) % 32:
                await asyncio.sleep(0)
                service.engine()
            piece = engine.piece(token, True)[:_MOST_BYTES]
            text = text_of(piece)
            # As llama-server, show a piece that is no UTF-8 as a list of bytes.
            pieces.append({"id": token, "piece": text if text.encode() == piece else list(piece)})
        return {"tokens": pieces}

    @api.post("/detokenize", takes="Detokenize", gives="Content", says="Text of tokens")
    async def detokenize(request):
        body = object_of(request)
        engine = service.engine()
        tokens = tokens_of(body.get("tokens") or [], "tokens")
        if not integers(tokens, 0, engine.n_vocab - 1):
            raise invalid("Field 'tokens': a token is not in the vocabulary")
        text = Utf8()
        parts = []
        for i in range(0, len(tokens), _SLICE):
            parts.append(text.push(service.engine().detokenize(tokens[i : i + _SLICE])))
            await asyncio.sleep(0)
        return {"content": "".join(parts) + text.flush()}

    @api.post("/apply-template", takes="Chat", gives="Prompt", says="A chat as the model reads it")
    async def apply_template(request):
        body = object_of(request)
        with await service.converse(body, service.prepare(request)) as conversation:
            return {"prompt": conversation.prompt}
