"""The engine gives the tokens that a loop over llama.h's own C API gives, with nothing of ours in it.

The structures are read from the llama.h that the library was built from (LLAMA_SRC, default
llama.cpp/src), so that they cannot go stale here.
"""

import os
import re
from pathlib import Path

import pytest
from conftest import LIBRARY, ROOT, Engine

HEADER = Path(os.environ.get("LLAMA_SRC", ROOT / "llama.cpp" / "src")) / "include" / "llama.h"

OPAQUE = """
struct llama_model; struct llama_context; struct llama_vocab;
typedef struct llama_memory_i *llama_memory_t;
typedef int32_t llama_pos; typedef int32_t llama_token; typedef int32_t llama_seq_id;
typedef void *ggml_backend_dev_t;
typedef bool (*llama_progress_callback)(float progress, void *user_data);
typedef bool (*ggml_abort_callback)(void *data);
typedef void *ggml_backend_sched_eval_callback;
enum ggml_type { GGML_TYPE_F32 };
"""
FUNCTIONS = """
struct llama_model_params llama_model_default_params(void);
struct llama_context_params llama_context_default_params(void);
struct llama_model *llama_model_load_from_file(const char *path, struct llama_model_params params);
struct llama_context *llama_init_from_model(
    struct llama_model *model, struct llama_context_params params);
const struct llama_vocab *llama_model_get_vocab(const struct llama_model *model);
int32_t llama_vocab_n_tokens(const struct llama_vocab *vocab);
int32_t llama_tokenize(const struct llama_vocab *vocab, const char *text, int32_t text_len,
    llama_token *tokens, int32_t n_tokens_max, bool add_special, bool parse_special);
struct llama_batch llama_batch_get_one(llama_token *tokens, int32_t n_tokens);
int32_t llama_decode(struct llama_context *ctx, struct llama_batch batch);
float *llama_get_logits_ith(struct llama_context *ctx, int32_t i);
void llama_free(struct llama_context *ctx);
void llama_model_free(struct llama_model *model);
"""


@pytest.fixture(scope="module")
def llama(library):  # `library` first: it skips where there is none
    import cffi

    if not HEADER.exists():
        pytest.skip(f"no {HEADER}: set LLAMA_SRC to the tree that the library was built from")
    text = re.sub(r"//[^\n]*", "", HEADER.read_text())
    text = text.replace("GGML_ROPE_TYPE_NEOX", "2")
    kinds = re.findall(r"enum llama_\w+ \{[^}]*\};", text)
    kinds = [kind for kind in kinds if "GGML_" not in kind]
    batch = re.search(r"typedef struct llama_batch \{[^}]*\} llama_batch;", text).group()
    params = [re.search(rf"struct {name} \{{[^}}]*\}};", text).group()
              for name in ("llama_model_params", "llama_context_params")]
    forward = ["struct llama_model_tensor_buft_override; struct llama_model_kv_override;",
               "struct llama_sampler_seq_config;"]
    ffi = cffi.FFI()
    ffi.cdef("\n".join([OPAQUE, *kinds, *forward, batch, *params, FUNCTIONS]))
    return ffi, ffi.dlopen(str(LIBRARY))


def reference(llama, path, text, n):
    """(prompt tokens, n tokens): always the most likely one."""
    ffi, so = llama
    params = so.llama_model_default_params()
    params.use_extra_bufts = False
    model = so.llama_model_load_from_file(os.fsencode(path), params)
    params = so.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_threads, params.n_threads_batch = 256, 256, 1, 1
    context = so.llama_init_from_model(model, params)
    vocab = so.llama_model_get_vocab(model)
    n_vocab = so.llama_vocab_n_tokens(vocab)
    tokens = ffi.new("llama_token[256]")
    text = text.encode()
    count = so.llama_tokenize(vocab, text, len(text), tokens, 256, True, True)
    prompt, made = ffi.unpack(tokens, count), []
    batch = so.llama_batch_get_one(tokens, count)
    one = ffi.new("llama_token[1]")
    while len(made) < n:
        assert so.llama_decode(context, batch) == 0
        logits = ffi.unpack(so.llama_get_logits_ith(context, -1), n_vocab)
        made.append(max(range(n_vocab), key=logits.__getitem__))
        one[0] = made[-1]
        batch = so.llama_batch_get_one(one, 1)
    so.llama_free(context)
    so.llama_model_free(model)
    return prompt, made


@pytest.mark.parametrize("text", [
    "Hello world", "The other user", "x", "<|im_start|>user\nHi<|im_end|>\n"])
def test_tiny(llama, engine, tiny, text):
    prompt, expected = reference(llama, tiny, text, 24)
    assert engine.tokenize(text) == prompt
    assert engine.generate(prompt, 24) == expected


def test_smollm(llama, library, smollm):
    text = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    prompt, expected = reference(llama, smollm, text, 24)
    with Engine(library, smollm) as engine:
        assert engine.tokenize(text) == prompt
        made = engine.generate(prompt, 24)
        assert made == expected
        assert b"Paris" in engine.detokenize(made)
