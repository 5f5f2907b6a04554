"""Owner of the native engine, which loads in the background.

A model file that is missing, truncated or of another format does not end the server: it is a state
with a reason.
"""
# SPDX-License-Identifier: MIT

import asyncio

from .errors import invalid

NONE = "none"
LOADING = "loading"
READY = "ready"
FAILED = "failed"

_LOOK_S = 0.02  # interval of checks of the loading progress
_READING = 0.9  # the part of the progress that reading a model from a disk is


class NoModel(Exception):
    """A model is not there and cannot be read from a disk: the reason."""


def _native(path, cpu="", **options):
    # Imported here: without a model nothing of llama.cpp is touched.
    import _engine

    if not _engine.cpu() or cpu:
        print("cllm: computing with the instructions of " + _engine.cpu(cpu))
    return _engine.Engine(path, background=True, **options)


def version():
    """Return the version of the native engine, or "" where there is none."""
    try:
        import _engine
    except ImportError:
        return ""
    return _engine.version()


def cpu():
    """Return the name of the build of ggml's CPU code in use, or "" where there is none."""
    try:
        import _engine
    except ImportError:
        return ""
    return _engine.cpu()


def gpu():
    """Return what _engine.gpu() does: a dict about the first GPU, None without one."""
    try:
        import _engine
    except ImportError:
        return None
    return _engine.gpu()


