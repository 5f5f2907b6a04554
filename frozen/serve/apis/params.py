"""From a request's JSON to generation parameters: types and ranges as llama-server checks them,
with its words, so that nothing unchecked reaches the engine. null means absent. Unknown fields are
ignored, because clients send many.
"""
# SPDX-License-Identifier: MIT

from httpd.jsonio import integers

from ..scheduling.errors import invalid
from ..scheduling.sequence import Options
from .sampler_ranges import INT32, RANGES

_UINT32 = 0xFFFFFFFF
_BEYOND = 1 << 1000  # fits a double, and lies outside of every field's range
_LEAST_FLOAT = -9223372036854775808.0  # -2^63; floats beyond +-2^63 are no integers here
_MAX_STOPS = 32
_MAX_STOP = 512  # characters
_MAX_PROMPTS = 64
_MAX_SALT = 256  # characters
_MAX_ITEMS = 4096  # of an array that Python checks item by item
_TOP_LOGPROBS = 20  # of a request that has `logprobs` but no number


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


def typed(body, name, kind):
    """Return the field `name`, None if it is absent or null. RequestError if it is no `kind`, one
    of JSON's types by name.
    """
    value = body.get(name)
    if value is not None and _kind(value) != kind:
        raise invalid("Field '%s': type must be %s, but is %s" % (name, kind, _kind(value)))
    if kind == "array" and value:
        few(value, name)
    return value


def few(items, name, most=_MAX_ITEMS):
    """Return `items` of the field `name`. RequestError if they are more than `most`."""
    if len(items) > most:
        raise invalid("Field '%s': more than %d items" % (name, most))
    return items


def integer(body, name, least, most, hard=True):
    """Return the integer field `name`, or None. hard: a value out of range is an error; otherwise
    it is clamped.
    """
    value = typed(body, name, "number")
    if value is None:
        return None
    if isinstance(value, float):
        # Compare floats with floats: beside an int, CPython compares exactly, MicroPython rounds.
        if not _LEAST_FLOAT <= value < -_LEAST_FLOAT or int(value) != value:  # NaN, too
            raise invalid("Field '%s': must be an integer" % name)
        value = int(value)
    if hard and not least <= value <= most:
        raise invalid(
            "Field '%s': Value must be between %d <= value <= %d, but got %d"
            % (name, least, most, value)
        )
    return min(most, max(least, value))


def number(body, name, least, most, hard=False):
    """Return the field `name` as a float, or None. hard: as in integer()."""
    value = typed(body, name, "number")
    if value is None:
        return None
    if isinstance(value, int):
        value = max(-_BEYOND, min(_BEYOND, value))
    value = float(value)
    if value - value != 0:  # an infinity or NaN, which JSON lacks (RFC 8259 6)
        raise invalid("Field '%s': must be a finite number" % name)
    if hard and not least <= value <= most:
        raise invalid(
            "Field '%s': Value must be between %g <= value <= %g, but got %g"
            % (name, least, most, value)
        )
    return min(most, max(least, value))


class Params:
    """The parameters of a generation in the JSON object `body`, checked. RequestError names the
    field. most: how many answers one request may ask for.

    stream, include_usage, timings_per_token, return_tokens, verbose, progress: bool; n: answers;
    max_tokens: int or None; stop: list of str; sampling: dict for the engine's sampler; lora: list
    of (adapter's number, scale), None for those that apply to all.
    """

    def __init__(self, body, most=1):
        if not isinstance(body, dict):
            raise invalid("the body must be a JSON object")
        self.stream = bool(typed(body, "stream", "boolean"))
        options = typed(body, "stream_options", "object") or {}
        self.include_usage = bool(typed(options, "include_usage", "boolean"))
        self.timings_per_token = bool(typed(body, "timings_per_token", "boolean"))
        self.return_tokens = bool(typed(body, "return_tokens", "boolean"))
        self.verbose = bool(typed(body, "verbose", "boolean"))
        self.progress = self.stream and bool(typed(body, "return_progress", "boolean"))
        self.n = integer(body, "n_cmpl", 1, most) or integer(body, "n", 1, most) or 1
        self.max_tokens = None
        # llama-server's order of precedence.
        for name in ("n_predict", "max_completion_tokens", "max_tokens"):
            value = integer(body, name, -1, INT32)
            if value is not None:
                self.max_tokens = None if value < 0 else value
                break
        self.stop = _stop(body)
        self.sampling = _sampling(body)
        self.n_probs = _n_probs(body)
        self.post_probs = bool(typed(body, "post_sampling_probs", "boolean"))
        self._scheduling(body)

    def _scheduling(self, body):
        self.priority = integer(body, "priority", -1000, 1000) or 0
        self.salt = typed(body, "cache_salt", "string") or ""
        if len(self.salt) > _MAX_SALT:
            raise invalid("Field 'cache_salt': longer than %d characters" % _MAX_SALT)
        cache = typed(body, "cache_prompt", "boolean")
        self.cache = True if cache is None else cache
        self.slot = integer(body, "id_slot", -1, INT32)
        self.lora = adapters_of(body.get("lora"), "lora")
        self.t_max_predict_ms = integer(body, "t_max_predict_ms", -1, 1 << 53) or 0
        self.n_draft = integer(body, "speculative.n_max", 0, 1 << 20)

    def options(self, stops=()):
        """Return Options for the scheduler. stops: stop strings beside the request's own."""
        return Options(
            max_tokens=self.max_tokens,
            min_tokens=self.sampling.get("min_tokens", 0),
            stop=self.stop + list(stops),
            n_probs=self.n_probs,
            post_probs=self.post_probs,
            priority=self.priority,
            salt=self.salt,
            cache=self.cache,
            t_max_predict_ms=max(0, self.t_max_predict_ms),
            n_draft=self.n_draft,
            progress=self.progress,
            slot=self.slot,
        )


