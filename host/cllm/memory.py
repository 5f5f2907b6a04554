"""How much memory a guest needs for a model, from the model file's own header.

It adds up llama.cpp's allocations for all that a configuration offers, with room to spare: the
context for generation and the one for embeddings (made for the first embedding), their KV caches,
graphs and buffers, and the vocabulary. Memory that the guest never uses costs the host nothing. The
file itself is mapped into the machine beside its memory (qemu.Guest.mapped). For a damaged file the
result is the base, so that the guest boots and reports the damage.

The layout is GGUF versions 2 and 3, little-endian (docs/gguf.md of ggml). Files are not trusted:
reading takes bounded time and memory, whatever their numbers are. The gguf package is not used: its
reader takes 45 s for a vocabulary that takes one second here.
"""

import collections
import os
import struct
from pathlib import Path
from typing import Any

from . import hub
from .guest_keys import keys

MIB = 1 << 20
BASE = 128 * MIB  # kernel, C++ and Python heaps, network buffers, and slack
STEP = 32  # MiB; sizes are rounded up to it
LARGEST = 1 << 20  # MiB; more than any machine has
# Defaults: cells of the KV cache, tokens of one batch of the engine, requests that run at a time.
N_CTX, N_BATCH, SLOTS = (keys.MODEL[key].default for key in ("n_ctx", "n_batch", "slots"))
CELLS_STEP = 256  # llama.cpp rounds the cells of a cache up to it
N_WHOLE = 512  # tokens that an embedding model computes at once (native/engine/vectors.cpp)
REPACKED = 1.7  # largest ratio (Q5_K) of the size of repacked weights to that of the file
VOCABULARY_BYTES = 512  # per token: strings, maps both ways, merge ranks
# Per node of a graph: ggml's scheduler allocates 60 tensors (ggml_backend_sched_new() in
# ggml-backend.cpp), llama.cpp's result three more.
NODE_BYTES = 23 << 10
# Nodes per tensor of the model: llama_context::graph_max_nodes().
NODES, NODES_OF = (
    8,
    {
        **dict.fromkeys(("kimi-k3", "glm5-next", "hrm_text"), 64),
        **dict.fromkeys(
            (
                "qwen3next",
                "kimi-linear",
                "bailingmoe3",
                "qwen35",
                "qwen35moe",
                "qwen4exp",
                "deepseek4",
                "dflash",
                "nanbeige",
                "minimax-01",
                "minimax-m3",
                "hy_v4",
            ),
            32,
        ),
    },
)
# Models that compute a whole text at once and keep no cache: llama_model::create_memory() makes no
# memory for them.
WHOLE = {
    "bert",
    "jina-bert-v2",
    "jina-bert-v3",
    "nomic-bert",
    "nomic-bert-moe",
    "neo-bert",
    "eurobert",
    "modern-bert",
    "gemma-embedding",
    "wavtokenizer-dec",
    "dream",
    "llada",
    "llada-moe",
    "rnd1",
}

SCALARS = {
    0: "<B",
    1: "<b",
    2: "<H",
    3: "<h",
    4: "<I",
    5: "<i",
    6: "<f",
    7: "<?",
    10: "<Q",
    11: "<q",
    12: "<d",
}
STRING, ARRAY = 8, 9
# length: number of items. most: the largest item of a short array of numbers, otherwise 0.
Array = collections.namedtuple("Array", "length most", defaults=(0,))

# Bounds of a header. Real ones have 50 pairs, 2,000 tensors and two arrays of 250,000 strings.
PAIRS = 1 << 16
STRINGS = 1 << 22
LONGEST = 1 << 24  # bytes of a string; items of an array of numbers
KEPT = 1 << 16  # bytes of a string that are kept; longer ones are not needed
SHORT = 1 << 10  # longest array whose numbers are read: one for each layer
TENSOR_BYTES = 28  # least size of a tensor's description


class Refused(ValueError):
    """A model that no guest can serve; the message says why and, if possible, what to do."""


def read_metadata(path: str | Path) -> dict[str, Any]:
    """Return the metadata of a GGUF file as a dict. Arrays are `Array`s; the key TENSORS has the
    number of tensors.

    Raises ValueError when the file is no GGUF, ends early or is refused by every reader of GGUF;
    OSError when it cannot be read.
    """
    with open(path, "rb") as file:
        return _Header(file).metadata()


