"""OpenAI's Responses API: requests become chat requests, as in llama-server (server-chat.cpp), and
answers become output items. Responses are kept within a bounded memory (stored.py).
"""
# SPDX-License-Identifier: MIT

import time

from httpd.jsonio import loads

from ..scheduling.errors import error_object, invalid
from .openai import identity, object_of
from .params import Params, few, integer, typed
from .reply import described, probs_object
from .sampler_ranges import RANGES
from .sse import Writer, event, stream

_ROLES = ("user", "system", "developer")
_OWN = (
    "input", "instructions", "tools", "tool_choice", "max_output_tokens", "reasoning", "text",
    "logprobs", "top_logprobs", "include",
)  # fmt: skip
# What would need a task beside the request, or OpenAI's own stores.
_ELSEWHERE = ("background", "conversation", "prompt")


def chat_of(body, earlier=()):
    """Return a Responses request as a chat completion request. earlier: messages of the responses
    that it goes on from.
    """
    for name in _ELSEWHERE:
        if body.get(name):
            raise invalid("Field '%s': not supported here" % name)
    chat = {}
    for name in body:
        if name not in _OWN:
            chat[name] = body[name]
    chat["messages"] = _instructions(body) + list(earlier) + _messages(body.get("input"))
    tools = [_tool(tool) for tool in typed(body, "tools", "array") or [] if _is_function(tool)]
    if tools:
        chat["tools"] = tools
    if body.get("tool_choice") is not None:
        chat["tool_choice"] = body["tool_choice"]
    _logprobs(body, chat)
    if body.get("max_output_tokens") is not None:
        chat["max_tokens"] = body["max_output_tokens"]
    effort = (typed(body, "reasoning", "object") or {}).get("effort")
    if effort is not None:
        chat["reasoning_effort"] = effort
    form = typed(typed(body, "text", "object") or {}, "format", "object")
    if form is not None:
        chat["response_format"] = form  # {"type", "schema"}, as in llama-server's README
    return chat


def _logprobs(body, chat):
    # `include` asks for them; `top_logprobs` is the number of alternatives.
    include = typed(body, "include", "array") or []
    top = integer(body, "top_logprobs", 0, 20)
    if "message.output_text.logprobs" in include:
        chat["logprobs"] = True
        chat["top_logprobs"] = top or 0


def _is_function(tool):
    if not isinstance(tool, dict):
        raise invalid("'tools' must be an array of objects")
    return tool.get("type") == "function"  # OpenAI runs the others, such as web search, itself


def _tool(tool):
    function = {name: tool[name] for name in tool if name != "type"}
    return {"type": "function", "function": function}


def _instructions(body):
    text = typed(body, "instructions", "string")
    return [] if text is None else [{"role": "system", "content": text}]


def _messages(items):
    if items is None:
        raise invalid("'input' is required")
    if isinstance(items, str):
        return [{"role": "user", "content": items}]
    if not isinstance(items, list):
        raise invalid("'input' must be a string or array of objects")
    messages = []
    for item in few(items, "input"):
        if not isinstance(item, dict):
            raise invalid("'input' must be a string or array of objects")
        _add(messages, item)
    return messages


def _add(messages, item):
    kind = item.get("type") or "message"
    role = item.get("role")
    if kind == "message" and role in _ROLES:
        messages.append({"role": role, "content": _content(item, "input_text")})
    elif kind == "message" and role == "assistant":
        message = _assistant(messages)
        message["content"] = (message.get("content") or []) + _content(item, "output_text")
    elif kind == "function_call":
        function = {"name": item.get("name"), "arguments": item.get("arguments")}
        call = {"id": item.get("call_id"), "type": "function", "function": function}
        _assistant(messages).setdefault("tool_calls", []).append(call)
    elif kind == "function_call_output":
        output = item.get("output")
        if isinstance(output, list):
            output = _content({"content": output}, "input_text")
        message = {"role": "tool", "tool_call_id": item.get("call_id"), "content": output}
        messages.append(message)
    elif kind == "reasoning":
        texts = [part.get("text") for part in typed(item, "content", "array") or []]
        _assistant(messages)["reasoning_content"] = "".join([t for t in texts if t])
    else:
        raise invalid("Cannot determine type of 'item'")