def adapters_of(value, name):
    """Return llama-server's list of LoRA adapters, [{"id", "scale"}, ...], as a list of (id, scale),
    None for null.
    """
    if value is None:
        return None
    if not isinstance(value, list):
        raise invalid("Field '%s': must be an array" % name)
    found = []
    for item in few(value, name, 64):
        if not isinstance(item, dict):
            raise invalid("Field '%s': each must be an object" % name)
        found.append(
            (integer(item, "id", 0, INT32) or 0, number(item, "scale", -1e3, 1e3, True) or 0.0)
        )
    return found


def _sampling(body):
    sampling = {}
    for name, limits in RANGES.items():
        read = integer if limits.whole else number
        value = read(body, name, limits.least, limits.most, not limits.clamps)
        if value is not None:
            sampling[name] = value
    seed = _seed(body)
    if seed is not None:
        sampling["seed"] = seed
    if typed(body, "ignore_eos", "boolean"):
        sampling["ignore_eos"] = True
    # The engine checks the contents of these.
    for name in ("logit_bias", "samplers", "dry_sequence_breakers"):
        if body.get(name) is not None:
            sampling[name] = body[name]
    grammar = typed(body, "grammar", "string")
    schema = schema_of(body)
    if grammar:
        sampling["grammar"] = grammar
    elif schema is not None:
        sampling["json_schema"] = schema
    return sampling


def _seed(body):
    # llama.cpp's generators take 32 bits, where 2^32 - 1 means a random seed, as -1 does. OpenAI's
    # API takes any signed 64-bit integer: longer ones are hashed by multiplication (Knuth, TAOCP
    # 3, 6.4), so that the upper half counts, and none becomes a random seed.
    seed = integer(body, "seed", -(1 << 63), (1 << 63) - 1)
    if seed is None or seed in (-1, _UINT32):
        return None
    if not -(1 << 31) <= seed <= _UINT32:
        seed = (seed * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF) >> 32
    return min(seed & _UINT32, _UINT32 - 1)


def schema_of(body):
    """Return the JSON schema that an answer must follow, or None. It comes from `response_format`,
    in the forms of OpenAI and of llama-server's README, or from llama-server's `json_schema`. A
    schema is never ignored: RequestError if it stands anywhere else.
    """
    schema = typed(body, "json_schema", "object")
    if schema is not None and body.get("grammar"):
        raise invalid("Cannot use both json_schema and grammar")
    form = typed(body, "response_format", "object")
    if form is None:
        return schema
    kind = typed(form, "type", "string")
    own = _schema_in(form)
    for name in form:
        if name not in ("type", "schema", "json_schema") and isinstance(form[name], dict):
            raise invalid("response_format: there is no member '%s'" % name)
    if kind == "json_schema":
        if own is None:
            raise invalid("response_format: 'json_schema.schema' is required")
        schema = own
    elif kind == "json_object":
        if own is not None or schema is None:
            schema = own or {}
    elif kind and kind != "text":
        raise invalid(
            'response_format type must be one of "text", "json_object" or "json_schema", but got: '
            + kind
        )
    elif own is not None:
        raise invalid("response_format: a schema needs the type \"json_schema\"")
    if schema is not None and body.get("grammar"):
        raise invalid("Cannot use both json_schema and grammar")
    return schema