TENSORS = "(tensors)"  # no key of a file: it is read first, and a second one is a duplicate


class _Header:
    """Reads the header of an open file, with a budget of strings for all its arrays."""

    def __init__(self, file):
        self.file = file
        self.size = os.fstat(file.fileno()).st_size
        self.strings = STRINGS

    def metadata(self):
        if self.file.read(4) != b"GGUF":
            raise ValueError("not a GGUF file")
        version = self.number("<I")
        if version not in (2, 3):
            raise ValueError(f"GGUF version {version}")
        tensors, pairs = self.number("<Q"), self.number("<Q")
        if tensors * TENSOR_BYTES > self.size:
            raise ValueError("the file ends inside its header")
        if pairs > PAIRS:
            raise ValueError(f"{pairs} keys in its header")
        found = {TENSORS: tensors}
        for _ in range(pairs):
            key = self.string().decode("utf-8", "replace")
            if key in found:
                raise ValueError(f"key {key[:64]!r} comes twice")
            found[key] = self.value(self.number("<I"))
        return found

    def number(self, layout):
        size = struct.calcsize(layout)
        data = self.file.read(size)
        if len(data) != size:
            raise ValueError("the file ends inside its header")
        return struct.unpack(layout, data)[0]

    def skip(self, size):
        # Seeking past the end succeeds, but lseek(2) refuses a position that it cannot represent.
        if size > self.size or self.file.seek(size, os.SEEK_CUR) > self.size:
            raise ValueError("the file ends inside its header")

    def string(self):
        length = self.number("<Q")
        if length > LONGEST:
            raise ValueError("a string longer than any template")
        data = self.file.read(min(length, KEPT))
        if len(data) != min(length, KEPT):
            raise ValueError("the file ends inside its header")
        self.skip(length - len(data))
        return data

    def value(self, kind):
        if kind in SCALARS:
            return self.number(SCALARS[kind])
        if kind == STRING:
            return self.string().decode("utf-8", "replace")
        if kind != ARRAY:
            raise ValueError(f"value of unknown type {kind}")
        return self.array(self.number("<I"), self.number("<Q"))

    def array(self, kind, count):
        if kind == ARRAY:
            # gguf_init_from_reader() in ggml's gguf.cpp knows no such type.
            raise Refused("its header has arrays in arrays, which llama.cpp does not read")
        if kind == STRING:
            self.strings -= count
            if self.strings < 0:
                raise ValueError("an array longer than any vocabulary")
            for _ in range(count):
                self.skip(self.number("<Q"))
            return Array(count)
        if kind not in SCALARS:
            raise ValueError(f"array of unknown type {kind}")
        if count > LONGEST:
            raise ValueError("an array longer than any vocabulary")
        if count > SHORT:
            self.skip(count * struct.calcsize(SCALARS[kind]))
            return Array(count)
        numbers = [self.number(SCALARS[kind]) for _ in range(count)]
        return Array(count, max((n for n in numbers if type(n) is int), default=0))


def needed(
    path: str | Path | None,
    n_ctx: int = N_CTX,
    repacked: bool = False,
    *,
    n_batch: int = N_BATCH,
    slots: int = SLOTS,
    embeds: bool = True,
) -> int:
    """Return the MiB of guest memory for the model at `path` (None: no model).

    n_ctx, n_batch, slots: of the configuration. repacked: the guest copies the weights for its
    kernels. embeds: False for a model that only drafts.

    Raises Refused when that is more than LARGEST, OSError when the file cannot be read.
    """
    if path is None:
        return _rounded(BASE)
    size = BASE + (int(REPACKED * size_of(path)) if repacked else 0)
    try:
        metadata = read_metadata(path)
    except ValueError:
        return _rounded(size)
    size = _rounded(size + _Model(metadata).work(n_ctx, n_batch, slots, embeds))
    if size > LARGEST:
        raise Refused(f"by its header it takes more than {LARGEST >> 20} TiB of memory")
    return size


def size_of(path: str | Path) -> int:
    """Return the bytes of the model at `path`: of all parts, where it is the first of several."""
    return sum(part.stat().st_size for part in hub.shards_of(Path(path)))