def _assistant(messages):
    # All items of one turn of the model go into one message.
    if not messages or messages[-1]["role"] != "assistant":
        messages.append({"role": "assistant", "content": []})
    return messages[-1]


def _content(item, text_type):
    content = item.get("content")
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if not isinstance(content, list):
        raise invalid("Expected 'content' to be a string or an array")
    parts = []
    for part in few(content, "content"):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind in (text_type, "input_text", "output_text"):
            parts.append({"type": "text", "text": part.get("text")})
        elif kind == "refusal":
            parts.append({"type": "text", "text": part.get("refusal")})
        elif kind in ("input_image", "input_file", "input_audio"):
            raise invalid("%s is not supported by this model" % kind)
        else:
            raise invalid("'type' must be one of 'input_text', 'output_text' or 'refusal'")
    return parts


class Response:
    """The response object of OpenAI's and the Open Responses specification, and its output items.

    service: the Service; body, chat: the request and what chat_of() made of it; keep(body,
    message): called with the whole object and the model's message at the end, or None.
    """

    def __init__(self, service, body, chat, keep=None):
        now = int(time.time())
        self._keep = keep
        form = (body.get("text") or {}).get("format")
        effort = chat.get("reasoning_effort")
        self.body = {
            "id": identity("resp_"),
            "object": "response",
            "created_at": now,
            "completed_at": None,
            "model": service.host.alias,
            "status": "in_progress",
            "output": [],
            "error": None,
            "incomplete_details": None,
            "instructions": body.get("instructions"),
            "metadata": typed(body, "metadata", "object") or {},
            "parallel_tool_calls": bool(body.get("parallel_tool_calls")),
            "tool_choice": body.get("tool_choice") or "auto",
            "tools": [_described(tool) for tool in body.get("tools") or []],
            "text": {"format": form or {"type": "text"}},
            "reasoning": {"effort": effort, "summary": None} if effort else None,
            "top_logprobs": body.get("top_logprobs") or 0,
            "max_output_tokens": body.get("max_output_tokens"),
            "max_tool_calls": None,
            "previous_response_id": body.get("previous_response_id"),
            "prompt_cache_key": body.get("prompt_cache_key"),
            "safety_identifier": body.get("safety_identifier"),
            "truncation": "disabled",  # what does not fit the context is a 400
            "service_tier": "default",
            "store": keep is not None,
            "background": False,
            "user": body.get("user"),
            "usage": None,
        }
        for name in ("temperature", "top_p", "presence_penalty", "frequency_penalty"):
            value = body.get(name)
            self.body[name] = RANGES[name].default if value is None else value

    def complete(self, reply, items):
        """Return the object at the end, with its output `items`."""
        sequence = reply.sequence
        cut = _is_cut(reply)
        body = dict(self.body)
        body["status"] = "incomplete" if cut else "completed"
        if cut:
            body["incomplete_details"] = {"reason": "max_output_tokens"}
        body["completed_at"] = int(time.time())
        body["output"] = items
        body["usage"] = {
            "input_tokens": sequence.n_prompt,
            "input_tokens_details": {"cached_tokens": sequence.n_cached},
            "output_tokens": sequence.n_generated,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": sequence.n_prompt + sequence.n_generated,
        }
        if self._keep:
            self._keep(body, reply.message)
        return body


def _described(tool):
    # A tool as the answer shows it: OpenAI's schema requires these members of a function.
    tool = dict(tool)
    if tool.get("type") == "function":
        for name in ("description", "parameters"):
            tool.setdefault(name, None)
        tool.setdefault("strict", False)
    return tool


def _reasoning(identifier, text, status):
    content = [{"type": "reasoning_text", "text": text}] if text else []
    return {
        "id": identifier,
        "type": "reasoning",
        "summary": [],
        "content": content,
        "encrypted_content": "",
        "status": status,
    }


def _is_cut(reply):
    return reply.sequence.finish_reason != "stop"


def _logprob(engine, item):
    # OpenAI's object, which has no token ids.
    entry = probs_object(engine, item)
    entry.pop("id")
    for top in entry["top_logprobs"]:
        top.pop("id")
    return entry


def _text_part(text, logprobs=()):
    return {"type": "output_text", "annotations": [], "logprobs": list(logprobs), "text": text}


