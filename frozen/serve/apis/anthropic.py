"""Anthropic's Messages API: requests become chat requests, as in llama-server (server-chat.cpp),
and answers become content blocks.
"""
# SPDX-License-Identifier: MIT

from httpd import HttpError
from httpd.jsonio import dumps, loads

from ..scheduling.errors import error_object, invalid
from .chat import MAX_MESSAGES
from .openai import identity, object_of
from .params import Params, few, typed
from .sse import Writer, event, stream

_CHOICES = {"auto": "auto", "any": "required", "none": "none"}
_MAX_TOKENS = 4096  # of a request without max_tokens, which Anthropic's API would refuse
_SAME = (
    "temperature", "top_p", "top_k", "stream", "chat_template_kwargs", "priority", "cache_salt",
    "min_tokens", "seed", "logit_bias", "presence_penalty", "frequency_penalty", "min_p",
    "repeat_penalty", "repeat_last_n", "response_format", "json_schema", "grammar",
    "add_generation_prompt", "continue_final_message",
)  # fmt: skip


def chat_of(body):
    """Return an Anthropic request as a chat completion request."""
    chat = {"messages": _system(body) + _messages(body)}
    tools = typed(body, "tools", "array")
    if tools:
        chat["tools"] = [_tool(tool) for tool in tools]
    choice = typed(body, "tool_choice", "object")
    if choice is not None:
        chat["tool_choice"] = _choice(choice)
        if typed(choice, "disable_parallel_tool_use", "boolean"):
            chat["parallel_tool_calls"] = False
    stop = typed(body, "stop_sequences", "array")
    if stop:
        chat["stop"] = stop
    limit = body.get("max_tokens")
    chat["max_tokens"] = _MAX_TOKENS if limit is None else limit
    for name in _SAME:
        if body.get(name) is not None:
            chat[name] = body[name]
    form = _format(body)
    if form is not None:
        chat["response_format"] = form
    thinking = typed(body, "thinking", "object") or {}
    if thinking.get("type") == "enabled":
        budget = thinking.get("budget_tokens")
        chat["thinking_budget_tokens"] = 10000 if budget is None else budget
    return chat


def _format(body):
    # output_config.format, or output_format, its name in the beta.
    for place in (typed(body, "output_config", "object") or {}, body):
        name = "output_format" if place is body else "format"
        form = typed(place, name, "object")
        if form is None:
            continue
        if form.get("type") != "json_schema":
            raise invalid("Field '%s': the type must be \"json_schema\"" % name)
        return form
    return None


def _system(body):
    system = body.get("system")
    if system is None or system == []:
        return []
    if isinstance(system, str):
        return [{"role": "system", "content": system}]
    if not isinstance(system, list):
        raise invalid("Field 'system': must be a string or an array")
    texts = [block.get("text") for block in few(system, "system") if isinstance(block, dict)]
    return [{"role": "system", "content": "".join([t for t in texts if isinstance(t, str)])}]


def _messages(body):
    messages = body.get("messages")
    if messages is None:
        raise invalid("'messages' is required")
    if not isinstance(messages, list):
        raise invalid("Expected 'messages' to be an array")
    converted = []
    for message in few(messages, "messages", MAX_MESSAGES):
        if not isinstance(message, dict):
            raise invalid("Expected each of 'messages' to be an object")
        if isinstance(message.get("content"), list):
            converted.extend(_blocks(message))
        else:
            converted.append(message)
    return converted


def _blocks(message):
    # A message of content blocks becomes one message per tool result, and one of text and tool
    # calls. Results come first: they follow their calls directly.
    parts = []
    calls = []
    results = []
    thoughts = []
    for block in few(message["content"], "content"):
        kind = block.get("type") if isinstance(block, dict) else None
        if kind == "text":
            parts.append({"type": "text", "text": block.get("text")})
        elif kind == "thinking":
            thoughts.append(block.get("thinking") or "")
        elif kind == "tool_use":
            function = {"name": block.get("name"), "arguments": dumps(block.get("input") or {})}
            calls.append({"id": block.get("id"), "type": "function", "function": function})
        elif kind == "tool_result":
            results.append(
                {
                    "role": "tool",
                    "tool_call_id": block.get("tool_use_id"),
                    "content": _result_text(block.get("content")),
                }
            )
        elif kind != "redacted_thinking":
            raise invalid("%s input is not supported by this model" % kind)
    if parts or calls or thoughts:
        new = {"role": message.get("role"), "content": parts or ""}
        if calls:
            new["tool_calls"] = calls
        if thoughts:
            new["reasoning_content"] = "".join(thoughts)
        results.append(new)
    return results


def _result_text(content):
    if not isinstance(content, list):
        return content or ""
    texts = []
    for block in content:
        if not isinstance(block, dict) or block.get("type") != "text":
            raise invalid("a tool result must be text")
        texts.append(block.get("text") or "")
    return "".join(texts)


def _tool(tool):
    if not isinstance(tool, dict) or not isinstance(tool.get("name"), str):
        raise invalid("Field 'tools': each tool must have a name")
    function = {
        "name": tool["name"],
        "description": tool.get("description") or "",
        "parameters": tool.get("input_schema") or {},
    }
    return {"type": "function", "function": function}


def _choice(choice):
    kind = choice.get("type")
    if kind == "tool":
        return {"type": "function", "function": {"name": choice.get("name")}}
    if kind not in _CHOICES:
        raise invalid("Field 'tool_choice': the type must be one of auto, any, tool, none")
    return _CHOICES[kind]


def _stop_reason(reply, stops):
    if reply.message.get("tool_calls") and reply.sequence.finish_reason == "stop":
        return "tool_use"
    if reply.sequence.finish_reason != "stop":
        return "max_tokens"
    return "stop_sequence" if reply.sequence.stop_word in stops else "end_turn"


