"""OpenAI's chat completions, completions and models, with llama-server's JSON keys, wording and
order of events (tools/server of llama.cpp is the reference).
"""
# SPDX-License-Identifier: MIT

import time

from httpd import HttpError
from httpd.jsonio import dumps

from ..scheduling.engine import READY, version
from ..scheduling.errors import invalid
from ..switching import states
from .native_shape import Completion
from .params import Params, integer, prompts_of, typed
from .reply import described, key_of, probs_object
from .sse import Writer, stream

_serial = 0


def object_of(request):
    """Return the JSON object in the request's body. RequestError if it is none."""
    body = request.json()
    if not isinstance(body, dict):
        raise invalid("the body must be a JSON object")
    return body


def identity(prefix):
    """Return an id for an answer. Its number is unique in one run, its time across runs."""
    global _serial
    _serial += 1
    return "%s%08x%08x" % (prefix, int(time.time()) & 0xFFFFFFFF, _serial)


def timestamp(seconds):
    """Return a time (seconds since 1970) as text (RFC 3339, in UTC)."""
    return "%04d-%02d-%02dT%02d:%02d:%02dZ" % tuple(time.gmtime(seconds)[:6])


def usage(replies):
    """Return OpenAI's usage object. A prompt counts once, however many answers it has."""
    sequences = [reply.sequence for reply in replies]
    generated = sum([s.n_generated for s in sequences])
    prompts = [s for s in sequences if s.after is None]
    prompt = sum([s.n_prompt for s in prompts])
    return {
        "completion_tokens": generated,
        "prompt_tokens": prompt,
        "total_tokens": generated + prompt,
        "prompt_tokens_details": {"cached_tokens": sum([s.n_cached for s in prompts])},
    }


class Head:
    """The members that answers and all events of a stream have in common."""

    def __init__(self, service, kind):
        self.members = {
            "created": int(time.time()),
            "id": identity("chatcmpl-"),
            "model": service.host.alias,
            "system_fingerprint": version(),
            "object": kind,
        }
        # Made once, so that each token only adds its text.
        self._tail = "," + dumps(self.members)[1:] + "\n\n"

    def event(self, choices, extra=""):
        """Return one server-sent event. choices, extra: JSON text."""
        return 'data: {"choices":[' + choices + "]" + extra + self._tail

    def whole(self, choices, replies, verbose=None):
        """Return the answer in one piece. verbose: of verbose_of()."""
        body = {"choices": choices}
        body.update(self.members)
        body["usage"] = usage(replies)
        body["timings"] = replies[0].sequence.timings()
        if verbose:
            body["__verbose"] = verbose
        return body


def verbose_of(service, params, prompts, reply):
    """Return llama-server's `__verbose`, its own object of an answer, if `verbose` asks for it."""
    if not params.verbose:
        return None
    return Completion(service, params, {}, prompts).whole(reply)


class _Writer(Writer):
    # The common part of chat and text streams.
    done = "data: [DONE]\n\n"

    def __init__(self, service, kind, params, prompts):
        self.service = service
        self.prompts = prompts
        self.engine = service.host.engine
        self.head = Head(service, kind)
        self.params = params

    def progress(self, reply, item):
        more = ',"prompt_progress":' + dumps(item.progress)
        if self.params.timings_per_token:
            more += ',"timings":' + dumps(item.timings)
        return self.head.event(self.nothing(reply), more)

    def verbose(self, reply):
        """Return `__verbose` as JSON text, for an answer's last event."""
        found = verbose_of(self.service, self.params, self.prompts, reply)
        return ',"__verbose":' + dumps(found) if found else ""

    def timings(self, reply):
        if not self.params.timings_per_token:
            return ""
        return ',"timings":' + dumps(reply.sequence.timings())

    def totals(self, replies):
        """Return usage and timings as JSON text."""
        return ',"usage":%s,"timings":%s' % (
            dumps(usage(replies)),
            dumps(replies[0].sequence.timings()),
        )


