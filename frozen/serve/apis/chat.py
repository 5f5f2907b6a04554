"""A chat request as the engine's conversation: OpenAI's fields, checked and turned into the
request of engine.chat(). The other chat APIs are turned into OpenAI's form first.
"""
# SPDX-License-Identifier: MIT

from httpd import jsonio

from ..scheduling.errors import invalid
from .params import few, integer, schema_of, typed

MAX_MESSAGES = 2048  # as OpenAI's API


class Conversation:
    """A rendered chat. prompt: text; stops: stop strings of the template; chat: the engine's
    conversation; plain: a reply needs no parsing; shown: control tokens that count as text of a
    reply, because its format is made of them.

    The engine's conversation holds a grammar of up to megabytes outside Python's heap, which no
    garbage collection accounts for: close() it, or use `with`.
    """

    def __init__(self, chat):
        self.chat = chat
        try:
            about = jsonio.loads(chat.describe())
        except BaseException:
            chat.close()
            raise
        self.prompt = about["prompt"]
        self.stops = about["stops"]
        self.plain = about["plain"]
        self.shown = () if self.plain else about.get("shown") or ()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def close(self):
        """Free the engine's conversation. Samplers and Replies made of it stay valid."""
        self.chat.close()


def conversation_of(body):
    """Return the request for engine.chat() that the JSON object of a chat completion makes."""
    request = {"messages": messages_of(body)}
    tools = typed(body, "tools", "array")
    _tools(body, tools, request)
    schema = schema_of(body)
    if schema is not None and request.get("tool_choice") != "required":
        request["json_schema"] = schema
    for name in ("parallel_tool_calls", "add_generation_prompt"):
        value = typed(body, name, "boolean")
        if value is not None:
            request.setdefault(name, value)
    _continuation(body, request)
    reasoning = typed(body, "reasoning_format", "string")
    if reasoning is not None:
        request["reasoning_format"] = reasoning
    _thinking(body, request)
    if body.get("logprobs") and tools and body.get("stream"):
        raise invalid("logprobs is not supported with tools + stream")
    # Clients that write out a schema's defaults send 0.
    if integer(body, "top_logprobs", 0, 1000) and not body.get("logprobs"):
        raise invalid("top_logprobs requires logprobs to be set to true")
    return request


def _continuation(body, request):
    # As llama-server's prefill_assistant: an answer that the client began is continued, unless it
    # sends continue_final_message: false.
    messages = request["messages"]
    wanted = body.get("continue_final_message")
    last = messages[-1]
    if wanted is None and last["role"] == "assistant":
        if len(messages) > 1 and messages[-2]["role"] == "assistant":
            raise invalid("Cannot have 2 or more assistant messages at the end of the list.")
        request["add_generation_prompt"] = False
        wanted = True
        if len(messages) > 1 and not (
            last.get("content") or last.get("tool_calls") or last.get("reasoning_content")
        ):
            # It is empty: there is nothing to continue.
            request["messages"] = messages[:-1]
            del request["add_generation_prompt"]
            return
    if wanted is not None:
        request["continue_final_message"] = wanted


def _tools(body, tools, request):
    choice = body.get("tool_choice")
    if choice is None:
        choice = "auto"
    names = None  # of the functions that may be called; None: of all
    if isinstance(choice, dict):
        choice, names = _chosen(choice, request)
    elif choice not in ("auto", "none", "required"):
        raise invalid("Invalid tool_choice: %s" % choice)
    if not tools:
        if choice == "required" or names:
            raise invalid("Field 'tool_choice': there are no tools to choose from")
        return
    if names is not None:
        have = [_name(tool) for tool in tools if isinstance(tool, dict)]
        for name in names:
            if name not in have:
                raise invalid("Field 'tool_choice': there is no such tool: '%s'" % name)
        tools = [tool for tool in tools if isinstance(tool, dict) and _name(tool) in names]
    if choice != "none" and body.get("grammar"):
        raise invalid("Cannot use custom grammar constraints with tools.")
    request["tools"] = tools
    request["tool_choice"] = choice
    if choice == "required":
        _spare_half(body, request)


