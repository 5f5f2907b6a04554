# The HTTP routes of llama-server that OpenAI's clients use, with its JSON keys, wording and order
# of stream events (tools/server of llama.cpp is the reference).
# MIT license; Copyright (c) 2026 cllm contributors

import time

from httpd import HttpError, Stream
from httpd.jsonio import dumps

from .detok import Utf8
from .engine import version
from .errors import error_object, invalid
from .params import Params, messages_of, prompt_of, tokens_of

_EVENTS = "text/event-stream"
_SSE_HEADERS = {"Cache-Control": "no-cache"}

_serial = 0


def _identity():
    # Unique in one run by the number, across runs by the time.
    global _serial
    _serial += 1
    return "chatcmpl-%08x%08x" % (int(time.time()) & 0xFFFFFFFF, _serial)


def usage(sequence):
    """OpenAI's usage object."""
    return {
        "completion_tokens": sequence.n_generated,
        "prompt_tokens": sequence.n_prompt,
        "total_tokens": sequence.n_generated + sequence.n_prompt,
        "prompt_tokens_details": {"cached_tokens": sequence.n_cached},
    }


async def collect(sequence):
    """The whole text of a sequence. The sequence is cancelled if the caller is."""
    try:
        texts = []
        async for text, _ in sequence:
            texts.append(text)
        return "".join(texts)
    finally:
        sequence.cancel()


class Answer:
    """Shapes one generation as `kind` of object. The parts that every event of a stream repeats
    are put together once: what is left per token is its text.
    """

    def __init__(self, service, kind):
        self.head = {
            "created": int(time.time()),
            "id": _identity(),
            "model": service.host.alias,
            "system_fingerprint": version(),
            "object": kind,
        }
        self._tail = "," + dumps(self.head)[1:] + "\n\n"

    def event(self, choices, extra=""):
        """One server-sent event; choices, extra: JSON text."""
        return 'data: {"choices":[' + choices + "]" + extra + self._tail

    def whole(self, choice, sequence):
        """The answer in one piece."""
        body = {"choices": [choice]}
        body.update(self.head)
        body["usage"] = usage(sequence)
        body["timings"] = sequence.timings()
        return body


def _failure(exc):
    # After the first event the status is sent: the error becomes an event, and nothing follows it.
    return "data: " + dumps({"error": error_object(exc)}) + "\n\n"


async def _chat_events(answer, sequence, include_usage):
    started = False
    role = answer.event(
        '{"finish_reason":null,"index":0,"delta":{"role":"assistant","content":null}}'
    )
    try:
        async for text, _ in sequence:
            data = "" if started else role
            if text:
                data += answer.event(
                    '{"finish_reason":null,"index":0,"delta":{"content":' + dumps(text) + "}}"
                )
            started = True
            if data:
                yield data
    except HttpError as exc:
        if not started:
            raise
        yield _failure(exc)
        return
    finally:
        sequence.cancel()
    timings = ',"timings":' + dumps(sequence.timings())
    final = '{"finish_reason":"%s","index":0,"delta":{}}' % sequence.finish_reason
    data = "" if started else role
    if include_usage:
        data += answer.event(final)
        data += answer.event("", ',"usage":' + dumps(usage(sequence)) + timings)
    else:
        data += answer.event(final, timings)
    yield data + "data: [DONE]\n\n"


async def _text_events(answer, sequence):
    started = False
    choice = '{"text":%s,"index":0,"logprobs":null,"finish_reason":%s}'
    try:
        async for text, _ in sequence:
            if text:
                started = True
                yield answer.event(choice % (dumps(text), "null"))
    except HttpError as exc:
        if not started:
            raise
        yield _failure(exc)
        return
    finally:
        sequence.cancel()
    extra = ',"usage":' + dumps(usage(sequence)) + ',"timings":' + dumps(sequence.timings())
    final = choice % ('""', dumps(sequence.finish_reason))
    yield answer.event(final, extra) + "data: [DONE]\n\n"


def _object(request):
    body = request.json()
    if not isinstance(body, dict):
        raise invalid("the body must be a JSON object")
    return body


