// engine.h: the C ABI between the image and llama.cpp. It is all that the rest of the image knows
// of llama.cpp, and it knows nothing of Python.
//
// Rules that hold for every function:
//
// * Errors. Functions that return `int` give ENGINE_OK (0), one of the other codes below, or where
//   stated a value >= 0. On any code but ENGINE_OK, engine_error() holds one line of UTF-8 that
//   says why. After ENGINE_EINVAL the engine is as it was before the call.
// * Exceptions. No C++ exception leaves the library. An assertion of llama.cpp that fails inside a
//   call is caught as well and becomes ENGINE_EBROKEN or ENGINE_EFAIL instead of the end of the
//   machine; see engine_set_abort_handler() for what cannot be caught.
// * Ownership. Strings and arrays passed in are read during the call and not kept. Those handed out
//   belong to the engine and hold until the next call with the same engine; copy them first.
// * Text is UTF-8 with an explicit length in bytes; it may hold NUL.
// * Threads. One thread makes all calls. engine_open() starts n_threads - 1 compute threads once
//   the model is loaded, which engine_close() ends; a single thread means no threads at all.
// * Callbacks run on the calling thread with C++ frames below them: they MUST NOT longjmp or throw
//   out, and MUST NOT call the engine that is calling them (ENGINE_EINVAL). Closing a sampler in a
//   callback is allowed, because a garbage collector may do so, unless that sampler is in use.
#ifndef CLLM_ENGINE_H
#define CLLM_ENGINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum {
    ENGINE_OK = 0,
    ENGINE_NO_SLOT = 1,  // no room for the batch in the KV cache; nothing was decoded
    ENGINE_ABORTED = 2,  // a callback asked to stop; nothing was decoded
    ENGINE_EINVAL = -1,  // an argument is wrong
    ENGINE_EFAIL = -2,   // llama.cpp could not do it, or memory ran out
    ENGINE_EBROKEN = -3, // an assertion failed and the state is unknown: close the engine
};

struct engine;
struct engine_sampler;

struct engine_params {
    uint32_t n_ctx;     // tokens in the KV cache, shared by all sequences; 0: as trained
    uint32_t n_batch;   // most tokens in one engine_decode(), >= 1
    uint32_t n_seq;     // sequences, numbered from 0; 1 to 256
    uint32_t n_threads; // compute threads, >= 1; MUST NOT exceed the cores owned: barriers spin
    // While loading, with the part done (0 to 1). Returning false stops it: ENGINE_ABORTED. May be
    // NULL.
    bool (*progress)(void *user, float done);
    // In engine_decode(), between any two nodes of the graph. Returning true stops it:
    // ENGINE_ABORTED. May be NULL.
    bool (*poll)(void *user);
    void *user;
};

// Facts about a loaded model; strings are NUL-terminated and live as long as the engine.
struct engine_info {
    uint32_t n_ctx;            // granted, possibly rounded up from the request
    uint32_t n_ctx_train;      // what the model was trained for
    uint32_t n_batch, n_seq;   // granted
    uint32_t n_vocab;          // tokens are 0 <= token < n_vocab
    uint64_t n_params;         // weights
    uint64_t size;             // bytes of weights
    int32_t bos, eos;          // tokens, -1 if the model has none
    bool add_bos;              // tokenizing with add_special puts bos in front
    bool has_chat_template;    // the file carries one; otherwise ChatML is used
    const char *chat_template; // its source, or ""
    const char *desc;          // such as "llama 135M Q4_1"
    const char *ftype;         // such as "Q4_1"
};

// Version of what is linked in, such as "llama.cpp 0.5.0-dev".
const char *engine_version(void);

// Reason of the last call that failed: one line of valid UTF-8. Holds until the next call.
const char *engine_error(void);

// Sends llama.cpp's log to fn(user, level, text) instead of nowhere. level is ggml's: 1 debug,
// 2 info, 3 warning, 4 error, 5 continues the line before. NULL stops it.
void engine_set_log(void (*fn)(void *user, int level, const char *text), void *user);

// fn is called before abort() when an assertion fails where it cannot become an error: on a compute
// thread, or in engine_decode() with n_threads > 1, where other threads would wait forever. fn may
// reboot the machine. NULL removes it.
void engine_set_abort_handler(void (*fn)(const char *message));

// Dies outside every guard, for tests of what the machine reports then: "assert" fails a GGML_ASSERT,
// "throw" throws an exception that nobody catches. Returns for any other kind.
void engine_crash(const char *kind);