def _schema_in(form):
    # {"json_schema": {"schema": {}}} is OpenAI's, {"schema": {}} llama-server's and Anthropic's.
    wrapper = typed(form, "json_schema", "object")
    schema = typed(form, "schema", "object")
    for part in (form, wrapper or {}):
        typed(part, "strict", "boolean")
    if wrapper is None:
        return schema
    wrapped = typed(wrapper, "schema", "object")
    if wrapped is None and wrapper and schema is None:
        raise invalid("response_format: 'json_schema.schema' is required")
    return schema if wrapped is None else wrapped


def _n_probs(body):
    # In a chat, `logprobs` is a switch and `top_logprobs` the number; elsewhere `logprobs` is it.
    if isinstance(body.get("logprobs"), bool):
        if body["logprobs"]:
            n = integer(body, "top_logprobs", 0, 1000)
            return _TOP_LOGPROBS if n is None else n
        return None
    n = integer(body, "n_probs", 0, 1000)
    if n is None:
        n = integer(body, "logprobs", 0, 1000)
    return n or None


def _stop(body):
    stop = body.get("stop")
    if stop is None:
        return []
    if isinstance(stop, str):
        stop = [stop]
    if isinstance(stop, list) and len(stop) > _MAX_STOPS:
        raise invalid("Field 'stop': more than %d strings" % _MAX_STOPS)
    if not isinstance(stop, list) or not all([isinstance(word, str) for word in stop]):
        raise invalid("Field 'stop': must be a string or an array of strings")
    for word in stop:
        if len(word) > _MAX_STOP:
            raise invalid("Field 'stop': a string is longer than %d characters" % _MAX_STOP)
    return [word for word in stop if word]


def prompts_of(value, name="prompt"):
    """Return the prompts of the field `name`: a list of str, and of lists of token ids and str.
    Each may also be one of llama-server's objects, see _text_in().
    """
    if value is None:
        raise invalid('"%s" is required' % name)
    if isinstance(value, dict):
        value = _text_in(value, name)
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list):
        raise invalid('"%s" must be a string, a list of tokens, or a list of these' % name)
    if not value:
        raise invalid('"%s" must not be empty' % name)
    if integers(value, 0, INT32):
        return [value]
    few(value, name)
    numbers = [isinstance(item, int) and not isinstance(item, bool) for item in value]
    if any(numbers):
        return [_mixed(value, name)]
    if len(value) > _MAX_PROMPTS:
        raise invalid("Field '%s': more than %d prompts" % (name, _MAX_PROMPTS))
    prompts = []
    for item in value:
        if isinstance(item, list):
            prompts.append(_mixed(item, name))
        elif isinstance(item, str):
            prompts.append(item)
        elif isinstance(item, dict):
            prompts.append(_text_in(item, name))
        else:
            raise invalid('"%s" elements must be strings or lists of tokens' % name)
    return prompts


def _text_in(value, name):
    # The text of {"prompt_string": ...}, or of {"content": [{"type": "text", "text": ...}]}.
    if value.get("multimodal_data"):
        raise invalid("Field '%s': this model takes no multimodal_data" % name)
    if "content" not in value:
        text = value.get("prompt_string")
        if not isinstance(text, str):
            raise invalid("Field '%s': 'prompt_string' must be a string" % name)
        return text
    if isinstance(value["content"], str):
        return value["content"]
    texts = []
    for part in typed(value, "content", "array") or []:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind != "text" or not isinstance(part.get("text"), str):
            raise invalid("Field '%s': each part of 'content' must be text" % name)
        texts.append(part["text"])
    return "".join(texts)


def _mixed(value, name):
    if integers(value, 0, INT32):
        return value
    for item in few(value, name):
        if isinstance(item, bool) or not isinstance(item, (int, str)):
            raise invalid("Field '%s': a token must be an integer" % name)
    return value


def prompt_of(body):
    """Return the one `prompt` of a completion: a str, or a list of token ids and str."""
    prompts = prompts_of(body.get("prompt"))
    if len(prompts) != 1:
        raise invalid("Field 'prompt': only one prompt")
    return prompts[0]


def tokens_of(value, name):
    """Return `value` if it is a list of integers of 32 bits. RequestError if not."""
    if not isinstance(value, list):
        raise invalid("Field '%s': must be an array of tokens" % name)
    if not integers(value, -INT32 - 1, INT32):
        raise invalid("Field '%s': a token must be an integer of 32 bits" % name)
    return value