class ChatWriter(_Writer):
    """Events of a chat completion."""

    def __init__(self, service, params, prompt):
        _Writer.__init__(self, service, "chat.completion.chunk", params, [prompt])

    def nothing(self, reply):
        return self._choice(reply, "{}")

    def _choice(self, reply, delta, reason="null", probs=""):
        return '{"finish_reason":%s,"index":%d,"delta":%s%s}' % (
            reason, reply.index, delta, probs,
        )  # fmt: skip

    def start(self, replies):
        """Return the first event of each answer: its role."""
        delta = '{"role":"assistant","content":null}'
        return "".join([self.head.event(self._choice(r, delta)) for r in replies.replies])

    def piece(self, reply, piece):
        probs = ""
        if piece.item and piece.item.probs is not None:
            content = [probs_object(self.engine, piece.item, self.params.post_probs)]
            probs = ',"logprobs":' + dumps({"content": content})
        deltas = piece.deltas
        if probs and not deltas:
            deltas = [{}]
        out = ""
        for i in range(len(deltas)):
            last = i == len(deltas) - 1
            choice = self._choice(reply, dumps(deltas[i]), "null", probs if last else "")
            out += self.head.event(choice, self.timings(reply) if last else "")
        return out

    def end(self, reply, piece):
        choice = self._choice(reply, "{}", dumps(reply.finish_reason()))
        timings = ""
        if not self.params.include_usage:
            timings = ',"timings":' + dumps(reply.sequence.timings())
        return self.piece(reply, piece) + self.head.event(choice, timings + self.verbose(reply))

    def finish(self, replies):
        if self.params.include_usage:
            return self.head.event("", self.totals(replies.replies))
        return ""


class TextWriter(_Writer):
    """Events of a text completion."""

    def __init__(self, service, params, prompts):
        _Writer.__init__(self, service, "text_completion", params, prompts)

    def nothing(self, reply):
        return self._choice(reply, "")

    def _choice(self, reply, text, probs="null", reason="null"):
        return '{"text":%s,"index":%d,"logprobs":%s,"finish_reason":%s}' % (
            dumps(text), reply.index, probs, reason,
        )  # fmt: skip

    def piece(self, reply, piece):
        probs = "null"
        if piece.item.probs is not None:
            post = self.params.post_probs
            probs = dumps(text_logprobs([text_entry(self.engine, piece.item, post)], post))
        elif not piece.text:
            return ""
        return self.head.event(self._choice(reply, piece.text, probs), self.timings(reply))

    def end(self, reply, piece):
        choice = self._choice(reply, "", "null", dumps(reply.finish_reason()))
        return self.head.event(choice, self.totals([reply]) + self.verbose(reply))


def text_entry(engine, item, post=False):
    """Return a token's part of the `logprobs` of a completion: (llama-server's object, the token's
    key, {key: probability} of its alternatives).
    """
    top = {}
    own = None
    for token, value in item.probs[1]:
        key = key_of(engine, token, top)
        top[key] = value
        if token == item.token:
            own = key
    return probs_object(engine, item, post), own or key_of(engine, item.token, top), top


def text_logprobs(entries, post=False):
    """Return the `logprobs` of a completion: llama-server's `content`, and OpenAI's four lists.

    entries: of text_entry().
    """
    name = "prob" if post else "logprob"
    offset = 0
    offsets = []
    for entry, _, _ in entries:
        offsets.append(offset)
        offset += len(entry["token"])
    return {
        "content": [entry for entry, _, _ in entries],
        "tokens": [key for _, key, _ in entries],
        "token_logprobs": [entry[name] for entry, _, _ in entries],
        "top_logprobs": [top for _, _, top in entries],
        "text_offset": offsets,
    }


async def _chat_choice(engine, reply, params):
    message = dict(reply.message)
    message["refusal"] = None
    choice = {
        "finish_reason": reply.finish_reason(),
        "index": reply.index,
        "message": message,
        "logprobs": None,
    }
    if params.n_probs is not None:
        content = await described(
            reply.probs, lambda item: probs_object(engine, item, params.post_probs)
        )
        choice["logprobs"] = {"content": content, "refusal": None}
    return choice


async def _text_choice(engine, reply, params):
    logprobs = None
    if reply.probs and params.n_probs is not None:
        entries = await described(
            reply.probs, lambda item: text_entry(engine, item, params.post_probs)
        )
        logprobs = text_logprobs(entries, params.post_probs)
    return {
        "text": reply.text,
        "index": reply.index,
        "logprobs": logprobs,
        "finish_reason": reply.finish_reason(),
    }


def _best_of(body, params, most):
    # How many answers to generate, of which `n` are returned. Fewer than n, as clients send that
    # write out a schema's defaults, are n.
    count = max(integer(body, "best_of", 0, most) or 0, params.n)
    if params.stream and count > params.n:
        raise invalid("Field 'best_of': answers that are compared cannot be streamed")
    return count


