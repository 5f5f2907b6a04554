"""A tiny GGUF model for tests: llama.cpp loads it in milliseconds, and it talks nonsense.

Otherwise it is a real model: llama architecture with grouped attention, byte-level BPE tokenizer
with merges, BOS, EOS and control tokens, ChatML template. The same seed gives the same bytes, so
tests can compare tokens between programs.

    python -m support.tiny_model OUT.gguf
"""

import sys

import gguf
import numpy

N_LAYER = 2
N_EMBD = 64
N_HEAD = 4
N_HEAD_KV = 2
N_FF = 128
N_CTX_TRAIN = 2048

CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content']"
    " + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

# A template with tool calls and reasoning, like those of Qwen and Hermes.
TOOLS = (
    "{% if tools %}{{'<|im_start|>system\nTools:\n'}}{% for tool in tools %}{{ tool | tojson }}"
    "{{ '\n' }}{% endfor %}{{'Call: <tool_call>{\"name\": ..., \"arguments\": ...}</tool_call>"
    "<|im_end|>\n'}}{% endif %}"
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n'}}"
    "{% if message.reasoning_content %}{{'<think>\n' + message.reasoning_content + '\n</think>\n'}}"
    "{% endif %}"
    "{% if message['content'] %}{{ message['content'] }}{% endif %}"
    "{% for call in message.tool_calls or [] %}"
    "{{'\n<tool_call>\n{\"name\": \"' + call.function.name + '\", \"arguments\": '}}"
    "{{ call.function.arguments | tojson }}{{'}\n</tool_call>'}}{% endfor %}"
    "{{'<|im_end|>\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\n\n</think>\n' }}"
    "{% endif %}{% endif %}"
)

# Pieces of text that a model with that template can be made to say.
THOUGHT = ["<think>\n", "I see", "</think>\n", "Good day", " there"]
CALL = [
    "<tool_call>\n{\"name\": ",
    "\"weather\", ",
    "\"arguments\": {\"place\": ",
    "\"Paris\"}}",
    "\n</tool_call>",
]
WORDS = THOUGHT + CALL

# Control tokens come first, with SmolLM2's numbers.
CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
BOS, EOS = 1, 2

# Made up: enough merges to give the tokenizer something to do. Each merge joins two symbols that
# exist already; GPT-2's spelling of a space is the letter Ġ.
MERGES = """Ġ t|h e|i n|r e|o n|Ġt he|e r|Ġ a|Ġ s|a t|o u|Ġ w|n d|e s|i s|o r|a n|e n|i t|Ġ c|l l
Ġ b|e d|in g|Ġ f|Ġ p|Ġ o|a r|Ġ m|Ġa nd|Ġ d|a l|Ġ in|Ġt o|l o|Ġ h|Ġ l|s t|Ġo f|h a|ou r|Ġ n|l d
he r|Ġ g|i c|Ġ is|Ġ y|ou ld|w or|wor ld|H e|ll o|He llo|he llo|Ġw or|Ġwor ld|s y|s er|u s"""


