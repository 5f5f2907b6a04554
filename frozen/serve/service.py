"""The service as one object: the application, the engine and the scheduler, and the steps that the
HTTP routes and user code share.
"""
# SPDX-License-Identifier: MIT

import asyncio
import time

from httpd import App, jsonio
from httpd.jsonio import integers

from .apis.access import client_of
from .apis.chat import Conversation, conversation_of, text_size
from .apis.reply import Replies, Reply
from .apis.saved import Saved
from .apis.stored import Stored
from .apis.streams import Streams
from .apis.table import Table
from .scheduling.beginning import beginning_of
from .scheduling.engine import LOADING, READY, EngineHost
from .scheduling.errors import RequestError, context_error, error_response, invalid, unavailable
from .scheduling.preparation import Preparation, Turns
from .scheduling.scheduler import Bounds, Scheduler
from .switching import Switch, idle

# Tokens of real vocabularies are rarely longer. A text that would not fit even so is refused
# before tokenizing it keeps others waiting.
_BYTES_PER_TOKEN = 64
_MAX_TOKEN = (1 << 31) - 1
_LOOK_S = 0.02  # between two looks for the end of jobs


class Service:
    """app: the httpd App. host: an EngineHost, set by configure(). scheduler: None until the model
    is ready.
    """

    def __init__(self):
        self.app = App()
        self.app.error(error_response)
        self.api = Table(self.app)
        self.host = EngineHost("")
        self.scheduler = None
        self.bounds = Bounds()
        self.hidden = ()
        self.started = int(time.time())
        self.stored = Stored()
        self.streams = Streams()
        self.saved = Saved()
        self._turns = Turns()
        self.last_crash = None  # for /health: how the machine died before this boot, if it did
        # Likewise: texts that name network cards without a driver.
        self.unknown_cards = []
        self.network = None  # returns what /health?network=1 says
        self._ends = (None, ())
        self._task = None
        self._reload = None  # the task of reload(), kept from the garbage collector
        self._retired = None  # likewise of what adopt() begins
        self.switch = Switch(self)

    def configure(self, host, bounds=None, hidden=()):
        """Set what to serve. Loads nothing. hidden: as in Settings."""
        self.host = host
        self.hidden = hidden
        self.bounds = bounds or Bounds()
        self.stored = Stored(self.bounds.stored)
        self.streams = Streams(self.bounds.streams)

    async def start(self):
        """Load the model and, if that succeeds, start the scheduler's task."""
        await self.host.load()
        await self._run()

    async def _run(self):
        # Start the scheduler's task, if the model is loaded.
        if self.host.state == READY:
            drafter = self.host.drafter
            self.scheduler = Scheduler(
                self.host.engine,
                self.bounds,
                on_broken=self.host.fail,
                draft_engine=drafter,
                ended=self.host.ended,
            )
            self.saved = Saved(self.bounds.saved)
            self._task = asyncio.create_task(self.scheduler.run())
            if self.host.engine.generates:
                await self._begin(self.scheduler)

    async def _begin(self, scheduler):
        # A request that comes meanwhile waits: it would compute the beginning itself.
        scheduler.holds = True
        tokens = ()
        try:
            tokens = await beginning_of(self)
        finally:
            scheduler.begin(tokens)

    @staticmethod
    def discard(path):
        """Free the memory of a model's file that nobody uses; the machine replaces this."""

    async def retire(self, reason):
        """Let what runs end, then free the model. New requests get a 503 with `reason`."""
        host = self.host
        host.state = LOADING
        host.progress = 0.0
        await idle(self.scheduler, self._turns)
        await self._end(self.scheduler, self._task, host, reason)

    async def adopt(self, host):
        """Serve the loaded model of another EngineHost from now on. The present one is freed when
        what runs has ended.
        """
        before = self.scheduler, self._task, self.host
        self.host = host
        self.scheduler = self._task = None
        await self._run()
        self._retired = asyncio.create_task(self._retire(*before))

    async def _retire(self, scheduler, task, host):
        await idle(scheduler, self._turns)
        await self._end(scheduler, task, host, "the model was changed")
        if host.path != self.host.path:
            self.discard(host.path)

    async def _end(self, scheduler, task, host, reason):
        if task:
            task.cancel()
            try:
                await task
            except asyncio.CancelledError:
                pass
        if scheduler:
            scheduler.end(reason)
        host.close()

    def reload(self):
        """Begin to load the model again, after it was lost or failed to load as well as while it
        is served. Requests that wait or run end with a 503. RequestError while it is loading.
        """
        if self.host.state == LOADING:
            raise unavailable("Loading model", {"progress": self.host.progress})
        self.host.state = LOADING
        self.host.progress = 0.0
        self._reload = asyncio.create_task(self._load_again())

    async def _load_again(self):
        if self._task:
            self._task.cancel()
            try:
                await self._task
            except asyncio.CancelledError:
                pass
            self._task = None
        if self.scheduler:
            self.scheduler.end("Loading model")
        while self._turns.busy:  # with jobs of the engine that is closed next
            await asyncio.sleep(_LOOK_S)
        self.host.close()
        await self.start()

    def look(self):
        """Stop the engine if all clients have left for whom it computes. The network calls this
        when it has news, at any time, also during a decode.
        """
        if self.scheduler:
            self.scheduler.look()

    def stop(self):
        """End the scheduler's task."""
        self.switch.stop()
        for task in (self._reload, self._retired, self._task):
            if task:
                task.cancel()

    def engine(self):
        """Return the engine. RequestError 503 while there is none to use."""
        host = self.host
        lost = host.lost() if host.state == READY else None
        if lost:
            self.scheduler.lose(lost)
        if host.state == READY:
            return host.engine
        if host.state == LOADING:
            raise unavailable("Loading model", {"progress": host.progress})
        raise unavailable(host.reason)

    def generator(self):
        """Return the engine. RequestError 501 if it does not generate text, 503 as engine()."""
        engine = self.engine()
        if not engine.generates:
            raise RequestError(501, "not_supported_error", "this model computes embeddings only")
        return engine

    def prepare(self, request=None):
        """Return the Preparation for `request`, None for user code."""
        client = client_of(request) if request else None
        engine = self.engine()
        preparation = Preparation(engine, self.host.ended, self.bounds.job_ms, self._turns, client)
        preparation.scheduler = self.scheduler
        return preparation

    async def tokenize(self, text, add_special=True, parse_special=True, preparation=None):
        """Return the token ids of `text`. RequestError if it cannot fit the context. preparation:
        the request's, if it has one.
        """
        engine = self.engine()
        size = len(text.encode())
        if size > engine.n_ctx * _BYTES_PER_TOKEN:
            raise context_error(size // _BYTES_PER_TOKEN, engine.n_ctx)
        preparation = preparation or self.prepare()
        tokens = await preparation.tokenize(text, add_special, parse_special)
        # The text itself may begin with the name of that token.
        if add_special and engine.add_bos and tokens[:2] == [engine.bos, engine.bos]:
            del tokens[0]
        return tokens

    async def tokens(self, prompt, add_special=True, parse_special=True, preparation=None):
        """Return the token ids of a prompt: a str, or a list of token ids and str."""
        preparation = preparation or self.prepare()
        if isinstance(prompt, str):
            return await self.tokenize(prompt, add_special, parse_special, preparation)
        if integers(prompt, 0, _MAX_TOKEN):
            return list(prompt)
        tokens = []
        for i in range(len(prompt)):
            item = prompt[i]
            if isinstance(item, str):
                # Only the first text gets the token that begins a text.
                tokens.extend(
                    await self.tokenize(item, add_special and i == 0, parse_special, preparation)
                )
            else:
                tokens.append(item)
        return tokens

    async def converse(self, body, preparation=None):
        """Return the Conversation of a chat request's JSON object, which the caller closes."""
        engine = self.generator()
        request = conversation_of(body)
        # As in tokenize(): a template takes no less time.
        size = text_size(request["messages"])
        if size > engine.n_ctx * _BYTES_PER_TOKEN:
            raise context_error(size // _BYTES_PER_TOKEN, engine.n_ctx)
        preparation = preparation or self.prepare()
        return Conversation(await preparation.chat(jsonio.dumps_narrow(request)))

    async def generate(self, prompts, params, request=None, conversation=None, preparation=None):
        """Submit `params.n` answers to each of `prompts` (str, or lists of token ids and str) for
        the client of `request`, None for user code. Return Replies.
        """
        self.generator()
        preparation = preparation or self.prepare(request)
        chat = None
        stops = ()
        shown = ()
        sampling = params.sampling
        if conversation is not None:
            chat = conversation.chat
            stops = conversation.stops
            shown = conversation.shown
            sampling = dict(sampling)
            sampling.pop("json_schema", None)  # it is part of the conversation
        lora = self.host.scales(params.lora)
        requests = []  # (tokens, number of the answer, Options)
        for prompt in prompts:
            tokens = await self.tokens(prompt, preparation=preparation)
            for i in range(params.n):
                options = params.options(stops)
                options.shown = shown
                options.lora = lora
                if lora:  # what adapters computed is of no use without them
                    options.salt += "\n%r" % (lora,)
                if request is not None:
                    options.client = client_of(request)
                    options.gone = None if self.streams.keeps(request, params) else request.gone
                requests.append((tokens, i, options))
        # Refuse for a full queue before anything is converted.
        scheduler = preparation.scheduler or self.scheduler
        scheduler.check(requests[0][0], requests[0][2])
        samplers = []
        try:
            for _, i, _ in requests:
                samplers.append(await preparation.sampler(_reseeded(sampling, i), chat))
            return Replies(self._submit(scheduler, requests, samplers, sampling, conversation))
        except BaseException:
            for sampler in samplers:
                if sampler is not None:
                    sampler.close()
            raise

    def _submit(self, scheduler, requests, samplers, sampling, conversation):
        # Returns the list of Reply. Entries of `samplers` that have got an owner become None.
        chat = conversation and conversation.chat
        replies = []
        first = None
        try:
            for k in range(len(requests)):
                tokens, i, options = requests[k]
                sampler = samplers[k]
                if i == 0:
                    first = None
                samplers[k] = None  # submit() closes it if it fails
                sequence = scheduler.submit(tokens, sampling, options, chat, first, sampler)
                first = first or sequence
                replies.append(Reply(sequence, conversation, len(replies)))
        except Exception:
            for reply in replies:
                reply.close()
            raise
        return replies

    async def chat(self, body, params, request=None):
        """Submit the answers to a chat request's JSON object; `request` as in generate()."""
        preparation = self.prepare(request)
        with await self.converse(body, preparation) as conversation:
            replies = await self.generate(
                [conversation.prompt], params, request, conversation, preparation
            )
            replies.prompt = conversation.prompt
            return replies

    async def count(self, body, request=None):
        """Return how many tokens the prompt of a chat request's JSON object has."""
        preparation = self.prepare(request)
        with await self.converse(body, preparation) as conversation:
            prompt = conversation.prompt
        return len(await self.tokenize(prompt, preparation=preparation))

    async def ends(self):
        """Return the tokens that end a generation. They are looked for once."""
        engine = self.engine()
        if self._ends[0] is not engine:
            found = []
            for token in range(engine.n_vocab):
                if not token % 4096:
                    await asyncio.sleep(0)
                if engine.is_eog(token):
                    found.append(token)
            self._ends = (engine, found)
        return self._ends[1]

    async def embed(self, tokens, normalize=2, request=None):
        """Return the embedding (a list of float) of token ids; `request` as in generate()."""
        engine = self.engine()
        if not tokens:
            raise invalid("Input content cannot be empty")
        if not integers(tokens, 0, engine.n_vocab - 1):
            raise invalid("Prompt contains invalid tokens")
        if len(tokens) > engine.n_ctx:
            raise context_error(len(tokens), engine.n_ctx)
        return await self.scheduler.embed(tokens, normalize, request and request.gone)


def _reseeded(sampling, i):
    # The answers to one request differ, even if it names a seed.
    if i and "seed" in sampling:
        sampling = dict(sampling)
        sampling["seed"] = (sampling["seed"] + i) & 0xFFFFFFFF
    return sampling


# The one that the image runs, and that `from cllm import app, llm` uses.
service = Service()
