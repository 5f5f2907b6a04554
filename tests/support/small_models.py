"""Small GGUF models of several architectures, with weights of any type.

    make("x.gguf", "gemma2", gguf.GGMLQuantizationType.Q4_K, quantize)

They have tiny_model's vocabulary, random weights, and heads as wide as those of real models.
"""

import gguf
import numpy

from support import tiny_model

N_LAYER = 2
N_EMBD = 256  # a block of the largest types
N_HEAD = 4
N_HEAD_KV = 2
N_FF = 512
N_EXPERT = 4
WINDOW = 40  # of sliding attention

# What each has beside what the first one has.
ARCHITECTURES = {
    "llama": "",
    "qwen3": "norms of queries and keys",
    "gemma2": "soft caps, a sliding window",
    "mixture": "llama's mixture of experts",
    "refact": "ALiBi",
    "gpt-oss": "sinks, a sliding window, a mixture of experts",
}


def _tensors(architecture, n_vocab, seed):
    """Yield (name, float32 array)."""
    random = numpy.random.default_rng(seed)
    head = N_EMBD // N_HEAD

    def matrix(*shape, scale=0.1):
        return (random.standard_normal(shape) * scale).astype(numpy.float32)

    def ones(n=N_EMBD):
        return numpy.ones(n, dtype=numpy.float32)

    experts = architecture in ("mixture", "gpt-oss")
    yield "token_embd.weight", matrix(n_vocab, N_EMBD, scale=1)
    for layer in range(N_LAYER):
        block = f"blk.{layer}."
        yield block + "attn_norm.weight", ones()
        yield block + "attn_q.weight", matrix(N_EMBD, N_EMBD)
        yield block + "attn_k.weight", matrix(head * N_HEAD_KV, N_EMBD)
        yield block + "attn_v.weight", matrix(head * N_HEAD_KV, N_EMBD)
        yield block + "attn_output.weight", matrix(N_EMBD, N_EMBD)
        if architecture == "qwen3":
            yield block + "attn_q_norm.weight", ones(head)
            yield block + "attn_k_norm.weight", ones(head)
        if architecture in ("gemma2", "gpt-oss"):
            yield block + "post_attention_norm.weight", ones()
        if architecture == "gemma2":
            yield block + "post_ffw_norm.weight", ones()
        if architecture != "gpt-oss":
            yield block + "ffn_norm.weight", ones()
        if not experts:
            yield block + "ffn_gate.weight", matrix(N_FF, N_EMBD)
            yield block + "ffn_up.weight", matrix(N_FF, N_EMBD)
            yield block + "ffn_down.weight", matrix(N_EMBD, N_FF)
            continue
        yield block + "ffn_gate_inp.weight", matrix(N_EXPERT, N_EMBD)
        yield block + "ffn_gate_exps.weight", matrix(N_EXPERT, N_FF, N_EMBD)
        yield block + "ffn_up_exps.weight", matrix(N_EXPERT, N_FF, N_EMBD)
        yield block + "ffn_down_exps.weight", matrix(N_EXPERT, N_EMBD, N_FF)
        if architecture == "gpt-oss":
            yield block + "attn_sinks.weight", matrix(N_HEAD, scale=1)
            yield block + "attn_output.bias", matrix(N_EMBD)
            yield block + "ffn_gate_inp.bias", matrix(N_EXPERT)
            yield block + "ffn_gate_exps.bias", matrix(N_EXPERT, N_FF)
            yield block + "ffn_up_exps.bias", matrix(N_EXPERT, N_FF)
            yield block + "ffn_down_exps.bias", matrix(N_EXPERT, N_EMBD)
    yield "output_norm.weight", ones()
    if architecture != "gemma2":
        yield "output.weight", matrix(n_vocab, N_EMBD, scale=0.2)


def make(path, architecture, kind, quantize, seed=1):
    """Write a model to `path`.

    architecture: a key of ARCHITECTURES. kind: type of the matrices. quantize: quantize(kind, array
    of rows) -> bytes, as Ggml.quantize() in ggml_library.
    """
    tokens, kinds, merges = tiny_model.vocabulary()
    name = "llama" if architecture == "mixture" else architecture
    writer = gguf.GGUFWriter(str(path), name)
    writer.add_block_count(N_LAYER)
    writer.add_context_length(4096)
    writer.add_embedding_length(N_EMBD)
    writer.add_feed_forward_length(N_FF)
    writer.add_head_count(N_HEAD)
    writer.add_head_count_kv(N_HEAD_KV)
    writer.add_key_length(N_EMBD // N_HEAD)
    writer.add_value_length(N_EMBD // N_HEAD)
    writer.add_rope_dimension_count(N_EMBD // N_HEAD)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    if architecture in ("gemma2", "gpt-oss"):
        writer.add_sliding_window(WINDOW)
    if architecture == "gemma2":
        writer.add_attn_logit_softcapping(5.0)
        writer.add_final_logit_softcapping(30.0)
    if architecture in ("mixture", "gpt-oss"):
        writer.add_expert_count(N_EXPERT)
        writer.add_expert_used_count(2)
        writer.add_expert_feed_forward_length(N_FF)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(tiny_model.BOS)
    writer.add_eos_token_id(tiny_model.EOS)
    writer.add_add_bos_token(False)
    writer.add_chat_template(tiny_model.CHATML)
    for name, array in _tensors(architecture, len(tokens), seed):
        if array.ndim > 1 and "bias" not in name and "gate_inp" not in name:
            data = quantize(kind, array.reshape(-1, array.shape[-1]))
            data = numpy.frombuffer(data, numpy.uint8).reshape(*array.shape[:-1], -1)
            writer.add_tensor(name, data, raw_dtype=kind)
        else:
            writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def pair(folder, architecture="llama", kind=gguf.GGMLQuantizationType.Q4_K):
    """Write two models to `folder`; return the paths of one and of a draft model for it."""
    from support.ggml_library import Ggml

    ggml = Ggml()
    paths = [f"{folder}/{name}.gguf" for name in ("model", "draft")]
    make(paths[0], architecture, kind, ggml.quantize)
    make(paths[1], architecture, gguf.GGMLQuantizationType.Q4_0, ggml.quantize)
    ggml.close()
    return paths
