"""llama-server's own object of a completion, which is also what `verbose` adds to a chat."""
# SPDX-License-Identifier: MIT

from ..scheduling.detok import text_of
from ..scheduling.errors import invalid
from .params import typed
from .reply import described, probs_object
from .sampler_ranges import RANGES

# llama.cpp's default order.
_SAMPLERS = [
    "penalties", "dry", "top_n_sigma", "top_k", "typ_p", "top_p", "min_p", "xtc", "temperature",
]  # fmt: skip


def settings_of(params, brief=False, ends=()):
    """Return llama-server's generation_settings: its defaults, and what was asked for over them.
    brief: as in /props. ends: tokens that end a generation, if they may not be chosen.
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
            "lora": [{"id": item[0], "scale": item[1]} for item in params.lora or ()],
        }
    )
    if not brief:
        settings["stop"] = params.stop
        settings["grammar"] = params.sampling.get("grammar", "")
        # null stands for minus infinity, which JSON lacks.
        settings["logit_bias"] = [{"token": token, "bias": None} for token in ends]
    return settings


class Completion:
    """llama-server's native answer to one prompt."""

    def __init__(self, service, params, body, prompts, ends=()):
        self.service = service
        self.engine = service.host.engine
        self.params = params
        self.prompts = prompts
        self.fields = _fields(body)
        self.ends = ends

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

    def progress(self, reply, progress):
        """Return the object of an event that says how much of the prompt is computed."""
        body = self._common(reply, "", [], False)
        body["prompt_progress"] = progress
        return body

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
                "generation_settings": settings_of(self.params, False, self.ends),
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