def _message(identifier, text, status, logprobs=()):
    return {
        "id": identifier,
        "type": "message",
        "role": "assistant",
        "status": status,
        "content": [] if status == "in_progress" else [_text_part(text, logprobs)],
    }


def _function_call(call, arguments, status):
    return {
        "id": "fc_" + call["id"],
        "type": "function_call",
        "status": status,
        "call_id": "call_" + call["id"],
        "name": call["function"]["name"],
        "arguments": arguments,
    }


async def output_of(reply, engine):
    """Return the output items of a Reply that has ended. One that was cut off is incomplete."""
    message = reply.message
    items = []
    if message.get("reasoning_content"):
        items.append(_reasoning(identity("rs_"), message["reasoning_content"], "completed"))
    if message.get("content"):
        logprobs = await described(reply.content_probs, lambda item: _logprob(engine, item))
        items.append(_message(identity("msg_"), message["content"], "completed", logprobs))
    for call in message.get("tool_calls") or []:
        items.append(_function_call(call, call["function"]["arguments"], "completed"))
    if items and _is_cut(reply):
        items[-1]["status"] = "incomplete"
    return items


class ResponseWriter(Writer):
    """Events of a response. An item is opened by its first piece, and closed by one of another
    kind.
    """

    def __init__(self, response, engine, timed=False):
        self.response = response
        self.engine = engine
        self.timed = timed  # whether each event of text has `timings`
        self.timings = {}
        self.logprobs = []  # of the open item
        self.items = []  # the closed ones
        self.number = 0
        self.open = None  # what the open item is: "reasoning", "message" or ("call", number)
        self.item = None  # the open item
        self.text = ""

    def _event(self, kind, **data):
        data["type"] = kind
        data["sequence_number"] = self.number
        self.number += 1
        return event(kind, data)

    def _part(self, kind, **data):
        # An event about the open item.
        return self._event(kind, output_index=len(self.items), item_id=self.item["id"], **data)

    def progress(self, reply, progress):
        return self._event(
            "response.in_progress", response=self.response.body, prompt_progress=progress
        )

    def start(self, replies):
        return self._event("response.created", response=self.response.body) + self._event(
            "response.in_progress", response=self.response.body
        )

    def _add(self, what, item):
        out = self._close()
        self.open = what
        self.item = item
        self.text = ""
        self.logprobs = []
        return out + self._event(
            "response.output_item.added", output_index=len(self.items), item=item
        )

    def _close(self, status="completed"):
        if self.open is None:
            return ""
        out = ""
        text = self.text
        if self.open == "reasoning":
            out = self._part("response.reasoning_text.done", content_index=0, text=text)
            done = _reasoning(self.item["id"], text, status)
        elif self.open == "message":
            part = _text_part(text, self.logprobs)
            out = self._part(
                "response.output_text.done", content_index=0, text=text, logprobs=self.logprobs
            ) + self._part("response.content_part.done", content_index=0, part=part)
            done = _message(self.item["id"], text, status, self.logprobs)
        else:
            out = self._part(
                "response.function_call_arguments.done", arguments=text, name=self.item["name"]
            )
            done = dict(self.item)
            done["arguments"] = text
            done["status"] = status
        out += self._event("response.output_item.done", output_index=len(self.items), item=done)
        self.items.append(done)
        self.open = None
        return out

    def piece(self, reply, piece):
        out = ""
        if self.timed:
            self.timings = {"timings": reply.sequence.timings()}
        for delta in piece.deltas:
            if "reasoning_content" in delta:
                if self.open != "reasoning":
                    out += self._add("reasoning", _reasoning(identity("rs_"), "", "in_progress"))
                out += self._more("reasoning_text", delta["reasoning_content"], content_index=0)
            if "content" in delta:
                if self.open != "message":
                    out += self._add("message", _message(identity("msg_"), "", "in_progress"))
                    out += self._part(
                        "response.content_part.added", content_index=0, part=_text_part("")
                    )
                logprobs = [_logprob(self.engine, item) for item in piece.probs]
                piece.probs = []
                self.logprobs.extend(logprobs)
                out += self._more(
                    "output_text", delta["content"], content_index=0, logprobs=logprobs
                )
            for call in delta.get("tool_calls") or []:
                out += self._call(call)
        return out

    def _more(self, kind, text, **data):
        self.text += text
        data.update(self.timings)
        return self._part("response.%s.delta" % kind, delta=text, **data)

    def _call(self, call):
        function = call.get("function") or {}
        out = ""
        if "name" in function:
            out = self._add(("call", call["index"]), _function_call(call, "", "in_progress"))
        if function.get("arguments"):
            out += self._more("function_call_arguments", function["arguments"])
        return out

    def end(self, reply, piece):
        out = self.piece(reply, piece)
        out += self._close("incomplete" if _is_cut(reply) else "completed")
        body = self.response.complete(reply, self.items)
        timings = reply.sequence.timings()
        return out + self._event("response." + body["status"], response=body, timings=timings)

    def failure(self, error):
        what = error_object(error)
        return self._event("error", code=str(what["code"]), message=what["message"], param=None)


