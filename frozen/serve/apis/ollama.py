"""Ollama's API: requests become chat requests or prompts, and answers lines of JSON (NDJSON). Its
facts are those of Ollama's docs/api.md; errors are {"error": text}.
"""
# SPDX-License-Identifier: MIT

import time

from httpd import HttpError
from httpd.jsonio import dumps, loads

from ..scheduling.errors import RequestError, invalid
from .embeddings import vectors_of
from .native_api import infill_tokens
from .openai import object_of, timestamp
from .params import Params, few, integer, prompts_of, typed
from .sse import Writer, stream

# The version of Ollama whose routes and members these are: clients ask for it and compare.
_VERSION = "0.12.6"

# Names of `options` that differ from llama-server's. The others are the same, or have no use here:
# num_ctx and the like are the machine's.
_OPTIONS = {"num_predict": "max_tokens"}
_SAME = (
    "seed", "stop", "temperature", "top_k", "top_p", "min_p", "typical_p", "repeat_last_n",
    "repeat_penalty", "presence_penalty", "frequency_penalty", "mirostat", "mirostat_tau",
    "mirostat_eta",
)  # fmt: skip


def _asked(body, chat):
    # Puts what a request asks of the generation into the chat completion request `chat`.
    options = typed(body, "options", "object") or {}
    for name in _SAME:
        if options.get(name) is not None:
            chat[name] = options[name]
    limit = integer(options, "num_predict", -2, 0x7FFFFFFF)
    if limit is not None:
        chat["max_tokens"] = max(-1, limit)  # -2: as many as the context holds
    streams = typed(body, "stream", "boolean")
    chat["stream"] = True if streams is None else streams
    form = body.get("format")
    if form == "json":
        chat["response_format"] = {"type": "json_object"}
    elif isinstance(form, dict):
        chat["response_format"] = {"type": "json_schema", "json_schema": {"schema": form}}
    elif form not in (None, ""):
        raise invalid("Field 'format': must be \"json\" or a JSON schema")
    think = body.get("think")
    if isinstance(think, bool):
        chat["chat_template_kwargs"] = {"enable_thinking": think}
    elif think is not None:
        chat["reasoning_effort"] = typed(body, "think", "string")
    return chat


def _no_images(body):
    if typed(body, "images", "array"):
        raise invalid("this model takes no images")


def chat_of(body):
    """Return a request of /api/chat as a chat completion request."""
    chat = {"messages": _messages(typed(body, "messages", "array") or [])}
    tools = typed(body, "tools", "array")
    if tools:
        chat["tools"] = tools
    return _asked(body, chat)


def _messages(messages):
    converted = []
    open_calls = []  # (id, name) of calls without a result
    n = 0
    for message in messages:
        if not isinstance(message, dict):
            raise invalid("Field 'messages': each must be an object")
        _no_images(message)
        new = {"role": message.get("role"), "content": message.get("content") or ""}
        if message.get("thinking"):
            new["reasoning_content"] = typed(message, "thinking", "string")
        calls = []
        for call in typed(message, "tool_calls", "array") or []:
            function = call.get("function") if isinstance(call, dict) else None
            if not isinstance(function, dict):
                raise invalid("Field 'tool_calls': each must have a function")
            arguments = function.get("arguments")
            if not isinstance(arguments, str):
                arguments = dumps(arguments or {})
            n += 1
            function = {"name": function.get("name"), "arguments": arguments}
            calls.append({"id": "call_%d" % n, "type": "function", "function": function})
            open_calls.append(("call_%d" % n, function["name"]))
        if calls:
            new["tool_calls"] = calls
        if new["role"] == "tool":
            new["tool_call_id"] = _answered(open_calls, message.get("tool_name"))
        converted.append(new)
    return converted


def _answered(open_calls, name):
    # The id of the call that a result is for: results have no ids, but names and an order.
    for i in range(len(open_calls)):
        if name in (None, open_calls[i][1]):
            return open_calls.pop(i)[0]
    return "call_0"


def _nanoseconds(ms):
    return int(ms * 1e6)


def _now():
    return timestamp(time.time())


