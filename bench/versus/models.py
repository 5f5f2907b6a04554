"""Models of SmolLM2's shape in other sizes, to measure how speed and memory depend on size.

They have the given model's vocabulary and metadata. The weights are random: time does not depend on
their values.
"""

import gguf
import numpy

HEAD = 64  # columns of an attention head, as in SmolLM2
# Heads, heads of keys and values, layers: SmolLM2-135M has 9, 3 and 30.
SHAPES = {"15M": (3, 1, 14), "55M": (6, 2, 22)}
OWN = ("GGUF.", "general.name", "general.size_label", "llama.")  # what is not copied


def make(path, like, size, seed=1):
    """Write the model to `path`.

    like: path of a model of llama's architecture in GGUF, whose vocabulary it gets. size: a key of
    SHAPES.
    """
    heads, kv_heads, layers = SHAPES[size]
    width, inner, kv = heads * HEAD, heads * HEAD * 8 // 3, kv_heads * HEAD
    source = gguf.GGUFReader(str(like))
    writer = gguf.GGUFWriter(str(path), "llama")
    for name, field in source.fields.items():
        if not name.startswith(OWN) and name != "general.architecture":
            kind = field.types[0]
            item = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(name, field.contents(), kind, item)
    vocabulary = len(source.fields["tokenizer.ggml.tokens"].data)
    writer.add_name(f"random {size}")
    writer.add_block_count(layers)
    writer.add_context_length(8192)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_rope_freq_base(100000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(vocabulary)
    writer.add_rope_dimension_count(HEAD)

    random = numpy.random.default_rng(seed)

    def matrix(name, rows, columns, kind=gguf.GGMLQuantizationType.Q4_1):
        writer.add_tensor(name, blocks(random, rows, columns, kind), raw_dtype=kind)

    def ones(name):
        writer.add_tensor(name, numpy.ones(width, numpy.float32))

    matrix("token_embd.weight", vocabulary, width, gguf.GGMLQuantizationType.Q8_0)
    for layer in range(layers):
        block = f"blk.{layer}."
        ones(block + "attn_norm.weight")
        matrix(block + "attn_q.weight", width, width)
        matrix(block + "attn_k.weight", kv, width)
        matrix(block + "attn_v.weight", kv, width)
        matrix(block + "attn_output.weight", width, width)
        ones(block + "ffn_norm.weight")
        matrix(block + "ffn_gate.weight", inner, width)
        matrix(block + "ffn_up.weight", inner, width)
        matrix(block + "ffn_down.weight", width, inner)
    ones("output_norm.weight")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def blocks(random, rows, columns, kind):
    """Return random weights in blocks of 32 (ggml-common.h), as bytes by row.

    Their mean is 0, their deviation 0.02.
    """
    n = columns // 32
    if kind == gguf.GGMLQuantizationType.Q4_1:  # a scale, a least value, 32 digits of 0 to 15
        scale = numpy.float16(0.02 / 4.61)
        fields = [("d", "<f2"), ("m", "<f2"), ("q", "u1", 16)]
        made = numpy.empty((rows, n), fields)
        made["d"], made["m"] = scale, -7.5 * scale
        made["q"] = random.integers(0, 256, (rows, n, 16), numpy.uint8)
    else:  # Q8_0: a scale and 32 bytes
        made = numpy.empty((rows, n), [("d", "<f2"), ("q", "i1", 32)])
        made["d"] = numpy.float16(0.02 / 73.3)
        made["q"] = random.integers(-127, 128, (rows, n, 32), numpy.int8)
    return made.view(numpy.uint8).reshape(rows, -1)