def _usage(sequence, generated):
    return {
        "cache_creation": {"ephemeral_1h_input_tokens": 0, "ephemeral_5m_input_tokens": 0},
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": sequence.n_cached,
        "inference_geo": None,
        "input_tokens": sequence.n_prompt - sequence.n_cached,
        "output_tokens": generated,
        "output_tokens_details": None,
        "server_tool_use": None,
        "service_tier": "standard",
    }


def _message(service, content, stop_reason, stop_sequence, usage):
    return {
        "id": identity("msg_"),
        "type": "message",
        "role": "assistant",
        "container": None,
        "content": content,
        "model": service.host.alias,
        "stop_details": None,
        "stop_reason": stop_reason,
        "stop_sequence": stop_sequence,
        "usage": usage,
    }


def _text_block(text):
    return {"type": "text", "text": text, "citations": None}


def _tool_block(call):
    # "direct": the model called it, no code of the model's did.
    return {
        "type": "tool_use",
        "id": call["id"],
        "name": call["function"]["name"],
        "input": {},
        "caller": {"type": "direct"},
    }


def _content(reply):
    message = reply.message
    cut = reply.sequence.finish_reason != "stop"
    blocks = []
    if message.get("reasoning_content"):
        blocks.append(
            {"type": "thinking", "thinking": message["reasoning_content"], "signature": ""}
        )
    if message.get("content"):
        blocks.append(_text_block(message["content"]))
    for call in message.get("tool_calls") or []:
        use = _tool_block(call)
        use["input"] = _input(call["function"]["arguments"], cut)
        blocks.append(use)
    return blocks


def _input(text, cut):
    # A call's arguments, as an object in any case: {} if max_tokens cut them off, and the text as
    # it is if the model wrote no JSON object.
    try:
        arguments = loads(text)
        if isinstance(arguments, dict):
            return arguments
    except ValueError:
        pass
    return {} if cut or not text.strip() else {"raw_arguments": text}


class MessageWriter(Writer):
    """Events of a message. A block is opened by its first piece, and closed by one of another
    kind.
    """

    def __init__(self, service, stops):
        self.service = service
        self.stops = stops
        self.index = -1
        self.open = None  # what the open block is: "thinking", "text" or ("tool", number)

    def start(self, replies):
        usage = _usage(replies.replies[0].sequence, 0)
        message = _message(self.service, [], None, None, usage)
        return event("message_start", {"type": "message_start", "message": message})

    def _block(self, what, block):
        # Opens a block unless this one is open.
        if self.open == what:
            return ""
        out = self._close()
        self.open = what
        self.index += 1
        return out + event(
            "content_block_start",
            {"type": "content_block_start", "index": self.index, "content_block": block},
        )

    def _close(self):
        if self.open is None:
            return ""
        out = ""
        if self.open == "thinking":
            out = self._delta({"type": "signature_delta", "signature": ""})
        self.open = None
        stop = {"type": "content_block_stop", "index": self.index}
        return out + event("content_block_stop", stop)

    def _delta(self, delta):
        data = {"type": "content_block_delta", "index": self.index, "delta": delta}
        return event("content_block_delta", data)

    def piece(self, reply, piece):
        out = ""
        for delta in piece.deltas:
            if "reasoning_content" in delta:
                block = {"type": "thinking", "thinking": "", "signature": ""}
                out += self._block("thinking", block)
                out += self._delta(
                    {"type": "thinking_delta", "thinking": delta["reasoning_content"]}
                )
            if "content" in delta:
                out += self._block("text", _text_block(""))
                out += self._delta({"type": "text_delta", "text": delta["content"]})
            for call in delta.get("tool_calls") or []:
                out += self._call(call)
        return out

    def _call(self, call):
        function = call.get("function") or {}
        out = ""
        if "name" in function:
            out = self._block(("tool", call["index"]), _tool_block(call))
        if function.get("arguments"):
            out += self._delta({"type": "input_json_delta", "partial_json": function["arguments"]})
        return out

    def end(self, reply, piece):
        out = self.piece(reply, piece) + self._close()
        delta = {
            "stop_reason": _stop_reason(reply, self.stops),
            "stop_sequence": reply.sequence.stop_word,
        }
        usage = _usage(reply.sequence, reply.sequence.n_generated)
        out += event("message_delta", {"type": "message_delta", "delta": delta, "usage": usage})
        return out + event("message_stop", {"type": "message_stop"})

    def failure(self, error):
        return event("error", {"type": "error", "error": error_object(error)})


def _shaped(handler):
    # Wraps the object of an error in the form that Anthropic's clients read.
    async def shaped(request):
        try:
            return await handler(request)
        except HttpError as exc:
            return {"type": "error", "error": error_object(exc)}, exc.status, exc.headers

    return shaped


def install(service):
    """Add the routes to the service's application."""
    api = service.api

    @api.post(
        "/v1/messages", takes="Messages", gives="Message", events=True, says="Anthropic's messages"
    )
    @_shaped
    async def messages(request):
        body = object_of(request)
        service.generator()
        chat = chat_of(body)
        params = Params(chat)
        replies = await service.chat(chat, params, request)
        if params.stream:
            return stream(replies, MessageWriter(service, params.stop), service, request)
        await replies.collect()
        reply = replies.replies[0]
        return _message(
            service,
            _content(reply),
            _stop_reason(reply, params.stop),
            reply.sequence.stop_word,
            _usage(reply.sequence, reply.sequence.n_generated),
        )

    @api.post(
        "/v1/messages/count_tokens", takes="Messages", gives="InputTokens", says="Count a prompt"
    )
    @_shaped
    async def count_tokens(request):
        return {"input_tokens": await service.count(chat_of(object_of(request)), request)}
