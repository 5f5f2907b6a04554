"""llama-server's own routes: completion, infill, tokens, templates."""
# SPDX-License-Identifier: MIT

import asyncio

from httpd.jsonio import dumps, integers

from ..scheduling.detok import Utf8, text_of
from ..scheduling.errors import RequestError, invalid
from .openai import object_of
from .params import Params, prompts_of, tokens_of, typed
from .reply import described, probs_object
from .sampler_ranges import RANGES
from .sse import Writer, stream

_SLICE = 1024  # tokens that become text between two turns of the event loop
_MOST_BYTES = 1024  # of a token that `with_pieces` shows

# llama.cpp's default order.
_SAMPLERS = [
    "penalties", "dry", "top_n_sigma", "top_k", "typ_p", "top_p", "min_p", "xtc", "temperature",
]  # fmt: skip


def settings_of(params, brief=False):
    """Return llama-server's generation_settings: its defaults, and what was asked for over them.
    brief: as in /props.
    """
    settings = {}
    for name, limits in RANGES.items():
        if limits.default is not None:
            settings[name] = limits.default
    settings["seed"] = 0xFFFFFFFF
    settings["ignore_eos"] = False
    settings["samplers"] = _SAMPLERS
    for name in settings:
        if name in params.sampling:
            settings[name] = params.sampling[name]
    limit = -1 if params.max_tokens is None else params.max_tokens
    settings.update(
        {
            "max_tokens": limit,
            "n_predict": limit,
            "n_keep": 0,
            "n_discard": 0,
            "stream": params.stream,
            "n_probs": params.n_probs or 0,
            "timings_per_token": params.timings_per_token,
            "post_sampling_probs": params.post_probs,
            "lora": [],
        }
    )
    if not brief:
        settings["stop"] = params.stop
        settings["grammar"] = params.sampling.get("grammar", "")
    return settings


class Completion:
    """llama-server's native answer to one prompt."""

    def __init__(self, service, params, body, prompts):
        self.service = service
        self.engine = service.host.engine
        self.params = params
        self.prompts = prompts
        self.fields = _fields(body)

    def _common(self, reply, text, tokens, stop):
        sequence = reply.sequence
        return {
            "index": reply.index,
            "content": text,
            "tokens": tokens,
            "stop": stop,
            "id_slot": reply.index,
            "tokens_predicted": sequence.n_generated,
            "tokens_evaluated": sequence.n_prompt,
        }

    def part(self, reply, piece):
        """Return the object of one event."""
        item = piece.item
        body = self._common(reply, piece.text, [item.token], False)
        if self.params.timings_per_token:
            body["timings"] = reply.sequence.timings()
        if item.probs is not None:
            body["completion_probabilities"] = [
                probs_object(self.engine, item, self.params.post_probs)
            ]
        return body

    def whole(self, reply, probs=()):
        """Return the object at the end, in a stream without the text that was sent. probs: objects
        of the tokens.
        """
        streams = self.params.stream
        sequence = reply.sequence
        text = "" if streams else reply.text
        tokens = reply.tokens if self.params.return_tokens and not streams else []
        body = self._common(reply, text, tokens, True)
        prompt = self.prompts[reply.index // self.params.n]
        body.update(
            {
                "model": self.service.host.alias,
                "generation_settings": settings_of(self.params),
                "prompt": prompt if isinstance(prompt, str) else detokenized(self.engine, prompt),
                "has_new_line": "\n" in reply.text,
                "truncated": False,
                "stop_type": sequence.stop_kind,
                "stopping_word": sequence.stop_word or "",
                "tokens_cached": len(sequence.tokens) - 1,
                "timings": sequence.timings(),
            }
        )
        if probs:
            body["completion_probabilities"] = probs
        return _selected(body, self.fields) if self.fields else body

    async def answer(self, reply):
        """Return the object that is the whole answer."""
        post = self.params.post_probs
        probs = await described(reply.probs, lambda item: probs_object(self.engine, item, post))
        return self.whole(reply, probs)


class NativeWriter(Writer):
    """Events of a native completion; there is no [DONE]."""

    def __init__(self, completion):
        self.completion = completion

    def piece(self, reply, piece):
        return "data: " + dumps(self.completion.part(reply, piece)) + "\n\n"

    def end(self, reply, piece):
        return "data: " + dumps(self.completion.whole(reply)) + "\n\n"


def _fields(body):
    fields = typed(body, "response_fields", "array") or []
    for field in fields:
        if not isinstance(field, str):
            raise invalid("Field 'response_fields': must be an array of strings")
    return fields


def _selected(body, fields):
    # "a/b" moves member b of a to the top; missing members are left out.
    selected = {}
    for field in fields:
        value = body
        for name in field.split("/"):
            if not isinstance(value, dict) or name not in value:
                break
            value = value[name]
        else:
            selected[field.split("/")[-1]] = value
    return selected


def detokenized(engine, prompt):
    """Return the text of token ids and str."""
    parts = []
    for item in prompt:
        parts.append(item.encode() if isinstance(item, str) else engine.piece(item, True))
    return text_of(b"".join(parts))


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
    app = service.app

    async def complete(request, body, params, prompts):
        replies = await service.generate(prompts, params, request)
        completion = Completion(service, params, body, prompts)
        if params.stream:
            return stream(replies, NativeWriter(completion))
        await replies.collect()
        objects = []
        for reply in replies.replies:
            objects.append(await completion.answer(reply))
        return objects[0] if len(objects) == 1 else objects

    @app.post("/completion")
    @app.post("/completions")
    async def completion(request):
        body = object_of(request)
        service.generator()
        params = Params(body, service.bounds.slots)
        return await complete(request, body, params, prompts_of(body.get("prompt")))

    @app.post("/infill")
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

    @app.post("/tokenize")
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

    @app.post("/detokenize")
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

    @app.post("/apply-template")
    async def apply_template(request):
        body = object_of(request)
        with await service.converse(body, service.prepare(request)) as conversation:
            return {"prompt": conversation.prompt}