def _chosen(choice, request):
    # Returns (mode, names of functions) of a tool_choice that is an object: OpenAI has two forms.
    kind = typed(choice, "type", "string") or "function"
    if kind == "function":
        function = typed(choice, "function", "object") or choice
        request["parallel_tool_calls"] = False  # a function by name is called once
        return "required", [_named(function)]
    if kind != "allowed_tools":
        raise invalid("Field 'tool_choice': the type must be \"function\" or \"allowed_tools\"")
    allowed = typed(choice, "allowed_tools", "object") or choice
    mode = typed(allowed, "mode", "string") or "auto"
    if mode not in ("auto", "required"):
        raise invalid("Field 'tool_choice': the mode must be \"auto\" or \"required\"")
    names = []
    for tool in typed(allowed, "tools", "array") or []:
        if not isinstance(tool, dict):
            raise invalid("Field 'tool_choice': each of 'tools' must be an object")
        if tool.get("type") in (None, "function"):  # others are OpenAI's own, such as web search
            names.append(_named(typed(tool, "function", "object") or tool))
    if not names:
        raise invalid("Field 'tool_choice': 'tools' names no function")
    return mode, names


def _named(function):
    name = function.get("name")
    if not isinstance(name, str) or not name:
        raise invalid("Field 'tool_choice': a function must have a name")
    return name


def _spare_half(body, request):
    # Thoughts before a forced call must leave room for it.
    for name in ("n_predict", "max_completion_tokens", "max_tokens"):
        limit = body.get(name)
        if isinstance(limit, int) and not isinstance(limit, bool) and limit > 0:
            request["reasoning_budget_tokens"] = limit // 2
            return


def _name(tool):
    function = tool.get("function")
    return function.get("name") if isinstance(function, dict) else None


def _thinking(body, request):
    variables = dict(typed(body, "chat_template_kwargs", "object") or {})
    thinking = variables.get("enable_thinking")
    if thinking is not None and not isinstance(thinking, bool):
        raise invalid('invalid type for "enable_thinking" (expected boolean)')
    effort = typed(body, "reasoning_effort", "string")
    if effort == "none":
        thinking = False
        variables.pop("reasoning_effort", None)
    elif effort:
        variables["reasoning_effort"] = effort
    if thinking is not None:
        request["enable_thinking"] = thinking
    if variables:
        request["chat_template_kwargs"] = variables
    for name in ("reasoning_budget_tokens", "thinking_budget_tokens"):
        budget = integer(body, name, -1, 0x7FFFFFFF)
        if budget is not None:
            request["reasoning_budget_tokens"] = budget
            break
    if typed(body, "reasoning_control", "boolean"):
        # A budget that never ends by itself.
        request.setdefault("reasoning_budget_tokens", 0x7FFFFFFF)
    message = typed(body, "reasoning_budget_message", "string")
    if message:
        request["reasoning_budget_message"] = message


def messages_of(body):
    """Return the `messages` of a chat (a list of dict), checked as far as templates need it."""
    messages = body.get("messages")
    if messages is None:
        raise invalid("'messages' is required")
    if not isinstance(messages, list):
        raise invalid("Expected 'messages' to be an array")
    if not messages:
        raise invalid("'messages' must not be empty")
    for message in few(messages, "messages", MAX_MESSAGES):
        if not isinstance(message, dict):
            raise invalid("Expected each of 'messages' to be an object")
        role = message.get("role")
        if not isinstance(role, str):
            raise invalid("Field 'role': each message must have one, a string")
        if "content" not in message:
            if role != "assistant":
                raise invalid("All non-assistant messages must contain 'content'")
            if not message.get("tool_calls"):
                raise invalid("Assistant message must contain either 'content' or 'tool_calls'!")
        content = message.get("content")
        if content is None or isinstance(content, str):
            continue
        if not isinstance(content, list):
            raise invalid("Expected 'content' to be a string or an array")
        for part in few(content, "content"):
            _part(part)
    return messages


def text_size(messages):
    """Return how many characters the contents of checked messages have."""
    size = 0
    for message in messages:
        content = message.get("content")
        if isinstance(content, str):
            size += len(content)
        elif content:
            size += sum([len(part["text"]) for part in content])
    return size


def _part(part):
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text":
        if not isinstance(part.get("text"), str):
            raise invalid("Field 'text': a content part of type text must have one, a string")
    elif kind in ("image_url", "input_audio", "input_video"):
        raise invalid("%s input is not supported by this model" % kind.replace("_url", ""))
    else:
        raise invalid("unsupported content[].type")
