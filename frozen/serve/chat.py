# A chat request as the engine's conversation: OpenAI's fields checked and brought into the form of
# engine.chat(). The other chat APIs are brought into OpenAI's form first.
# MIT license; Copyright (c) 2026 cllm contributors

from httpd import jsonio

from .errors import invalid
from .params import few, integer, typed

MAX_MESSAGES = 2048  # as OpenAI's API


class Conversation:
    """A rendered chat. prompt: text; stops: stop strings of the template; chat: the engine's
    conversation; plain: a reply needs no parsing.
    """

    def __init__(self, engine, request):
        try:
            self.chat = engine.chat(jsonio.dumps_narrow(request))
        except (ValueError, RuntimeError) as exc:
            raise invalid(str(exc))
        about = jsonio.loads(self.chat.describe())
        self.prompt = about["prompt"]
        self.stops = about["stops"]
        self.plain = about["plain"]


def conversation_of(body):
    """The request for engine.chat(), from the JSON object of a chat completion."""
    request = {"messages": messages_of(body)}
    tools = typed(body, "tools", "array")
    if tools:
        _tools(body, tools, request)
    _format(body, request)
    for name in ("parallel_tool_calls", "add_generation_prompt"):
        value = typed(body, name, "boolean")
        if value is not None:
            request[name] = value
    if body.get("continue_final_message") is not None:
        request["continue_final_message"] = body["continue_final_message"]
    reasoning = typed(body, "reasoning_format", "string")
    if reasoning is not None:
        request["reasoning_format"] = reasoning
    _thinking(body, request)
    if body.get("logprobs") and tools and body.get("stream"):
        raise invalid("logprobs is not supported with tools + stream")
    if body.get("top_logprobs") is not None and not body.get("logprobs"):
        raise invalid("top_logprobs requires logprobs to be set to true")
    return request


def _tools(body, tools, request):
    choice = body.get("tool_choice")
    if isinstance(choice, dict):
        # One function by name: it is the only one, and must be called.
        name = (typed(choice, "function", "object") or {}).get("name")
        tools = [t for t in tools if isinstance(t, dict) and _name(t) == name]
        if not tools:
            raise invalid("Field 'tool_choice': there is no such tool")
        choice = "required"
    elif choice is None:
        choice = "auto"
    elif choice not in ("auto", "none", "required"):
        raise invalid("Invalid tool_choice: %s" % choice)
    if choice != "none" and body.get("grammar"):
        raise invalid("Cannot use custom grammar constraints with tools.")
    request["tools"] = tools
    request["tool_choice"] = choice


def _name(tool):
    function = tool.get("function")
    return function.get("name") if isinstance(function, dict) else None


def _format(body, request):
    schema = typed(body, "json_schema", "object")
    if schema is not None and body.get("grammar"):
        raise invalid("Cannot use both json_schema and grammar")
    wanted = typed(body, "response_format", "object")
    if wanted is not None:
        kind = typed(wanted, "type", "string")
        if kind == "json_object":
            if schema is None:
                schema = typed(wanted, "schema", "object") or {}
        elif kind == "json_schema":
            wrapper = typed(wanted, "json_schema", "object") or {}
            schema = typed(wrapper, "schema", "object") or {}
        elif kind and kind != "text":
            raise invalid(
                'response_format type must be one of "text" or "json_object", but got: ' + kind
            )
    if schema is not None:
        request["json_schema"] = schema


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
    message = typed(body, "reasoning_budget_message", "string")
    if message:
        request["reasoning_budget_message"] = message


def messages_of(body):
    """The `messages` of a chat, checked as far as the template relies on it; a list of dict."""
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
    """Return the number of characters in the contents of checked messages."""
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