def _counts(reply):
    # The members of an answer's last object, beside its text.
    timings = reply.sequence.timings()
    total = timings["prompt_ms"] + timings["predicted_ms"]
    return {
        "done": True,
        "done_reason": "stop" if reply.sequence.finish_reason == "stop" else "length",
        "total_duration": _nanoseconds(total),
        "load_duration": 0,
        "prompt_eval_count": reply.sequence.n_prompt,
        "prompt_eval_duration": _nanoseconds(timings["prompt_ms"]),
        "eval_count": reply.sequence.n_generated,
        "eval_duration": _nanoseconds(timings["predicted_ms"]),
    }


def _calls(message):
    calls = []
    for call in message.get("tool_calls") or []:
        function = call["function"]
        try:
            arguments = loads(function["arguments"])
        except ValueError:
            arguments = None
        if not isinstance(arguments, dict):
            arguments = {"raw_arguments": function["arguments"]} if function["arguments"] else {}
        calls.append({"function": {"name": function["name"], "arguments": arguments}})
    return calls


class _Lines(Writer):
    """The lines of an answer. chat: whether it is a message, or the text of /api/generate."""

    content_type = "application/x-ndjson"
    ping = ""  # a client would read an empty line as JSON

    def __init__(self, model, chat):
        self.model = model
        self.chat = chat

    def line(self, text, thinking, calls=None, more=None):
        """Return one object."""
        body = {"model": self.model, "created_at": _now(), "done": False}
        if self.chat:
            message = {"role": "assistant", "content": text}
            if thinking:
                message["thinking"] = thinking
            if calls:
                message["tool_calls"] = calls
            body["message"] = message
        else:
            body["response"] = text
            if thinking:
                body["thinking"] = thinking
        body.update(more or {})
        return body

    def piece(self, reply, piece):
        out = ""
        for delta in piece.deltas:
            text = delta.get("content") or ""
            thinking = delta.get("reasoning_content") or ""
            if text or thinking:
                out += dumps(self.line(text, thinking)) + "\n"
        return out

    def end(self, reply, piece):
        last = self.line("", "", _calls(reply.message), _counts(reply))
        return self.piece(reply, piece) + dumps(last) + "\n"

    def whole(self, reply):
        """Return the answer as one object."""
        message = reply.message
        thinking = message.get("reasoning_content")
        return self.line(message.get("content") or "", thinking, _calls(message), _counts(reply))

    def failure(self, error):
        return dumps({"error": error.message}) + "\n"


def _details(engine):
    return {
        "parent_model": "",
        "format": "gguf",
        "family": engine.desc.split(" ")[0],
        "families": [engine.desc.split(" ")[0]],
        "parameter_size": _size_of(engine.n_params),
        "quantization_level": engine.ftype,
    }


def _size_of(n):
    for unit, name in ((1000000000, "B"), (1000000, "M")):
        if n >= unit:
            return "%.1f%s" % (n / unit, name)
    return "%.1fK" % (n / 1000)


def _capabilities(engine):
    if not engine.generates:
        return ["embedding"]
    found = ["completion"]
    template = engine.chat_template
    if "tools" in template:
        found.append("tools")
    if min(engine.fim_pre, engine.fim_suf, engine.fim_mid) >= 0:
        found.append("insert")
    if "think" in template:
        found.append("thinking")
    return found


def _entry(service):
    engine = service.engine()
    name = service.host.alias
    return {
        "name": name,
        "model": name,
        "modified_at": timestamp(service.started),
        "size": engine.size,
        "digest": "",
        "details": _details(engine),
    }


def _show(service):
    engine = service.engine()
    family = engine.desc.split(" ")[0]
    return {
        "modelfile": "",
        "parameters": "",
        "template": engine.chat_template,
        "modified_at": timestamp(service.started),
        "details": _details(engine),
        "capabilities": _capabilities(engine),
        "model_info": {
            "general.architecture": family,
            "general.basename": service.host.alias,
            "general.parameter_count": engine.n_params,
            family + ".context_length": engine.n_ctx_train,
            family + ".embedding_length": engine.n_embd,
        },
    }


def _worded(handler):
    # Errors are {"error": text} for Ollama's clients.
    async def worded(request):
        try:
            return await handler(request)
        except HttpError as exc:
            return {"error": exc.message}, exc.status, exc.headers

    return worded


