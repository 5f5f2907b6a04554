# The service as one object: the application, the engine and the scheduler, and the few steps that
# the HTTP routes and user code share.
# MIT license; Copyright (c) 2026 cllm contributors

import asyncio
import json

from httpd import App, jsonio

from .engine import LOADING, READY, EngineHost
from .errors import context_error, error_response, invalid, unavailable
from .scheduler import Scheduler

# A token of a vocabulary in use is rarely longer. A text that cannot fit even so is refused before
# tokenizing it keeps everybody waiting.
_BYTES_PER_TOKEN = 64


class Service:
    """app: the httpd App. host: an EngineHost, set by configure(). scheduler: once the model is
    ready.
    """

    def __init__(self):
        self.app = App()
        self.app.error(error_response)
        self.host = EngineHost("")
        self.scheduler = None
        self.last_crash = None  # for /health: what ended the run before this one, if it died
        self._max_queue = 64
        self._task = None

    def configure(self, host, max_queue=64):
        """Sets what will be served; nothing is loaded."""
        self.host = host
        self._max_queue = max_queue

    def start(self):
        """Loads the model (blocking) and, if that succeeds, starts the scheduler's task."""
        self.host.load()
        if self.host.state == READY:
            self.scheduler = Scheduler(self.host.engine, self._max_queue, on_broken=self.host.fail)
            self._task = asyncio.create_task(self.scheduler.run())

    def stop(self):
        """Ends the scheduler's task."""
        if self._task:
            self._task.cancel()

    def engine(self):
        """The engine; RequestError 503 while there is none to use."""
        host = self.host
        if host.state == READY:
            return host.engine
        if host.state == LOADING:
            raise unavailable("Loading model", {"progress": host.progress})
        raise unavailable(host.reason)

    def tokenize(self, text, add_special=True, parse_special=True):
        """Token ids of `text`. RequestError if it is far too long."""
        engine = self.engine()
        size = len(text.encode())
        if size > engine.n_ctx * _BYTES_PER_TOKEN:
            raise context_error(size // _BYTES_PER_TOKEN, engine.n_ctx)
        return engine.tokenize(text, add_special, parse_special)

    def render(self, messages):
        """(prompt text, stop strings) of chat `messages` through the model's template."""
        engine = self.engine()
        try:
            result = json.loads(engine.apply_template(jsonio.dumps(messages), "{}"))
        except (ValueError, RuntimeError) as exc:
            raise invalid(str(exc))
        return result["prompt"], result.get("additional_stops") or []

    def generate(self, prompt, params):
        """Submits a completion of `prompt` (str or token ids); returns the Sequence."""
        self.engine()
        if isinstance(prompt, str):
            prompt = self.tokenize(prompt)
        return self.scheduler.submit(prompt, params.max_tokens, params.stop, params.sampling)

    def chat(self, messages, params):
        """Submits the answer to `messages`; returns the Sequence."""
        prompt, stops = self.render(messages)
        params.stop = params.stop + stops
        return self.generate(prompt, params)


# The one that the image runs and that `from cllm import app, llm` refers to.
service = Service()
