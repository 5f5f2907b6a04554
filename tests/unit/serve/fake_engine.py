"""An engine with the interface of `_engine.Engine` whose model is a rule.

Tokens are bytes, 256 ends a generation, 257 begins a text. What follows "X|" is X and the end; a
prompt that begins with "*" is repeated for ever. The rule reads the simulated KV cache, so a token
stored at the wrong place, in the wrong sequence, or not at all, changes the answer.
"""

import contextlib
import json

from _engine import Aborted, Error, NoSlot

EOG = 256
BOS = 257
LEAST = -3.4028234663852886e38  # the engine's logarithm of probability 0


def step(scheduler):
    """A step of a Scheduler without `ended`, which has nothing to await."""
    with contextlib.suppress(StopIteration):
        scheduler.step().send(None)
        raise AssertionError("the step awaits something")


class Sampler:
    open = 0

    def __init__(self, engine, constrained=False):
        self.engine = engine
        self.constrained = constrained
        self.closed = False
        self.chosen = None  # between start() and finish()
        self.cost_us = 0
        Sampler.open += 1

    def sample(self, index):
        self._idle()
        self.last = self.engine.logits[index]
        return self.last

    def _idle(self):
        assert not self.closed and self.chosen is None

    def start(self, index):
        self._idle()
        assert self.engine.started is None, "the engine computes"
        self.chosen = self.engine.logits[index]

    def finish(self):
        assert not self.closed
        self.last = self.chosen
        self.chosen = None
        return self.last

    def us(self):
        return self.cost_us

    def logprobs(self, token, n):
        self._idle()
        return -0.5, [(self.last, -0.5), (120, LEAST)][:n]

    def accept(self, token, is_prompt=True):
        pass

    def probs(self, n):
        self._idle()
        return [(self.last, 1.0)][:n]

    def close(self):
        if not self.closed:
            Sampler.open -= 1
        self.closed = True


class FakeEngine:
    n_ctx_train = 2048
    n_vocab = 258
    n_params = 1000
    size = 4000
    desc = "fake"
    ftype = "Q4_1"
    chat_template = "{{ messages }}"
    has_chat_template = True
    bos = BOS
    eos = EOG
    add_bos = False
    n_embd = 4
    pooling = 1
    sep = -1
    add_eos = add_sep = False
    rerank_template = ""
    vocab_type = 2
    fim_pre = fim_suf = fim_mid = 1
    fim_rep = fim_sep = -1
    generates = True
    divisible = True
    kernels = "ggml"
    gpu_layers = 0

    def __init__(
        self,
        path="",
        n_ctx=256,
        n_batch=16,
        n_seq=8,
        n_threads=1,
        sample_ms=0,
        job_ms=0,
        pooling=0,
        kernels=0,
        gpu_layers=-1,
        split_mode=0,
        main_gpu=0,
        tensor_split=None,
        poll=None,
    ):
        self.n_ctx = n_ctx
        self.n_batch = n_batch
        self.n_seq = n_seq
        self.kv = [[] for _ in range(n_seq)]
        self.logits = {}
        self.batches = []  # [(slot, count)] of every decode
        self.poison = None  # a token that cannot be decoded
        self.dead = False
        self.cells = n_ctx
        self.on_decode = None  # called with the number of tokens
        self.stop = False
        self.started = None  # the batch between start() and finish()
        self.closed = False

    def loaded(self):
        return 1.0

    def close(self):
        self.closed = True

    def tokenize(self, text, add_special=True, parse_special=True):
        return list(text.encode())

    def detokenize(self, tokens):
        return b"".join(self.piece(t, True) for t in tokens)

    def piece(self, token, special=False):
        if token < 256:
            return bytes([token])
        return (b"<eog>" if token == EOG else b"<bos>") if special else b""

    def is_eog(self, token):
        return token == EOG

    def decode(self, *batch):
        self.start(*batch)
        self.finish()

    def start(self, *batch):
        self._idle()
        self.started = batch
        self.stop = False

    def _idle(self):
        if self.dead:
            raise Error("dead")
        assert self.started is None, "the engine computes"

    def finish(self):
        batch = self.started
        self.started = None
        if not batch:
            return self.vector
        tokens, positions, seq_ids, outputs = batch
        n = len(tokens)
        assert n == len(positions) == len(seq_ids) == len(outputs)
        assert 1 <= n <= self.n_batch
        if self.poison in tokens:
            raise Error("poisoned")
        if self.used() + n > self.cells:
            raise NoSlot("no slot")
        if self.on_decode:
            self.on_decode(n)
        if self.stop:
            raise Aborted("stopped")
        self.logits = {}
        counts = {}
        for i in range(n):
            cells = self.kv[seq_ids[i]]
            assert positions[i] == len(cells), "positions must continue"
            cells.append(Cell(tokens[i]))
            counts[seq_ids[i]] = counts.get(seq_ids[i], 0) + 1
            if outputs[i]:
                self.logits[i] = self.next([cell.token for cell in cells])
        self.batches.append(sorted(counts.items()))

    def abort(self):
        self.stop = True

    def next(self, cells):
        if cells[0] == 42:  # *
            return cells[1 + (len(cells) - cells.index(124) - 1) % (cells.index(124) - 1)]
        if 124 not in cells:
            return EOG
        bar = cells.index(124)
        at = len(cells) - bar - 1
        return cells[at] if at < bar else EOG

    def used(self):
        """Number of cells; shared ones count once."""
        return len({id(cell) for cells in self.kv for cell in cells})

    def seq_rm(self, seq, p0, p1):
        self._idle()
        assert p1 < 0
        if p0 > 0 and not self.divisible:
            return False
        del self.kv[seq][max(0, p0) :]
        return True

    def seq_cp(self, src, dst, p0, p1):
        self._idle()
        assert self.divisible and not self.kv[dst] and p0 == 0 < p1 <= len(self.kv[src])
        self.kv[dst] = self.kv[src][:p1]

    def clear(self):
        self._idle()
        self.kv = [[] for _ in range(self.n_seq)]

    def sampler(self, params, chat=None):
        assert isinstance(params, dict)
        if params.get("top_k") == 666:
            raise ValueError("top_k is evil")
        return Sampler(self, "grammar" in params)

    def logprobs(self, index, token, n):
        return -0.5, [(self.logits[index], -0.5), (120, LEAST)][:n]

    def start_embed(self, tokens, first, last, normalize=2):
        self._idle()
        self.started = ()
        self.embedded = [] if first else self.embedded
        self.embedded += tokens
        self.vector = [float(sum(self.embedded)), 1.0, 0.5, 0.25] if last else None

    def chat(self, request):
        return Chat(json.loads(request))

    def start_tokenize(self, text, add_special=True, parse_special=True, ms=0):
        return Job(lambda: self.tokenize(text, add_special, parse_special))

    def start_sampler(self, params, chat=None, ms=0):
        return Job(lambda: self.sampler(params, chat))

    def start_chat(self, request, ms=0):
        return Job(lambda: self.chat(request))