def _byte_letters():
    """Return GPT-2's printable letter for each byte value, as a list of 256 strings."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    spare = iter(range(0x100, 0x200))
    return [chr(b if b in printable else next(spare)) for b in range(256)]


def vocabulary(words=()):
    """Return (tokens, token types, merges) for GGUF; `words` become whole tokens at the end."""
    merges = MERGES.replace("\n", "|").split("|")
    tokens = CONTROL + _byte_letters() + [merge.replace(" ", "") for merge in merges]
    kinds = [gguf.TokenType.CONTROL] * len(CONTROL)
    kinds += [gguf.TokenType.NORMAL] * (len(tokens) - len(CONTROL))
    tokens += words
    kinds += [gguf.TokenType.USER_DEFINED] * len(words)
    return tokens, kinds, merges


def tensors(n_vocab, seed, silent=(), kind=numpy.float16):
    """Yield (name, array): matrices as `kind`, norms as float32, in NumPy's order of axes.

    silent: tokens that are never the most likely one.
    """
    random = numpy.random.default_rng(seed)

    def matrix(rows, columns, scale):
        return (random.standard_normal((rows, columns)) * scale).astype(kind)

    ones = numpy.ones(N_EMBD, dtype=numpy.float32)
    n_kv = N_EMBD // N_HEAD * N_HEAD_KV
    yield "token_embd.weight", matrix(n_vocab, N_EMBD, 1.0)
    for layer in range(N_LAYER):
        block = f"blk.{layer}."
        yield block + "attn_norm.weight", ones
        # Large enough that attention prefers some tokens, so that all earlier tokens matter.
        yield block + "attn_q.weight", matrix(N_EMBD, N_EMBD, 0.3)
        yield block + "attn_k.weight", matrix(n_kv, N_EMBD, 0.3)
        yield block + "attn_v.weight", matrix(n_kv, N_EMBD, 0.2)
        yield block + "attn_output.weight", matrix(N_EMBD, N_EMBD, 0.2)
        yield block + "ffn_norm.weight", ones
        yield block + "ffn_gate.weight", matrix(N_FF, N_EMBD, 0.2)
        yield block + "ffn_up.weight", matrix(N_FF, N_EMBD, 0.2)
        yield block + "ffn_down.weight", matrix(N_EMBD, N_FF, 0.2)
    yield "output_norm.weight", ones
    output = matrix(n_vocab, N_EMBD, 0.5)
    output[list(silent)] = 0
    yield "output.weight", output


def saying(words, all_words):
    """Return fields of a request with which a model says `words`, each once, and ends.

    all_words: the words that the model was made with.
    """
    first = len(vocabulary()[0])
    bias = [
        [first + all_words.index(word), 100 * (len(words) - i)] for i, word in enumerate(words)
    ]
    return {
        "logit_bias": bias + [[EOS, 50]],
        "presence_penalty": 10000,
        "repeat_last_n": 8,
        "temperature": 0,
    }


def make(
    path,
    seed=1,
    architecture="llama",
    tokenizer="gpt2",
    template=CHATML,
    omit=(),
    words=(),
    ascii_only=False,
    exact=False,
    add_bos=False,
):
    """Write the model to `path`.

    seed: of the weights. architecture, tokenizer: names to claim, for files that must be refused.
    template: chat template, or None. omit: names of tensors to leave out. words: tokens to add, see
    saying(). ascii_only: greedy text is ASCII. exact: weights are float32, so that sums in another
    order, as in another batch, choose the same tokens. add_bos: a text begins with BOS.
    """
    writer = gguf.GGUFWriter(str(path), architecture)
    writer.add_name("cllm tiny")
    writer.add_file_type(gguf.LlamaFileType.ALL_F32 if exact else gguf.LlamaFileType.MOSTLY_F16)
    writer.add_block_count(N_LAYER)
    writer.add_context_length(N_CTX_TRAIN)
    writer.add_embedding_length(N_EMBD)
    writer.add_feed_forward_length(N_FF)
    writer.add_head_count(N_HEAD)
    writer.add_head_count_kv(N_HEAD_KV)
    writer.add_rope_dimension_count(N_EMBD // N_HEAD)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    tokens = vocabulary(words)[0]
    writer.add_vocab_size(len(tokens))
    _add_tokenizer(writer, tokenizer, words, add_bos)
    if template is not None:
        writer.add_chat_template(template)

    silent = [i for i, token in enumerate(tokens) if not token.replace("Ġ", "").isascii()]
    kind = numpy.float32 if exact else numpy.float16
    for name, array in tensors(len(tokens), seed, silent if ascii_only else (), kind):
        if name not in omit:
            writer.add_tensor(name, array)
    _write(writer)


def _add_tokenizer(writer, name, words=(), add_bos=False):
    """Add the vocabulary with `words`; a text begins with BOS if `add_bos`."""
    tokens, kinds, merges = vocabulary(words)
    writer.add_tokenizer_model(name)
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(BOS)
    writer.add_eos_token_id(EOS)
    writer.add_add_bos_token(add_bos)


def _write(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def make_adapter(path, seed=1):
    """Write a LoRA adapter for the model of make(), strong enough to change what it says."""
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_string("general.type", "adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 8.0)
    random = numpy.random.default_rng(seed)
    for layer in range(N_LAYER):
        for name in ("attn_q", "attn_output"):
            tensor = f"blk.{layer}.{name}.weight.lora_"
            for suffix, shape in (("a", (4, N_EMBD)), ("b", (N_EMBD, 4))):
                array = (random.standard_normal(shape) * 0.5).astype("float32")
                writer.add_tensor(tensor + suffix, array)
    _write(writer)


def make_bert(path, seed=1, ranks=False):
    """Write a tiny model that only computes embeddings, of texts of at most 512 tokens; or, if it
    `ranks`, how well a text answers another one.
    """
    writer = gguf.GGUFWriter(str(path), "bert")
    writer.add_block_count(N_LAYER)
    writer.add_context_length(512)
    writer.add_embedding_length(N_EMBD)
    writer.add_feed_forward_length(N_FF)
    writer.add_head_count(N_HEAD)
    writer.add_token_type_count(1)
    writer.add_layer_norm_eps(1e-12)
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.RANK if ranks else gguf.PoolingType.MEAN)
    _add_tokenizer(writer, "gpt2")
    random = numpy.random.default_rng(seed)

    def matrix(name, rows, columns):
        writer.add_tensor(name, (random.standard_normal((rows, columns)) * 0.2).astype("float32"))

    def norm(name):
        writer.add_tensor(name + ".weight", numpy.ones(N_EMBD, "float32"))
        writer.add_tensor(name + ".bias", numpy.zeros(N_EMBD, "float32"))

    matrix("token_embd.weight", len(vocabulary()[0]), N_EMBD)
    matrix("position_embd.weight", 512, N_EMBD)
    norm("token_embd_norm")
    for layer in range(N_LAYER):
        block = f"blk.{layer}."
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            matrix(block + name + ".weight", N_EMBD, N_EMBD)
        norm(block + "attn_output_norm")
        matrix(block + "ffn_up.weight", N_FF, N_EMBD)
        matrix(block + "ffn_down.weight", N_EMBD, N_FF)
        norm(block + "layer_output_norm")
    if ranks:
        matrix("cls.weight", N_EMBD, N_EMBD)
        matrix("cls.output.weight", 1, N_EMBD)
    _write(writer)


def damaged(model):
    """Yield (name, bytes, words of the error) for files that must be refused.

    model: the bytes of a good model.
    """
    half = len(model) // 2
    yield "empty", b"", "too short|magic|empty|read"
    yield "text", b"This is not a model.\n" * 100, "magic"
    yield "zip", b"PK\x03\x04" + bytes(4096), "magic"
    yield "zeros", bytes(65536), "magic"
    yield "magic only", model[:4], "version|read"
    yield "version from the future", model[:4] + b"\xff\0\0\0" + model[8:], "version"
    yield "byte order", model[:4] + model[7:3:-1] + model[8:], "header"
    yield "header cut", model[:64], "read|failed"
    yield "vocabulary cut", model[:4096], "read|failed"
    yield "tensors cut", model[:half], "file bounds|corrupted|incomplete"
    yield "last byte cut", model[:-1], "file bounds|corrupted|incomplete"


def main(arguments):
    if len(arguments) != 2:
        raise SystemExit(f"usage: {arguments[0]} OUT.gguf")
    make(arguments[1])


if __name__ == "__main__":
    main(sys.argv)
