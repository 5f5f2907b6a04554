# From a request's JSON to generation parameters: types and ranges as llama-server checks them,
# with its words, so that nothing unchecked reaches the engine. null means absent; unknown fields
# are ignored, because clients send many.
# MIT license; Copyright (c) 2026 cllm contributors

from .errors import invalid

_INT32 = 0x7FFFFFFF
_MAX_STOPS = 32
_MAX_STOP = 512  # characters

# name: (least, most, whether a value outside is an error and not clamped)
_INTS = {
    "top_k": (0, _INT32, False),
    "min_keep": (0, _INT32, True),
    "repeat_last_n": (0, _INT32, True),
}
_FLOATS = {
    "temperature": (0.0, 1e9),
    "top_p": (0.0, 1.0),
    "min_p": (0.0, 1.0),
    "typical_p": (-1e9, 1e9),
    "repeat_penalty": (-1e9, 1e9),
    "presence_penalty": (-1e9, 1e9),
    "frequency_penalty": (-1e9, 1e9),
}


def _kind(value):
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, (int, float)):
        return "number"
    if isinstance(value, str):
        return "string"
    return "array" if isinstance(value, list) else "object"


def _typed(body, name, kind):
    value = body.get(name)
    if value is not None and _kind(value) != kind:
        raise invalid("Field '%s': type must be %s, but is %s" % (name, kind, _kind(value)))
    return value


def _int(body, name, least, most, hard):
    value = _typed(body, name, "number")
    if value is None:
        return None
    if value != value or abs(value) > 1e18 or int(value) != value:
        raise invalid("Field '%s': must be an integer" % name)
    value = int(value)
    if hard and not least <= value <= most:
        raise invalid(
            "Field '%s': Value must be between %d <= value <= %d, but got %d"
            % (name, least, most, value)
        )
    return min(most, max(least, value))


class Params:
    """Checked parameters of one generation.

    max_tokens: int or None; stop: list of str; sampling: dict for the engine's sampler; stream,
    include_usage: bool. `body` is a JSON object; raises RequestError naming the field.
    """

    def __init__(self, body):
        if not isinstance(body, dict):
            raise invalid("the body must be a JSON object")
        self.stream = bool(_typed(body, "stream", "boolean"))
        options = _typed(body, "stream_options", "object") or {}
        self.include_usage = bool(_typed(options, "include_usage", "boolean"))
        _int(body, "n", 1, 1, True)  # one answer per request
        self.max_tokens = None
        # llama-server's order of precedence.
        for name in ("n_predict", "max_completion_tokens", "max_tokens"):
            value = _int(body, name, -1, _INT32, True)
            if value is not None:
                self.max_tokens = None if value < 0 else value
                break
        self.stop = _stop(body)
        self.sampling = sampling = {}
        for name in _INTS:
            least, most, hard = _INTS[name]
            value = _int(body, name, least, most, hard)
            if value is not None:
                sampling[name] = value
        for name in _FLOATS:
            value = _typed(body, name, "number")
            if value is not None:
                if value != value:
                    raise invalid("Field '%s': not a number" % name)
                least, most = _FLOATS[name]
                sampling[name] = min(most, max(least, float(value)))
        seed = _int(body, "seed", -(1 << 62), 1 << 62, True)
        if seed is not None and seed != -1:
            sampling["seed"] = seed & 0xFFFFFFFF


def _stop(body):
    stop = body.get("stop")
    if stop is None:
        return []
    if isinstance(stop, str):
        stop = [stop]
    if not isinstance(stop, list) or not all([isinstance(word, str) for word in stop]):
        raise invalid("Field 'stop': must be a string or an array of strings")
    if len(stop) > _MAX_STOPS:
        raise invalid("Field 'stop': more than %d strings" % _MAX_STOPS)
    for word in stop:
        if len(word) > _MAX_STOP:
            raise invalid("Field 'stop': a string is longer than %d characters" % _MAX_STOP)
    return [word for word in stop if word]


def prompt_of(body):
    """The `prompt` of a completion: str, or a list of token ids."""
    prompt = body.get("prompt")
    if prompt is None:
        raise invalid('"prompt" is required')
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], (str, list)):
        prompt = prompt[0]
    if isinstance(prompt, str):
        return prompt
    if isinstance(prompt, list):
        if not prompt:
            raise invalid('"prompt" must not be empty')
        if all([isinstance(item, str) for item in prompt]):
            raise invalid("Field 'prompt': only one prompt per request is supported")
        return tokens_of(prompt, "prompt")
    raise invalid("Field 'prompt': must be a string, a list of tokens, or a list of one of these")


def tokens_of(value, name):
    """`value` if it is a list of integers."""
    if not isinstance(value, list):
        raise invalid("Field '%s': must be an array of tokens" % name)
    for token in value:
        if isinstance(token, bool) or not isinstance(token, int):
            raise invalid("Field '%s': a token must be an integer" % name)
    return value


def messages_of(body):
    """The `messages` of a chat, checked as far as the template relies on it; a list of dict."""
    messages = body.get("messages")
    if messages is None:
        raise invalid("'messages' is required")
    if not isinstance(messages, list):
        raise invalid("Expected 'messages' to be an array")
    if not messages:
        raise invalid("'messages' must not be empty")
    for message in messages:
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
        for part in content:
            _part(part)
    return messages


def _part(part):
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text":
        if not isinstance(part.get("text"), str):
            raise invalid("Field 'text': a content part of type text must have one, a string")
    elif kind in ("image_url", "input_audio", "input_video"):
        raise invalid("%s input is not supported by this model" % kind.replace("_url", ""))
    else:
        raise invalid("unsupported content[].type")
