# What user code imports: `from cllm import app, llm`.
#
#     @app.get("/joke/<subject>")
#     async def joke(request, subject):
#         return await llm.chat([{"role": "user", "content": "A joke about " + subject}])
# MIT license; Copyright (c) 2026 cllm contributors

from serve.openai import collect
from serve.params import Params, messages_of, prompt_of
from serve.service import service

app = service.app


class Llm:
    """The model, through the scheduler that all requests share.

    Parameters are those of the HTTP API: max_tokens, temperature, top_p, top_k, min_p, seed, stop
    ... Errors are exceptions with `status` and `message`; one that a handler does not catch
    becomes that answer: 503 without a model, 400 for wrong parameters or a prompt too long.
    """

    async def generate(self, prompt, **params):
        """Completes `prompt` (str or list of token ids); returns the new text."""
        return await collect(self.stream(prompt, **params))

    async def chat(self, messages, **params):
        """Answers `messages`: a list of {"role", "content"}, or the user's words; returns text."""
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        return await collect(service.chat(messages_of({"messages": messages}), Params(params)))

    def stream(self, prompt, **params):
        """Like generate(), piece by piece: `async for text, tokens in llm.stream(...)`. Call
        cancel() on it to stop early.
        """
        return service.generate(prompt_of({"prompt": prompt}), Params(params))

    async def tokenize(self, text, add_special=False):
        """Token ids of `text`; add_special: with what the model wants at the beginning."""
        return service.tokenize(text, add_special)


llm = Llm()