def check(path: str | Path) -> None:
    """Raise Refused for a file whose header shows that no guest can serve it.

    Other damage passes: the guest reports llama.cpp's own reason.
    """
    try:
        metadata = read_metadata(path)
    except Refused:
        raise
    except ValueError:
        return
    parts = metadata.get("split.count")
    if type(parts) is not int or parts < 2:
        return
    match = hub.SHARD.match(Path(path).name)
    if not match or int(match[3]) != parts:
        raise Refused(
            f"it is one of {parts} parts of a model, which are found by names such as "
            f"NAME-00001-of-{parts:05}.gguf"
        )
    if int(match[2]) != 1:
        raise Refused(f"it is part {int(match[2])} of a model: name the first one")


def of_host() -> int:
    """Return the MiB of this host's memory."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // MIB


def _rounded(size):
    return -(-size // (STEP * MIB)) * STEP


class _Model:
    """The part of a model's metadata that decides how much memory it takes."""

    def __init__(self, metadata):
        self.metadata = metadata
        self.arch = str(metadata.get("general.architecture"))
        # The first of several files names the tensors of all.
        whole = metadata.get("split.tensors.count")
        self.tensors = max(metadata[TENSORS], whole if type(whole) is int else 0)
        self.layers = self.number("block_count", 32)
        self.width = self.number("embedding_length", 4096)
        self.inner = self.number("feed_forward_length", 4 * self.width)
        self.heads = self.number("attention.head_count", 32)
        vocabulary = metadata.get("tokenizer.ggml.tokens")
        self.vocabulary = vocabulary.length if isinstance(vocabulary, Array) else 1 << 17

    def number(self, key, default):
        """Return a positive number of the architecture; where each layer has one, the largest."""
        value = self.metadata.get(f"{self.arch}.{key}")
        if isinstance(value, Array):
            value = value.most
        return value if type(value) is int and value > 0 else default

    def work(self, n_ctx, n_batch, slots, embeds):
        """Return the bytes that llama.cpp allocates. The weights are not among them."""
        if self.arch in WHOLE:
            work = self.graph() + self.batch(max(n_batch, N_WHOLE), max(n_ctx, N_WHOLE))
        else:
            n_ctx = -(-n_ctx // CELLS_STEP) * CELLS_STEP
            n_seq = keys.sequences(slots) + embeds  # one for embeddings
            each = self.graph() + self.cache(n_ctx) + self.batch(n_batch, n_ctx)
            work = (2 if embeds else 1) * each + n_seq * self.state()
        return work + self.vocabulary * VOCABULARY_BYTES

    def graph(self):
        """Return the bytes that one context needs to build graphs."""
        return NODE_BYTES * max(1024, NODES_OF.get(self.arch, NODES) * (self.tensors + 16))

    def cache(self, n_ctx):
        """Return the bytes of keys and values of every cell, as f16."""
        kv_heads = self.number("attention.head_count_kv", self.heads)
        head = max(1, self.width // self.heads)
        key = self.number("attention.key_length", head)
        value = self.number("attention.value_length", head)
        return 2 * n_ctx * self.layers * kv_heads * (key + value)

    def state(self):
        """Return the bytes of one sequence's recurrent state, f32 (llama_hparams::n_embd_r, _s)."""
        conv = self.number("ssm.conv_kernel", 0)
        inner, state = self.number("ssm.inner_size", 0), self.number("ssm.state_size", 0)
        groups = self.number("ssm.group_count", 0)
        rows = conv * (inner + 2 * groups * state) + state * inner
        rows += self.number("shortconv.l_cache", 0) * self.width
        if head := self.number("wkv.head_size", 0):
            rows += self.width * (head + self.number("token_shift_count", 2))
        if head := self.number("kda.head_dim", 0):
            rows += self.heads * head * (head + 3 * (conv or 4))
        return 4 * self.layers * rows

    def batch(self, n_batch, n_ctx):
        """Return the bytes of logits (computed and kept), activations and scores, as f32."""
        return (
            4
            * n_batch
            * (2 * self.vocabulary + 8 * self.width + 3 * self.inner + 2 * self.heads * n_ctx)
        )