// Loads the GGUF file `path` by mmap, without a copy, and makes a context for it.
// ENGINE_EINVAL: params. ENGINE_EFAIL: the file; the reason is llama.cpp's own. On any error *out
// is NULL and nothing stays allocated.
int engine_open(const char *path, const struct engine_params *params, struct engine **out);

// Frees model, context and all samplers of this engine; their handles stay valid for
// engine_sampler_close() alone. e may be NULL. ENGINE_EINVAL in a callback of e: nothing is freed.
int engine_close(struct engine *e);

const struct engine_info *engine_info(const struct engine *e);

// Tokens of a text. add_special: with bos and eos as the model wants them. parse_special: text such
// as "<|im_end|>" becomes the control token of that name.
int engine_tokenize(struct engine *e, const char *text, size_t len, bool add_special,
    bool parse_special, const int32_t **tokens, size_t *n);

// Text of n tokens, control tokens included. May end inside a UTF-8 character.
int engine_detokenize(
    struct engine *e, const int32_t *tokens, size_t n, const char **text, size_t *len);

// Text of one token; control tokens give "" unless `special`.
int engine_piece(struct engine *e, int32_t token, bool special, const char **text, size_t *len);

// 1 if the token ends a generation, 0 if not, or an error.
int engine_is_eog(struct engine *e, int32_t token);

// Decodes 1 <= n <= n_batch tokens. Entry i: tokens[i] at positions[i] of sequence seqs[i];
// outputs[i] != 0 asks for logits, which engine_sampler_sample(…, i) then reads until the next
// decode. In each sequence the positions MUST continue without a gap from
// engine_seq_pos_max() + 1, in the order of the batch.
// All or nothing: on ENGINE_NO_SLOT and ENGINE_ABORTED no token of the batch stays in the cache.
// Runs for as long as the graph takes; poll is called throughout.
int engine_decode(struct engine *e, size_t n, const int32_t *tokens, const int32_t *positions,
    const int32_t *seqs, const int8_t *outputs);

// Removes the tokens of a sequence at positions p0 <= p < p1; a negative p0 or p1 leaves that end
// open. 1 if done, 0 if this kind of model cannot remove a part (all of a sequence always works).
int engine_seq_rm(struct engine *e, int32_t seq, int32_t p0, int32_t p1);

// Lets the sequence dst share the tokens of src at p0 <= p < p1, without computing or copying them.
// dst MUST be empty.
int engine_seq_cp(struct engine *e, int32_t src, int32_t dst, int32_t p0, int32_t p1);

// Stores the last position in the cache, or -1 for an empty sequence.
int engine_seq_pos_max(struct engine *e, int32_t seq, int32_t *pos);

// Empties the cache.
int engine_clear(struct engine *e);

// A sampler for one generation, from a JSON object. Keys and their defaults are those of
// llama-server, which takes them from the model file where that has general.sampling.*:
//   temperature (0.8; <= 0 is greedy), top_k (40; 0: off), top_p (0.95), min_p (0.05),
//   typical_p (1), repeat_penalty (1), repeat_last_n (64), presence_penalty (0),
//   frequency_penalty (0), min_keep (0), seed (-1: random).
// An unknown key, a wrong type or a value out of range is ENGINE_EINVAL.
int engine_sampler_open(
    struct engine *e, const char *params, size_t len, struct engine_sampler **out);

// Chooses a token for entry `index` of the last decode and accepts it.
int engine_sampler_sample(struct engine_sampler *s, size_t index, int32_t *token);

// Tells the sampler of a token that it did not choose. is_prompt: the token is part of the prompt,
// which counts for repetition penalties only.
int engine_sampler_accept(struct engine_sampler *s, int32_t token, bool is_prompt);

// s may be NULL.
void engine_sampler_close(struct engine_sampler *s);

// Renders OpenAI-shaped chat messages with the model's Jinja template. `messages` is a JSON array,
// `options` a JSON object: add_generation_prompt (true), enable_thinking (true),
// chat_template_kwargs (an object of variables for the template).
// The result is a JSON object: prompt, additional_stops. Tokenize the prompt with add_special and
// parse_special. ENGINE_EINVAL carries the reason, which may be the template's own.
int engine_apply_template(struct engine *e, const char *messages, size_t messages_len,
    const char *options, size_t options_len, const char **result, size_t *len);

#ifdef __cplusplus
}
#endif

#endif // CLLM_ENGINE_H
