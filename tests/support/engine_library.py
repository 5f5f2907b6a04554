"""libcllm_engine.so, the engine built for the host, through cffi: engine.h with lists and bytes.

CLLM_ENGINE_SO names the library; the default is build/native-host/libcllm_engine.so.
"""

import json
import os
import re
from pathlib import Path

from cllm import TOP

HEADER = TOP / "native" / "engine" / "engine.h"
LIBRARY = Path(os.environ.get("CLLM_ENGINE_SO", TOP / "build/native-host/libcllm_engine.so"))


def declarations():
    """Return engine.h without the preprocessor's lines and extern "C", which cffi rejects."""
    text = re.sub(r"#ifdef __cplusplus.*?#endif", "", HEADER.read_text(), flags=re.DOTALL)
    return re.sub(r"^#.*$", "", text, flags=re.MULTILINE)


class EngineFailure(Exception):
    """An error of an engine function. code: its number. str(): the text of engine_error()."""

    def __init__(self, code, reason):
        super().__init__(reason)
        self.code = code


class Library:
    """The functions of engine.h; call() raises EngineFailure for a code that is not in `fine`."""

    def __init__(self, path):
        import cffi

        self.ffi = cffi.FFI()
        self.ffi.cdef(declarations())
        self.so = self.ffi.dlopen(str(path))

    def error(self):
        return self.ffi.string(self.so.engine_error()).decode()

    def call(self, name, *arguments, fine=(0,)):
        code = getattr(self.so, name)(*arguments)
        if code not in fine:
            raise self.failure(code, self.error())
        return code

    def failure(self, code, reason):
        """Return the exception for an error code."""
        return EngineFailure(code, reason)