class Job:
    open = 0

    def __init__(self, finish):
        self.finish = finish
        Job.open += 1

    def ms(self):
        return 1

    def close(self):
        Job.open -= 1


class Cell:
    def __init__(self, token):
        self.token = token


class Chat:
    """Content is the prompt; with tools a reply is "CALL name arguments" or "THINK x ANSWER y"."""

    open = 0

    def __init__(self, request):
        self.request = request
        content = request["messages"][-1].get("content") or ""
        if request["messages"][-1]["role"] == "bad":
            raise ValueError("template: unknown role")
        if isinstance(content, list):
            content = "".join(part["text"] for part in content)
        self.prompt = content + "|"
        self.closed = False
        Chat.open += 1

    def describe(self):
        plain = not self.request.get("tools") and "THINK" not in self.prompt
        return json.dumps(
            {
                "prompt": self.prompt,
                "stops": ["<end>"],
                "plain": plain,
                "thinking": False,
                "format": "fake",
                "generation_prompt": "",
                "grammar": "",
            }
        )

    def reply(self):
        assert not self.closed
        return Reply()

    def close(self):
        Chat.open -= not self.closed
        self.closed = True


class Reply:
    open = 0

    def __init__(self):
        Reply.open += 1
        self.closed = False
        self.text = ""
        self.seen = {"content": "", "reasoning_content": "", "name": "", "arguments": ""}

    def parse(self):
        text = self.text
        if text.startswith("CALL"):
            _, name, arguments = (text + "  ").split(" ", 2)
            return {"name": name, "arguments": arguments.rstrip()}
        if text.startswith("THINK"):
            thought, _, answer = text[5:].partition("ANSWER")
            return {"reasoning_content": thought, "content": answer}
        return {} if "CALL".startswith(text) or "THINK".startswith(text) else {"content": text}

    def push(self, text, final=False):
        self.text += text
        if "GARBAGE" in self.text:
            raise Error("cannot be parsed")
        now = self.parse()
        deltas = []
        for key in ("reasoning_content", "content"):
            new = now.get(key, "")[len(self.seen[key]) :]
            if new:
                deltas.append({key: new})
            self.seen[key] += new
        call = {}
        if "name" in now and " " in self.text[5:]:
            if not self.seen["name"]:
                call = {
                    "index": 0,
                    "id": "id1",
                    "type": "function",
                    "function": {"name": now["name"]},
                }
                self.seen["name"] = now["name"]
            new = now["arguments"][len(self.seen["arguments"]) :]
            if new:
                call.setdefault("index", 0)
                call.setdefault("function", {})["arguments"] = new
                self.seen["arguments"] += new
        if call:
            deltas.append({"tool_calls": [call]})
        result = {"deltas": deltas}
        if final:
            message = {"role": "assistant", "content": now.get("content", "")}
            if now.get("reasoning_content"):
                message["reasoning_content"] = now["reasoning_content"]
            if "name" in now:
                message["tool_calls"] = [{"type": "function", "id": "id1", "function": now}]
            result["message"] = message
        return json.dumps(result)

    def close(self):
        Reply.open -= not self.closed
        self.closed = True


def all_closed():
    """Return whether everything was closed that stands for memory outside Python's heap."""
    return not any(kind.open for kind in (Sampler, Job, Chat, Reply))


def forget():
    """Count from nothing again what is open."""
    for kind in (Sampler, Job, Chat, Reply):
        kind.open = 0