def install(service):
    """Add the routes to the service's application."""
    api = service.api

    def named(body):
        return (
            typed(body, "model", "string") or typed(body, "name", "string") or service.host.alias
        )

    async def answer(replies, lines, params, request):
        if params.stream:
            return stream(replies, lines, service, request)
        await replies.collect()
        return lines.whole(replies.replies[0])

    def loaded(body, chat):
        # Ollama's clients load a model by a request without words.
        lines = _Lines(named(body), chat)
        return lines.line("", "", None, {"done": True, "done_reason": "load"})

    @api.get("/api/version", gives="Version", says="The version of Ollama's API")
    @_worded
    async def version(request):
        return {"version": _VERSION}

    @api.get("/api/tags", gives="OllamaModels", says="The models that there are")
    @_worded
    async def tags(request):
        return {"models": [_entry(service)]}

    @api.get("/api/ps", gives="OllamaModels", says="The models that are loaded")
    @_worded
    async def loaded_models(request):
        entry = _entry(service)
        entry["context_length"] = service.engine().n_ctx
        entry["size_vram"] = 0
        entry["expires_at"] = "9999-12-31T23:59:59Z"
        return {"models": [entry]}

    @api.post("/api/show", takes="OllamaShow", gives="Object", says="Facts about a model")
    @_worded
    async def show(request):
        named(object_of(request))
        return _show(service)

    @api.post("/api/chat", takes="OllamaChat", gives="OllamaAnswer", lines=True, says="Chat")
    @_worded
    async def chat(request):
        body = object_of(request)
        service.generator()
        asked = chat_of(body)
        params = Params(asked)
        if not asked["messages"]:
            return loaded(body, True)
        replies = await service.chat(asked, params, request)
        return await answer(replies, _Lines(named(body), True), params, request)

    @api.post(
        "/api/generate", takes="OllamaGenerate", gives="OllamaAnswer", lines=True,
        says="Complete a prompt",
    )  # fmt: skip
    @_worded
    async def generate(request):
        body = object_of(request)
        engine = service.generator()
        _no_images(body)
        if body.get("template"):
            raise invalid("Field 'template': the model's own template is used")
        prompt = typed(body, "prompt", "string") or ""
        lines = _Lines(named(body), False)
        suffix = typed(body, "suffix", "string")
        if suffix or typed(body, "raw", "boolean"):
            params = Params(_asked(body, {}))
            if suffix:
                if "insert" not in _capabilities(engine):
                    raise RequestError(
                        400, "invalid_request_error", "this model does not support insert"
                    )
                parts = {"input_prefix": prompt, "input_suffix": suffix}
                prompt = await infill_tokens(service, parts, request)
            replies = await service.generate([prompt], params, request)
            return await answer(replies, lines, params, request)
        system = typed(body, "system", "string")
        messages = [{"role": "system", "content": system}] if system else []
        messages.append({"role": "user", "content": prompt})
        asked = _asked(body, {"messages": messages})
        params = Params(asked)
        if not prompt:
            return loaded(body, False)
        replies = await service.chat(asked, params, request)
        return await answer(replies, lines, params, request)

    async def embedded(request, body, texts, normalize):
        asked = {"embd_normalize": normalize, "dimensions": body.get("dimensions")}
        return await vectors_of(service, request, asked, texts)

    @api.post("/api/embed", takes="OllamaEmbed", gives="OllamaEmbeddings", says="Embeddings")
    @_worded
    async def embed(request):
        body = object_of(request)
        service.engine()
        began = time.ticks_us()
        value = body.get("input")
        texts = few(value, "input") if isinstance(value, list) else prompts_of(value, "input")
        for text in texts:
            if not isinstance(text, str):
                raise invalid("Field 'input': must be a string or an array of strings")
        found, n = await embedded(request, body, prompts_of(texts, "input") if texts else [], 2)
        return {
            "model": named(body),
            "embeddings": found,
            "total_duration": (time.ticks_us() - began) * 1000,
            "load_duration": 0,
            "prompt_eval_count": n,
        }

    @api.post("/api/embeddings", takes="OllamaEmbed", gives="Object", says="One embedding (old)")
    @_worded
    async def embeddings(request):
        body = object_of(request)
        service.engine()
        text = typed(body, "prompt", "string")
        if not text:
            return {"embedding": []}  # as Ollama, for a request that only loads the model
        found, _ = await embedded(request, body, [text], -1)
        return {"embedding": found[0]}