class Engine:
    """One loaded model. Methods follow engine.h, with lists and bytes instead of pointers.

    background: return while it loads (engine_load()); call finish_loading() before anything else.
    """

    def __init__(
        self,
        library,
        path,
        n_ctx=256,
        n_batch=64,
        n_seq=4,
        n_threads=1,
        pooling=0,
        progress=None,
        poll=None,
        kernels=0,
        wait=None,
        wake=None,
        sample_ms=0,
        job_ms=0,
        background=False,
    ):
        self.library, self.ffi = library, library.ffi
        params = self.ffi.new(
            "struct engine_params *",
            dict(
                n_ctx=n_ctx,
                n_batch=n_batch,
                n_seq=n_seq,
                n_threads=n_threads,
                sample_ms=sample_ms,
                job_ms=job_ms,
                pooling=pooling,
                kernels=kernels,
            ),
        )
        self._callbacks = []
        self._finish = "engine_decode_finish"
        if progress:
            params.progress = self._keep("bool(void *, float)", lambda _, done: progress(done))
        if poll:
            params.poll = self._keep("bool(void *)", lambda _: poll())
        if wait:
            params.wait = self._keep("void(void *)", lambda _: wait())
        if wake:
            params.wake = self._keep("void(void *)", lambda _: wake())
        self.handle = self.ffi.NULL
        if background:
            out = self.ffi.new("struct engine_loading **")
            library.call("engine_load", os.fsencode(path), params, out)
            self.loading = out[0]
            return
        out = self.ffi.new("struct engine **")
        library.call("engine_open", os.fsencode(path), params, out)
        self._opened(out[0])

    def _opened(self, handle):
        self.handle = handle
        self.info = self.library.so.engine_info(handle)

    def finish_loading(self):
        """Wait until the model is loaded."""
        out = self.ffi.new("struct engine **")
        self.library.call("engine_loading_end", self.loading, out)
        self._opened(out[0])

    def _keep(self, kind, function):
        callback = self.ffi.callback(kind, function)
        self._callbacks.append(callback)
        return callback

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.library.call("engine_close", self.handle)
        self.handle = self.ffi.NULL

    def call(self, name, *arguments, **options):
        return self.library.call(name, self.handle, *arguments, **options)

    def tokenize(self, text, add_special=True, parse_special=True):
        text = text.encode() if isinstance(text, str) else text
        tokens, n = self.ffi.new("const int32_t **"), self.ffi.new("size_t *")
        self.call("engine_tokenize", text, len(text), add_special, parse_special, tokens, n)
        return self.ffi.unpack(tokens[0], n[0]) if n[0] else []

    def _text(self, name, *arguments):
        text, n = self.ffi.new("const char **"), self.ffi.new("size_t *")
        self.call(name, *arguments, text, n)
        return self.ffi.buffer(text[0], n[0])[:]

    def start_tokenize(self, text, add_special=True, parse_special=True, ms=0):
        text = text.encode() if isinstance(text, str) else text
        return Job(self, "tokenize", text, len(text), add_special, parse_special, ms)

    def start_chat(self, request, ms=0):
        request = request.encode() if isinstance(request, str) else json.dumps(request).encode()
        return Job(self, "chat", request, len(request), ms)

    def start_sampler(self, params="{}", chat=None, ms=0):
        params = params.encode()
        chat = chat.handle if chat else self.ffi.NULL
        return Job(self, "sampler", params, len(params), chat, ms)

    def detokenize(self, tokens):
        return self._text("engine_detokenize", self.ffi.new("int32_t[]", tokens), len(tokens))

    def piece(self, token, special=False):
        return self._text("engine_piece", token, special)

    def is_eog(self, token):
        return bool(self.call("engine_is_eog", token, fine=(0, 1)))

    def chat(self, request):
        """Return a Chat. request: JSON text, or a value for json.dumps()."""
        return Chat(self, request)

    def apply_template(self, messages, **options):
        """Return the description of a conversation. messages: JSON text."""
        text = ", ".join([f'"messages": {messages}', *(f'"{k}": {v}' for k, v in options.items())])
        with self.chat("{" + text + "}") as chat:
            return chat.describe()

    def decode(self, tokens, positions, seqs, outputs):
        new = self.ffi.new
        self.call(
            "engine_decode",
            len(tokens),
            new("int32_t[]", tokens),
            new("int32_t[]", positions),
            new("int32_t[]", seqs),
            new("int8_t[]", outputs),
        )

    def start(self, tokens, positions, seqs, outputs):
        new = self.ffi.new
        self.call(
            "engine_decode_start",
            len(tokens),
            new("int32_t[]", tokens),
            new("int32_t[]", positions),
            new("int32_t[]", seqs),
            new("int8_t[]", outputs),
        )
        self._finish = "engine_decode_finish"

    def ended(self):
        return bool(self.library.so.engine_ended(self.handle))

    def start_embed(self, tokens, first=True, last=True, normalize=2):
        self.call(
            "engine_embed_start",
            len(tokens),
            self.ffi.new("int32_t[]", tokens),
            first,
            last,
            normalize,
        )
        self._finish = "engine_embed_finish"

    def finish(self):
        """Wait for the end of a computation and return its result.

        After start_embed(): the vector, or None if the piece was not the last.
        """
        if self._finish == "engine_decode_finish":
            self.call(self._finish)
            return None
        vector, n = self.ffi.new("const float **"), self.ffi.new("size_t *")
        self.call(self._finish, vector, n)
        return self.ffi.unpack(vector[0], n[0]) if n[0] else None

    def abort(self):
        self.library.so.engine_abort(self.handle)

    def prompt(self, tokens, seq=0, start=0):
        """Decode a whole prompt in one batch, with logits for the last token."""
        n = len(tokens)
        self.decode(tokens, list(range(start, start + n)), [seq] * n, [0] * (n - 1) + [1])

    def seq_rm(self, seq, p0=-1, p1=-1):
        return bool(self.call("engine_seq_rm", seq, p0, p1, fine=(0, 1)))

    def seq_cp(self, src, dst, p0=-1, p1=-1):
        self.call("engine_seq_cp", src, dst, p0, p1)

    def seq_pos_max(self, seq):
        pos = self.ffi.new("int32_t *")
        self.call("engine_seq_pos_max", seq, pos)
        return pos[0]

    def seq_add(self, seq, p0, p1, delta):
        self.call("engine_seq_add", seq, p0, p1, delta)

    def clear(self):
        self.call("engine_clear")

    def sampler(self, params="{}", chat=None):
        return Sampler(self, params, chat)

    def _pairs(self, name, handle, *arguments):
        tokens, values = self.ffi.new("const int32_t **"), self.ffi.new("const float **")
        n = self.ffi.new("size_t *")
        self.library.call(name, handle, *arguments, tokens, values, n)
        return [(tokens[0][i], values[0][i]) for i in range(n[0])]

    def logprobs(self, index, token, n):
        logprob = self.ffi.new("float *")
        pairs = self._pairs("engine_logprobs", self.handle, index, token, n, logprob)
        return logprob[0], pairs

    def embed(self, tokens, first=True, last=True, normalize=2):
        vector, n = self.ffi.new("const float **"), self.ffi.new("size_t *")
        self.call(
            "engine_embed",
            len(tokens),
            self.ffi.new("int32_t[]", tokens),
            first,
            last,
            normalize,
            vector,
            n,
        )
        return self.ffi.unpack(vector[0], n[0]) if last else None

    def lora_open(self, path):
        number = self.ffi.new("int32_t *")
        self.call("engine_lora_open", os.fsencode(path), number)
        return number[0]

    def lora_set(self, ids, scales):
        new = self.ffi.new
        self.call("engine_lora_set", len(ids), new("int32_t[]", ids), new("float[]", scales))

    def state_get(self, seq):
        data, n = self.ffi.new("const uint8_t **"), self.ffi.new("size_t *")
        self.call("engine_state_get", seq, data, n)
        return self.ffi.buffer(data[0], n[0])[:]

    def state_set(self, seq, data):
        self.call("engine_state_set", seq, self.ffi.from_buffer("uint8_t[]", data), len(data))

    def generate(self, tokens, n, params='{"temperature": 0}', seq=0):
        """Return n tokens after a prompt, computed in an empty sequence."""
        sampler = self.sampler(params)
        self.prompt(tokens, seq)
        made = [sampler.sample(len(tokens) - 1)]
        while len(made) < n:
            self.decode([made[-1]], [len(tokens) + len(made) - 1], [seq], [1])
            made.append(sampler.sample(0))
        sampler.close()
        return made