def _likeliest(replies, count, n):
    # Of each prompt's `count` answers, the n with the highest mean log probability, best first.
    if count == n:
        return replies
    chosen = []
    for i in range(0, len(replies), count):
        rated = []
        for reply in replies[i : i + count]:
            total = sum([item.probs[0] for item in reply.probs])
            rated.append((-total / max(1, len(reply.probs)), reply.index, reply))
        for _, _, reply in sorted(rated, key=lambda entry: entry[:2])[:n]:
            reply.index = len(chosen)
            chosen.append(reply)
    return chosen


def model_info(service):
    """Return OpenAI's model object, with llama-server's `meta`."""
    engine = service.engine()
    now = int(time.time())
    return {
        "id": service.host.alias,
        "aliases": service.host.aliases,
        "tags": service.host.tags,
        "object": "model",
        # Anthropic's names, which its clients require.
        "type": "model",
        "display_name": service.host.alias,
        "created_at": timestamp(now),
        "created": now,
        "owned_by": "llamacpp",
        "meta": {
            "vocab_type": engine.vocab_type,
            "n_vocab": engine.n_vocab,
            "n_ctx": engine.n_ctx,
            "n_ctx_train": engine.n_ctx_train,
            "n_embd": engine.n_embd,
            "n_params": engine.n_params,
            "size": engine.size,
            "ftype": engine.ftype,
        },
    }


def _ollama_model(name):
    return {
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


def install(service):
    """Add the routes to the service's application."""
    api = service.api

    @api.get("/models", "/v1/models", gives="Models", says="The models that there are")
    def models(request):
        found = states(service)
        infos = []
        if service.host.state == READY or not service.switch.manages:
            infos.append(model_info(service))  # 503 while there is none
        for name in found:
            if not infos or name != infos[0]["id"]:
                infos.append({"id": name, "object": "model", "owned_by": "llamacpp"})
        for info in infos:
            info["status"] = found.get(info["id"])
        names = [_ollama_model(info["id"]) for info in infos]
        return {
            "models": names,
            "object": "list",
            "data": infos,
            "has_more": False,
            "first_id": infos[0]["id"],
            "last_id": infos[-1]["id"],
        }

    @api.get("/v1/models/<path:name>", gives="Model", codes=(404,), says="A model")
    def model(request, name):
        info = model_info(service)
        if name not in info["aliases"]:
            raise HttpError(404, "there is no model '%s'" % name)
        return info

    @api.post(
        "/v1/completions", takes="Completion", gives="Choices", events=True,
        says="Complete a prompt",
    )  # fmt: skip
    async def completions(request):
        body = object_of(request)
        engine = service.generator()
        params = Params(body, service.bounds.slots)
        if body.get("echo"):
            raise invalid("Only no echo is supported")
        n = params.n
        params.n = _best_of(body, params, service.bounds.slots)
        prompts = prompts_of(body.get("prompt"))
        asked = params.n_probs
        if params.n > n and asked is None:
            params.n_probs = 0  # for _likeliest()
        replies = await service.generate(prompts, params, request)
        if params.stream:
            return stream(replies, TextWriter(service, params, prompts), service, request)
        await replies.collect()
        chosen = _likeliest(replies.replies, params.n, n)
        params.n_probs = asked
        params.n = n
        choices = []
        for reply in chosen:
            choices.append(await _text_choice(engine, reply, params))
        verbose = verbose_of(service, params, prompts, chosen[0])
        return Head(service, "text_completion").whole(choices, replies.replies, verbose)

    @api.post(
        "/v1/chat/completions", "/chat/completions", takes="Chat", gives="Choices", events=True,
        says="Answer a chat",
    )  # fmt: skip
    async def chat(request):
        body = object_of(request)
        engine = service.generator()
        params = Params(body, service.bounds.slots)
        controlled = typed(body, "reasoning_control", "boolean")
        replies = await service.chat(body, params, request)
        if params.stream:
            writer = ChatWriter(service, params, replies.prompt)
            for reply in replies.replies:
                reply.sequence.name = writer.head.members["id"]
                reply.sequence.controlled = controlled
            return stream(replies, writer, service, request)
        await replies.collect()
        choices = []
        for reply in replies.replies:
            choices.append(await _chat_choice(engine, reply, params))
        verbose = verbose_of(service, params, [replies.prompt], replies.replies[0])
        return Head(service, "chat.completion").whole(choices, replies.replies, verbose)

    @api.post(
        "/v1/chat/completions/input_tokens", "/chat/completions/input_tokens", takes="Chat",
        gives="InputTokens", says="Count a chat's prompt",
    )  # fmt: skip
    async def input_tokens(request):
        n = await service.count(object_of(request), request)
        return {"input_tokens": n, "object": "response.input_tokens"}
