"""Greedy decoding by a loop over llama.h's own C API, without any code of cllm.

The functions come from libcllm_engine.so, which exports llama.cpp's API, too. The structures are
read from the llama.h that it was built from: $LLAMA_SRC, by default llama.cpp/src.
"""

import os
import re
from pathlib import Path

from cllm import TOP

LIBRARY = Path(os.environ.get("CLLM_ENGINE_SO", TOP / "build/native-host/libcllm_engine.so"))
HEADER = Path(os.environ.get("LLAMA_SRC", TOP / "llama.cpp" / "src")) / "include" / "llama.h"

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
bool llama_vocab_is_eog(const struct llama_vocab *vocab, llama_token token);
int32_t llama_tokenize(const struct llama_vocab *vocab, const char *text, int32_t text_len,
    llama_token *tokens, int32_t n_tokens_max, bool add_special, bool parse_special);
int32_t llama_detokenize(const struct llama_vocab *vocab, const llama_token *tokens,
    int32_t n_tokens, char *text, int32_t text_len_max, bool remove_special, bool unparse_special);
struct llama_batch llama_batch_get_one(llama_token *tokens, int32_t n_tokens);
int32_t llama_decode(struct llama_context *ctx, struct llama_batch batch);
float *llama_get_logits_ith(struct llama_context *ctx, int32_t i);
llama_memory_t llama_get_memory(const struct llama_context *ctx);
void llama_memory_clear(llama_memory_t mem, bool data);
void llama_free(struct llama_context *ctx);
void llama_model_free(struct llama_model *model);
"""


def _first(pattern, text):
    """Return what first matches; AssertionError if llama.h has changed so that nothing does."""
    found = re.search(pattern, text)
    assert found, f"{HEADER} has no {pattern}"
    return found.group()


class Llama:
    """A model loaded by llama.cpp alone; one sequence at a time.

    Raises OSError without the library.
    """

    def __init__(self, path, n_ctx=512):
        import cffi

        text = re.sub(r"//[^\n]*", "", HEADER.read_text())
        text = text.replace("GGML_ROPE_TYPE_NEOX", "2")
        kinds = re.findall(r"enum llama_\w+ \{[^}]*\};", text)
        kinds = [kind for kind in kinds if "GGML_" not in kind]
        batch = _first(r"typedef struct llama_batch \{[^}]*\} llama_batch;", text)
        params = [
            _first(rf"struct {name} \{{[^}}]*\}};", text)
            for name in ("llama_model_params", "llama_context_params")
        ]
        forward = [
            "struct llama_model_tensor_buft_override; struct llama_model_kv_override;",
            "struct llama_sampler_seq_config;",
        ]
        self._ffi = cffi.FFI()
        self._ffi.cdef("\n".join([OPAQUE, *kinds, *forward, batch, *params, FUNCTIONS]))
        self._so = self._ffi.dlopen(str(LIBRARY))
        params = self._so.llama_model_default_params()
        params.use_extra_bufts = False
        self._model = self._so.llama_model_load_from_file(os.fsencode(path), params)
        params = self._so.llama_context_default_params()
        params.n_ctx, params.n_batch = n_ctx, n_ctx
        params.n_threads, params.n_threads_batch = 1, 1
        self._context = self._so.llama_init_from_model(self._model, params)
        self._vocab = self._so.llama_model_get_vocab(self._model)
        self._n_ctx = n_ctx

    def close(self):
        self._so.llama_free(self._context)
        self._so.llama_model_free(self._model)

    def tokenize(self, text):
        """Return the tokens of `text`: markup is parsed, BOS added where the model wants it."""
        tokens = self._ffi.new("llama_token[]", self._n_ctx)
        text = text.encode()
        n = self._so.llama_tokenize(self._vocab, text, len(text), tokens, self._n_ctx, True, True)
        return self._ffi.unpack(tokens, n)

    def detokenize(self, tokens):
        """Return the text of tokens, as str."""
        text = self._ffi.new("char[]", 64 * len(tokens) + 64)
        n = self._so.llama_detokenize(
            self._vocab,
            self._ffi.new("llama_token[]", tokens),
            len(tokens),
            text,
            len(text),
            False,
            False,
        )
        return self._ffi.buffer(text, n)[:].decode(errors="replace")

    def generate(self, text, n):
        """Return (prompt tokens, up to n most likely tokens, until the model ends)."""
        prompt = self.tokenize(text)
        made: list[int] = []
        self._so.llama_memory_clear(self._so.llama_get_memory(self._context), True)
        n_vocab = self._so.llama_vocab_n_tokens(self._vocab)
        feed = self._ffi.new("llama_token[]", prompt)
        while len(made) < n:
            batch = self._so.llama_batch_get_one(feed, len(feed))
            assert self._so.llama_decode(self._context, batch) == 0
            logits = self._ffi.unpack(self._so.llama_get_logits_ith(self._context, -1), n_vocab)
            token = max(range(n_vocab), key=logits.__getitem__)
            if self._so.llama_vocab_is_eog(self._vocab, token):
                break
            made.append(token)
            feed = self._ffi.new("llama_token[]", [token])
        return prompt, made
