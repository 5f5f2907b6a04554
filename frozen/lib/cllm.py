"""What user code imports: `from cllm import app, llm`.

@app.get("/joke/<subject>")
async def joke(request, subject):
    return {"joke": await llm.chat("A joke about " + subject)}

@app.middleware
async def count(request, handler):
    response = await handler(request)
    ...
    return response
"""
# SPDX-License-Identifier: MIT

from serve.apis.params import Params, prompt_of
from serve.service import service

app = service.app


class Llm:
    """The model, through the scheduler that all requests share.

    Parameters are those of the HTTP API: max_tokens, temperature, top_p, top_k, min_p, seed, stop,
    priority, json_schema, grammar, tools ... Errors are exceptions with `status` and `message`:
    503 without a model, 400 for wrong parameters or a prompt that is too long. One that a handler
    does not catch becomes its answer.
    """

    async def generate(self, prompt, **params):
        """Complete `prompt` (str or list of token ids). Return the new text."""
        replies = await service.generate([prompt_of({"prompt": prompt})], Params(params))
        await replies.collect()
        return replies.replies[0].text

    async def chat(self, messages, **params):
        """Answer `messages`: a list of {"role", "content"}, or the user's words. Return text."""
        return (await self.reply(messages, **params)).get("content") or ""

    async def reply(self, messages, **params):
        """Like chat(). Return OpenAI's message object, with tool_calls and reasoning_content."""
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        body = dict(params)
        body["messages"] = messages
        replies = await service.chat(body, Params(params))
        await replies.collect()
        return replies.replies[0].message

    def stream(self, prompt, **params):
        """Like generate(), piece by piece: `async for piece in llm.stream(...)` gives new text as
        piece.text. cancel() stops it early.
        """
        return _Stream(prompt_of({"prompt": prompt}), Params(params))

    async def tokenize(self, text, add_special=False):
        """Return the token ids of `text`. add_special: with the model's token for a beginning."""
        return await service.tokenize(text, add_special)

    async def embed(self, text):
        """Return the embedding of `text`: a list of float, a vector of length 1."""
        return await service.embed(await service.tokenize(text))


class _Stream:
    # The pieces of a text. Its generation starts when the first piece is asked for.
    def __init__(self, prompt, params):
        self._prompt = prompt
        self._params = params
        self._sequence = None
        self._cancelled = False

    def __aiter__(self):
        return self

    async def __anext__(self):
        if self._cancelled:
            raise StopAsyncIteration
        if self._sequence is None:
            replies = await service.generate([self._prompt], self._params)
            self._sequence = replies.replies[0].sequence
        return await self._sequence.__anext__()

    def cancel(self):
        self._cancelled = True
        if self._sequence is not None:
            self._sequence.cancel()


llm = Llm()