class EngineHost:
    """The engine and its state.

    path: model file. alias: the model's public name, or several with commas, of which the first in
    alphabetical order is its id, as llama-server has it. tags: likewise, words for clients.
    options: keyword arguments of _engine.Engine. make: constructor of the engine, which tests
    replace; its loaded() returns the fraction that is loaded. draft: file of a small model with the
    same vocabulary, to guess tokens with, or None. lora: files of LoRA adapters.

    find: coroutine function (path, progress) -> path, which reads a model into memory where it is
    not there yet, may choose another, and raises NoModel; None without disks.
    """

    find = None

    def __init__(self, path, alias=None, options=None, make=_native, draft=None, tags="", lora=()):
        self.path = path
        self.aliases = _names(alias) or [_stem(path)]
        self.alias = self.aliases[0]
        self._named = bool(_names(alias))
        self.tags = _names(tags)
        self._lora = list(lora)
        self.lora = []  # [{"id", "path", "scale"}, ...] of the adapters that are loaded
        self.options = options or {}
        # LOADING before load() has looked for the file, so that clients try again.
        self.state = LOADING if path else NONE
        self.reason = "no model was given"
        self.progress = 0.0
        self.engine = None
        self.draft = draft
        self.drafter = None  # the engine of `draft`
        self.make = make
        self.ended = None  # the coroutine function `ended` of Scheduler
        self.lacks_memory = False  # whether the last load() failed for that reason
        self._printed = 0
        self._begun = 0.0  # the part of the progress that reading it from a disk was

    @property
    def on_gpu(self):
        """Whether a GPU computes some of the model."""
        return self.engine is not None and self.engine.gpu_layers > 0

    def lost(self):
        """Return why the GPU that computes the model is lost, None while it is not."""
        found = gpu() if self.on_gpu else None
        return "the GPU is lost: " + found["fault"] if found and found["fault"] else None

    def another(self, path, alias=None):
        """Return the EngineHost for another model with the options of this one."""
        host = EngineHost(path, alias or _stem(path), self.options, self.make)
        host.ended = self.ended
        host.find = self.find
        return host

    def scales(self, wanted=None):
        """Return the scale of each adapter, () if none applies. wanted: list of (number, scale), of
        which missing ones do not apply; None: as set for all. RequestError for a wrong number.
        """
        if wanted is None:
            found = [adapter["scale"] for adapter in self.lora]
        else:
            found = [0.0] * len(self.lora)
            for number, scale in wanted:
                if number >= len(found):
                    raise invalid("Field 'lora': there is no adapter %d" % number)
                found[number] = scale
        return tuple(found) if any(found) else ()

    def close(self):
        """Free the model and the draft model. load() may follow."""
        for engine in (self.drafter, self.engine):
            if engine is not None:
                engine.close()
        self.engine = self.drafter = None

    async def load(self):
        """Load the model. A bad one raises nothing: see `state`."""
        self.state = LOADING
        self.progress = 0.0
        self.lacks_memory = False
        self._printed = 0
        self._begun = 0.0
        if not await self._found():
            return
        try:
            size = _size(self.path)
        except OSError:
            self.state = NONE
            self.reason = "no model: there is no file %s" % self.path
            print("cllm: " + self.reason)
            return
        print("cllm: loading %s (%d bytes)" % (self.path, size))
        try:
            engine = await self._loaded(self.path, self._progress)
        except MemoryError:
            self.lacks_memory = True
            self.fail(
                "cannot load %s: the machine has not enough memory for it and %d cells of cache: "
                "give it more (--memory), or fewer cells (n_ctx)"
                % (self.path, self.options.get("n_ctx", 0))
            )
            return
        except (RuntimeError, ValueError, OSError, ImportError) as exc:
            # RuntimeError is the engine's, with llama.cpp's own words.
            self.fail("cannot load %s: %s" % (self.path, str(exc) or type(exc).__name__))
            return
        try:
            self.lora = [
                {"id": engine.lora_open(path), "path": path, "scale": 1.0} for path in self._lora
            ]
        except (RuntimeError, ValueError, OSError, MemoryError) as exc:
            engine.close()
            self.fail("cannot load an adapter: %s" % exc)
            return
        if self.draft:
            await self._load_draft(engine)
        self.engine = engine
        self.progress = 1.0
        self.state = READY
        print(
            "cllm: model %s is ready: %s, kernels %s%s"
            % (self.alias, self.engine.desc, self.engine.kernels, self._gpu_text())
        )

    async def _found(self):
        # Have the models read from disks; return whether to go on.
        if not self.find:
            return True
        try:
            self.path = await self.find(self.path, self._reading)
            if not self._named:
                self.alias = _stem(self.path)
                self.aliases = [self.alias]
        except NoModel as exc:
            self.state = NONE
            self.reason = "no model: %s" % exc
            print("cllm: " + self.reason)
            return False
        if self.draft:
            try:
                self.draft = await self.find(self.draft, self._reading)
            except NoModel as exc:
                print("cllm: no drafts: %s" % exc)
                self.draft = None
        return True

    def _gpu_text(self):
        found = gpu() if self.on_gpu else None
        if not found:
            return ""
        return ", %d layers on %s (%s)" % (self.engine.gpu_layers, found["name"], found["kind"])

    async def _loaded(self, path, progress):
        # Return the engine when it is ready; call progress(fraction) meanwhile.
        engine = self.make(path, **self.options)
        try:
            while True:
                done = engine.loaded()
                progress(done)
                if done >= 1:
                    return engine
                await asyncio.sleep(_LOOK_S)
        except BaseException:  # also CancelledError
            engine.close()
            raise

    async def _load_draft(self, engine):
        # A draft model only makes things faster: go on without one that does not load.
        try:
            drafter = await self._loaded(self.draft, lambda done: None)
        except (RuntimeError, ValueError, OSError, MemoryError) as exc:
            print("cllm: no drafts, cannot load %s: %s" % (self.draft, exc))
            return
        if drafter.n_vocab != engine.n_vocab or drafter.vocab_type != engine.vocab_type:
            print("cllm: no drafts, %s has another vocabulary" % self.draft)
            drafter.close()
            return
        self.drafter = drafter

    def fail(self, reason):
        """Mark the engine as unusable, for `reason`."""
        self.state = FAILED
        self.reason = reason
        print("cllm: " + reason)

    def _reading(self, fraction):
        # Loading what was read takes little time. A draft model's comes after the model's own.
        self._begun = max(self._begun, _READING * fraction)
        self._report(self._begun)

    def _progress(self, fraction):
        self._report(self._begun + (1 - self._begun) * fraction)

    def _report(self, fraction):
        self.progress = fraction
        tenths = int(fraction * 10)
        if tenths > self._printed:
            self._printed = tenths
            print("cllm: loading %d%%" % (tenths * 10))


def _names(text):
    return sorted(set([name.strip() for name in (text or "").split(",") if name.strip()]))


def _stem(path):
    name = path.split("#")[0].split("/")[-1]
    return name[:-5] if name.endswith(".gguf") else name


def _size(path):
    with open(path, "rb") as f:
        return f.seek(0, 2)