def install(service):
    """Add the routes to the service's application."""
    api = service.api

    @api.post(
        "/v1/responses", "/responses", takes="Responses", gives="Response", events=True,
        codes=(404,), says="OpenAI's responses",
    )  # fmt: skip
    async def responses(request):
        body = object_of(request)
        service.generator()
        chat, keep = continued(body, request)
        params = Params(chat)
        replies = await service.chat(chat, params, request)
        response = Response(service, body, chat, keep)
        if params.stream:
            writer = ResponseWriter(response, service.host.engine, params.timings_per_token)
            return stream(replies, writer, service, request)
        await replies.collect()
        reply = replies.replies[0]
        return response.complete(reply, await output_of(reply, service.host.engine))

    def continued(body, request):
        # Returns (chat request, the function that keeps the response, or None).
        stored = service.stored
        before = typed(body, "previous_response_id", "string")
        earlier = stored.get(before, request).messages() if before else []
        chat = chat_of(body, earlier)
        wanted = typed(body, "store", "boolean")
        if wanted is False or not stored.most:
            return chat, None
        context = chat["messages"][len(_instructions(body)) :]
        items = body["input"]

        def keep(answer, message):
            stored.put(answer, context + [_spoken(message)], items, request)

        return chat, keep

    @api.post(
        "/v1/responses/input_tokens", "/responses/input_tokens", takes="Responses",
        gives="InputTokens", codes=(404,), says="Count a response's prompt",
    )  # fmt: skip
    async def input_tokens(request):
        chat, _ = continued(object_of(request), request)
        n = await service.count(chat, request)
        return {"input_tokens": n, "object": "response.input_tokens"}

    @api.get(
        "/v1/responses/<name>", gives="Response", codes=(404,), says="A response that is kept"
    )
    def stored_response(request, name):
        return loads(service.stored.get(name, request).answer)

    @api.delete("/v1/responses/<name>", gives="Object", codes=(404,), says="Forget a response")
    def forget_response(request, name):
        service.stored.remove(name, request)
        return {"id": name, "object": "response", "deleted": True}

    @api.get(
        "/v1/responses/<name>/input_items", gives="ItemList", codes=(404,),
        says="What a response was asked with",
    )  # fmt: skip
    def input_items(request, name):
        items = _listed(loads(service.stored.get(name, request).items))
        return {
            "object": "list",
            "data": items,
            "first_id": items[0]["id"] if items else None,
            "last_id": items[-1]["id"] if items else None,
            "has_more": False,
        }

    @api.post(
        "/v1/responses/<name>/cancel", gives="Response", codes=(404,), says="Always an error"
    )
    def cancel_response(request, name):
        service.stored.get(name, request)
        raise invalid("Only responses in the background can be cancelled")


def _spoken(message):
    # The model's message as part of the next prompt, with the ids that the client was given.
    message = dict(message)
    calls = message.get("tool_calls")
    if calls:
        message["tool_calls"] = [dict(call, id="call_" + call["id"]) for call in calls]
    return message


def _listed(items):
    # OpenAI lists the newest item first.
    if isinstance(items, str):
        content = [{"type": "input_text", "text": items}]
        items = [{"type": "message", "role": "user", "content": content}]
    found = []
    for i in range(len(items) - 1, -1, -1):
        item = dict(items[i])
        item.setdefault("id", "item_%d" % i)
        item.setdefault("type", "message")
        found.append(item)
    return found