def install(service):
    """Adds the routes to the service's application."""
    app = service.app

    @app.get("/health")
    @app.get("/v1/health")
    def health(request):
        service.engine()
        answer = {"status": "ok"}
        if service.last_crash:
            answer["last_crash"] = service.last_crash
        return answer

    def model_info():
        engine = service.engine()
        return {
            "id": service.host.alias,
            "aliases": [],
            "tags": [],
            "object": "model",
            "created": int(time.time()),
            "owned_by": "llamacpp",
            "meta": {
                "n_vocab": engine.n_vocab,
                "n_ctx": engine.n_ctx,
                "n_ctx_train": engine.n_ctx_train,
                "n_params": engine.n_params,
                "size": engine.size,
                "ftype": engine.ftype,
            },
        }

    @app.get("/models")
    @app.get("/v1/models")
    def models(request):
        info = model_info()
        name = info["id"]
        ollama = {
            "name": name,
            "model": name,
            "modified_at": "",
            "size": "",
            "digest": "",
            "type": "model",
            "description": "",
            "tags": [""],
            "capabilities": ["completion"],
            "parameters": "",
            "details": {
                "parent_model": "",
                "format": "gguf",
                "family": "",
                "families": [""],
                "parameter_size": "",
                "quantization_level": "",
            },
        }
        return {"models": [ollama], "object": "list", "data": [info]}

    @app.get("/v1/models/<path:name>")
    def model(request, name):
        info = model_info()
        if name != info["id"]:
            raise HttpError(404, "there is no model '%s'" % name)
        return info

    @app.post("/v1/completions")
    async def completions(request):
        body = _object(request)
        service.engine()
        params = Params(body)
        for name in ("best_of", "suffix"):
            if body.get(name) is not None:
                raise invalid("Unsupported param: " + name)
        if body.get("echo"):
            raise invalid("Only no echo is supported")
        sequence = service.generate(prompt_of(body), params)
        answer = Answer(service, "text_completion")
        if params.stream:
            return Stream(_text_events(answer, sequence), _EVENTS, headers=_SSE_HEADERS)
        text = await collect(sequence)
        choice = {
            "text": text,
            "index": 0,
            "logprobs": None,
            "finish_reason": sequence.finish_reason,
        }
        return answer.whole(choice, sequence)

    @app.post("/chat/completions")
    @app.post("/v1/chat/completions")
    async def chat(request):
        body = _object(request)
        service.engine()
        params = Params(body)
        sequence = service.chat(messages_of(body), params)
        if params.stream:
            answer = Answer(service, "chat.completion.chunk")
            events = _chat_events(answer, sequence, params.include_usage)
            return Stream(events, _EVENTS, headers=_SSE_HEADERS)
        text = await collect(sequence)
        choice = {
            "finish_reason": sequence.finish_reason,
            "index": 0,
            "message": {"role": "assistant", "content": text},
        }
        return Answer(service, "chat.completion").whole(choice, sequence)

    @app.post("/tokenize")
    def tokenize(request):
        body = _object(request)
        engine = service.engine()
        content = body.get("content")
        if content is None:
            return {"tokens": []}
        if not isinstance(content, str):
            raise invalid("Field 'content': must be a string")
        special = body.get("parse_special")
        tokens = service.tokenize(
            content, bool(body.get("add_special")), True if special is None else bool(special)
        )
        if not body.get("with_pieces"):
            return {"tokens": tokens}
        pieces = []
        for token in tokens:
            piece = engine.piece(token, True)
            text = Utf8()
            decoded = text.push(piece) + text.flush()
            # llama-server shows what is no UTF-8 as a list of bytes.
            pieces.append(
                {"id": token, "piece": decoded if decoded.encode() == piece else list(piece)}
            )
        return {"tokens": pieces}

    @app.post("/detokenize")
    def detokenize(request):
        body = _object(request)
        engine = service.engine()
        tokens = tokens_of(body.get("tokens") or [], "tokens")
        if tokens and (min(tokens) < 0 or max(tokens) >= engine.n_vocab):
            raise invalid("Field 'tokens': a token is not in the vocabulary")
        text = Utf8()
        return {"content": text.push(engine.detokenize(tokens)) + text.flush()}

    @app.post("/apply-template")
    def apply_template(request):
        body = _object(request)
        return {"prompt": service.render(messages_of(body))[0]}

    @app.get("/props")
    def props(request):
        engine = service.engine()
        return {
            "default_generation_settings": {"n_ctx": engine.n_ctx, "params": {}},
            "total_slots": engine.n_seq,
            "model_alias": service.host.alias,
            "model_ftype": engine.ftype,
            "model_path": service.host.path,
            "modalities": {"vision": False, "video": False, "audio": False},
            "chat_template": engine.chat_template,
            "bos_token": _token_text(engine, engine.bos),
            "eos_token": _token_text(engine, engine.eos),
            "build_info": version(),
            "is_sleeping": False,
        }


def _token_text(engine, token):
    return engine.piece(token, True).decode() if token >= 0 else ""