class Job:
    """A job of the engine. kind: "tokenize", "chat" or "sampler"."""

    def __init__(self, engine, kind, *arguments):
        self.engine, self.library, self.ffi = engine, engine.library, engine.ffi
        self.kind = kind
        out = self.ffi.new("struct engine_job **")
        self.handle = self.ffi.NULL
        engine.call(f"engine_{kind}_start", *arguments, out)
        self.handle = out[0]

    def ended(self):
        return bool(self.library.so.engine_job_ended(self.handle))

    def ms(self):
        return self.library.so.engine_job_ms(self.handle)

    def finish(self):
        """Wait for the end; return the tokens, Chat or Sampler."""
        if self.kind == "tokenize":
            tokens, n = self.ffi.new("const int32_t **"), self.ffi.new("size_t *")
            self.library.call("engine_tokenize_finish", self.handle, tokens, n)
            return self.ffi.unpack(tokens[0], n[0]) if n[0] else []
        out = self.ffi.new(f"struct engine_{self.kind} **")
        self.library.call(f"engine_{self.kind}_finish", self.handle, out)
        return (Chat if self.kind == "chat" else Sampler).of(self.engine, out[0])

    def close(self):
        self.library.so.engine_job_close(self.handle)
        self.handle = self.ffi.NULL


class Sampler:
    def __init__(self, engine, params, chat=None):
        self.engine, self.library, self.ffi = engine, engine.library, engine.ffi
        out = self.ffi.new("struct engine_sampler **")
        params = params.encode()
        self.handle = self.ffi.NULL
        engine.call(
            "engine_sampler_open", params, len(params), chat.handle if chat else self.ffi.NULL, out
        )
        self.handle = out[0]

    @classmethod
    def of(cls, engine, handle):
        """Wrap a handle of engine.h."""
        self = cls.__new__(cls)
        self.engine, self.library, self.ffi = engine, engine.library, engine.ffi
        self.handle = handle
        return self

    @property
    def constrained(self):
        return bool(self.library.so.engine_sampler_constrained(self.handle))

    def sample(self, index):
        token = self.ffi.new("int32_t *")
        self.library.call("engine_sampler_sample", self.handle, index, token)
        return token[0]

    def start(self, index):
        self.library.call("engine_sample_start", self.handle, index)

    def ended(self):
        return bool(self.library.so.engine_sample_ended(self.handle))

    def finish(self):
        """The token of start()."""
        token = self.ffi.new("int32_t *")
        self.library.call("engine_sample_finish", self.handle, token)
        return token[0]

    def us(self):
        return self.library.so.engine_sample_us(self.handle)

    def logprobs(self, token, n):
        logprob = self.ffi.new("float *")
        pairs = self.engine._pairs("engine_sampler_logprobs", self.handle, token, n, logprob)
        return logprob[0], pairs

    def accept(self, token, is_prompt=True):
        self.library.call("engine_sampler_accept", self.handle, token, is_prompt)

    def end_thought(self):
        code = self.library.call("engine_sampler_end_thought", self.handle, fine=(0, 1))
        return code == 1

    def probs(self, n):
        return self.engine._pairs("engine_sampler_probs", self.handle, n)

    def close(self):
        self.library.so.engine_sampler_close(self.handle)
        self.handle = self.ffi.NULL


class Chat:
    def __init__(self, engine, request):
        self.library, self.ffi = engine.library, engine.ffi
        request = request.encode() if isinstance(request, str) else json.dumps(request).encode()
        out = self.ffi.new("struct engine_chat **")
        self.handle = self.ffi.NULL
        engine.call("engine_chat_open", request, len(request), out)
        self.handle = out[0]

    @classmethod
    def of(cls, engine, handle):
        """Wrap a handle of engine.h."""
        self = cls.__new__(cls)
        self.library, self.ffi = engine.library, engine.ffi
        self.handle = handle
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def describe(self):
        text, n = self.ffi.new("const char **"), self.ffi.new("size_t *")
        self.library.call("engine_chat_describe", self.handle, text, n)
        return self.ffi.buffer(text[0], n[0])[:].decode()

    def reply(self):
        return Reply(self)

    def close(self):
        self.library.so.engine_chat_close(self.handle)
        self.handle = self.ffi.NULL


class Reply:
    def __init__(self, chat):
        self.library, self.ffi = chat.library, chat.ffi
        out = self.ffi.new("struct engine_reply **")
        self.library.call("engine_reply_open", chat.handle, out)
        self.handle = out[0]

    def push(self, text, final=False):
        text = text.encode()
        out, n = self.ffi.new("const char **"), self.ffi.new("size_t *")
        self.library.call("engine_reply_push", self.handle, text, len(text), final, out, n)
        return self.ffi.buffer(out[0], n[0])[:].decode()

    def close(self):
        self.library.so.engine_reply_close(self.handle)
        self.handle = self.ffi.NULL
