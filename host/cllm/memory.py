"""How much memory a guest needs for a model, from the model file's own header.

An estimate with room to spare, of the same terms that llama.cpp allocates: the KV cache, the
buffers of one batch and the vocabulary. The file itself is mapped into the machine beside its
memory (see qemu.Guest.mapped). A file that is no GGUF gets the base, so that the guest boots and
says what is wrong with it.

The layout read here is GGUF versions 2 and 3, little-endian (docs/gguf.md of ggml).
"""

import collections
import struct

MIB = 1 << 20
BASE = 128 * MIB  # kernel, C++ and Python heaps, network buffers, and slack
STEP = 32  # MiB; sizes are rounded up to it
N_CTX = 2048  # cells of the KV cache unless the configuration says otherwise
N_BATCH = 64  # tokens of one batch of the engine
REPACKED = 1.7  # size of repacked weights, at most (Q5_K), to that of the file
VOCABULARY_BYTES = 512  # per token: strings, maps both ways, merge ranks

SCALARS = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q",
    12: "<d",
}
STRING, ARRAY = 8, 9
Array = collections.namedtuple("Array", "length")
LONGEST = 1 << 24  # of a string or array; more is taken as a broken file


def read_metadata(path):
    """The metadata of a GGUF file as a dict; an array comes as `Array(length)`.

    Raises ValueError when the file is no GGUF or ends early, OSError when it cannot be read.
    """
    with open(path, "rb") as file:
        if file.read(4) != b"GGUF":
            raise ValueError("not a GGUF file")
        version = _number(file, "<I")
        if version not in (2, 3):
            raise ValueError(f"GGUF version {version}")
        _number(file, "<Q")  # tensors
        pairs = _number(file, "<Q")
        metadata = {}
        for _ in range(pairs):
            key = _string(file).decode("utf-8", "replace")
            metadata[key] = _value(file, _number(file, "<I"))
        return metadata


def needed(path, n_ctx=N_CTX, repacked=False):
    """MiB of guest memory for the model at `path` (None: no model) with `n_ctx` cache cells.

    repacked: the guest makes a copy of the weights for its kernels.
    """
    if path is None:
        return _rounded(BASE)
    copy = int(REPACKED * path.stat().st_size) if repacked else 0
    try:
        return _rounded(BASE + copy + _work(read_metadata(path), n_ctx))
    except ValueError:
        return _rounded(BASE + copy)


def _rounded(size):
    return -(-size // (STEP * MIB)) * STEP


def _work(metadata, n_ctx):
    """Bytes that llama.cpp allocates beside the weights, which stay in the file."""
    prefix = str(metadata.get("general.architecture")) + "."

    def number(key, default):
        value = metadata.get(prefix + key)
        return value if isinstance(value, int) and value > 0 else default

    layers = number("block_count", 32)
    width = number("embedding_length", 4096)
    inner = number("feed_forward_length", 4 * width)
    heads = number("attention.head_count", 32)
    kv_heads = number("attention.head_count_kv", heads)
    head = max(1, width // heads)
    key, value = number("attention.key_length", head), number("attention.value_length", head)
    row = kv_heads * (key + value)
    vocabulary = metadata.get("tokenizer.ggml.tokens")
    vocabulary = vocabulary.length if isinstance(vocabulary, Array) else 1 << 17
    cache = 2 * n_ctx * layers * row  # f16
    # f32: logits, a handful of activations, attention scores of one layer.
    batch = 4 * N_BATCH * (vocabulary + 8 * width + 3 * inner + 2 * heads * n_ctx)
    return cache + batch + vocabulary * VOCABULARY_BYTES


def _number(file, layout):
    size = struct.calcsize(layout)
    data = file.read(size)
    if len(data) != size:
        raise ValueError("the file ends inside its header")
    return struct.unpack(layout, data)[0]


def _string(file):
    length = _number(file, "<Q")
    data = file.read(length) if length <= LONGEST else b""
    if len(data) != length:
        raise ValueError("the file ends inside its header")
    return data


def _value(file, kind):
    if kind in SCALARS:
        return _number(file, SCALARS[kind])
    if kind == STRING:
        return _string(file).decode("utf-8", "replace")
    if kind != ARRAY:
        raise ValueError(f"value of unknown type {kind}")
    item, count = _number(file, "<I"), _number(file, "<Q")
    if count > LONGEST:
        raise ValueError("an array longer than any vocabulary")
    if item in SCALARS:
        file.seek(count * struct.calcsize(SCALARS[item]), 1)
    else:
        for _ in range(count):
            _value(file, item)
    return Array(count)
