"""An engine with the interface of `_engine.Engine` whose model is a rule.

Tokens are bytes, 256 ends a generation, 257 begins a text. What follows "X|" is X and the end; a
prompt that begins with "*" is repeated for ever. The rule reads the simulated KV cache, so a token
stored at the wrong place, in the wrong sequence, or not at all, changes the answer.
"""

import json

EOG = 256
BOS = 257


class Error(RuntimeError):
    pass


class NoSlot(Error):
    pass


class Sampler:
    open = 0

    def __init__(self, engine):
        self.engine = engine
        self.closed = False
        Sampler.open += 1

    def sample(self, index):
        assert not self.closed
        return self.engine.logits[index]

    def accept(self, token, is_prompt=True):
        pass

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

    def __init__(
        self, path="", n_ctx=256, n_batch=16, n_seq=4, n_threads=1, progress=None, poll=None
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
        if progress:
            for i in range(101):
                progress(i / 100)

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

    def decode(self, tokens, positions, seq_ids, outputs):
        if self.dead:
            raise Error("dead")
        n = len(tokens)
        assert n == len(positions) == len(seq_ids) == len(outputs)
        assert 1 <= n <= self.n_batch
        if self.poison in tokens:
            raise Error("poisoned")
        if sum(map(len, self.kv)) + n > self.cells:
            raise NoSlot("no slot")
        self.logits = {}
        counts = {}
        for i in range(n):
            cells = self.kv[seq_ids[i]]
            assert positions[i] == len(cells), "positions must continue"
            cells.append(tokens[i])
            counts[seq_ids[i]] = counts.get(seq_ids[i], 0) + 1
            if outputs[i]:
                self.logits[i] = self.next(cells)
        self.batches.append(sorted(counts.items()))

    def next(self, cells):
        if cells[0] == 42:  # *
            return cells[1 + (len(cells) - cells.index(124) - 1) % (cells.index(124) - 1)]
        if 124 not in cells:
            return EOG
        bar = cells.index(124)
        at = len(cells) - bar - 1
        return cells[at] if at < bar else EOG

    def seq_rm(self, seq, p0, p1):
        if self.dead:
            raise Error("dead")
        assert p0 < 0 and p1 < 0
        self.kv[seq] = []
        return True

    def sampler(self, params):
        assert isinstance(params, dict)
        if params.get("top_k") == 666:
            raise ValueError("top_k is evil")
        return Sampler(self)

    def apply_template(self, messages, options="{}"):
        messages = json.loads(messages)
        if messages[-1]["role"] == "bad":
            raise ValueError("template: unknown role")
        content = messages[-1]["content"]
        if isinstance(content, list):
            content = "".join(part["text"] for part in content)
        return json.dumps({"prompt": content + "|", "additional_stops": ["<end>"]})
