// engine.h: the C ABI between the image and llama.cpp. It is all that the rest of the image knows
// of llama.cpp, and it knows nothing of Python.
//
// Rules that hold for every function:
//
// * Errors. Functions that return `int` give ENGINE_OK (0), one of the other codes below, or where
//   stated a value >= 0. On any code but ENGINE_OK, engine_error() holds one line of UTF-8 that
//   says why. After ENGINE_EINVAL the engine is as it was before the call.
// * Exceptions. No C++ exception leaves the library. An assertion of llama.cpp that fails inside a
//   call is caught as well and becomes ENGINE_EBROKEN or ENGINE_EASSERT instead of the end of the
//   machine; see engine_set_abort_handler() for what cannot be caught.
// * Ownership. Strings and arrays passed in are read during the call and not kept. Those handed out
//   belong to the engine and hold until the next call with the same engine; copy them first.
// * Text is UTF-8 with an explicit length in bytes; it may hold NUL.
// * Threads. One thread makes all calls but engine_abort(). engine_open() and engine_load() start
//   n_threads - 1 compute threads once the model is loaded, which engine_close() ends, and with
//   engine_params.wait one more before, which computes in place of the calling thread. The first
//   job starts another one, and so do the first engine_sample_start() and the first one that is
//   slow.
// * Callbacks run on the calling thread, but for the two that say otherwise, with C++ frames below
//   them: they MUST NOT longjmp or throw out, and MUST NOT call the engine that is calling them
//   (ENGINE_EINVAL). Closing a sampler in a callback is allowed, because a garbage collector may do
//   so, unless that sampler is in use.
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
    ENGINE_NO_SLOT = 1,   // no room for the batch in the KV cache; nothing was decoded
    ENGINE_ABORTED = 2,   // a callback asked to stop; nothing was decoded
    ENGINE_LIMIT = 3,     // it would take more time, memory or stack than a request may have
    ENGINE_EINVAL = -1,   // an argument is wrong
    ENGINE_EFAIL = -2,    // llama.cpp could not do it
    ENGINE_EBROKEN = -3,  // an assertion failed and the state is unknown: close the engine
    ENGINE_ENOMEM = -4,   // memory ran out
    ENGINE_EASSERT = -5,  // an assertion failed, or an index was out of range; nothing has changed
    ENGINE_ENUMBERS = -6, // the model computed no usable numbers: its file is damaged
    ENGINE_ELOST = -7,    // the GPU failed or is gone: close the engine, then open it anew
};

// How the vectors of a text's tokens become one.
enum {
    ENGINE_POOLING_MODEL = 0, // as the file says; the mean if it says nothing
    ENGINE_POOLING_MEAN = 1,
    ENGINE_POOLING_CLS = 2,  // the first token's
    ENGINE_POOLING_LAST = 3, // the last token's
    ENGINE_POOLING_NONE = 4, // they stay apart: the result is one vector after the other
    ENGINE_POOLING_RANK = 5, // the model's classifier: scores instead of a vector
};

// Whose code multiplies matrices.
enum {
    ENGINE_KERNELS_AUTO = 0, // the engine's choice for this processor
    ENGINE_KERNELS_GGML = 1, // ggml's own, made for real processors; weights are not copied
    // native/kernels, made for QEMU's TCG; weights are repacked into a copy, and results differ in
    // the last digits. Needs AVX2.
    ENGINE_KERNELS_TCG = 2,
    // native/kernels with results that depend on nothing but a token and those before it: bit for
    // bit what ggml computes for one token at a time on one thread, from the weights as they are.
    ENGINE_KERNELS_EXACT = 3,
};

struct engine;
struct engine_loading;
struct engine_sampler;
struct engine_chat;
struct engine_job;
struct engine_reply;

struct engine_params {
    uint32_t n_ctx;     // tokens in the KV cache, shared by all sequences; 0: as trained
    uint32_t n_batch;   // most tokens in one engine_decode(), >= 1
    uint32_t n_seq;     // sequences, numbered from 0; 1 to 256
    uint32_t n_threads; // compute threads, >= 1; MUST NOT exceed the cores owned: barriers spin
    // Processor time, in ms of a real processor (four times as much where QEMU's TCG emulates it);
    // 0: no limit.
    // To follow a grammar: for a request in all. Each token adds 1 us per token of the vocabulary.
    uint32_t sample_ms;
    uint32_t job_ms; // for a job
    int32_t pooling; // of embeddings: ENGINE_POOLING_*
    int32_t kernels; // ENGINE_KERNELS_*
    // Layers of the model that a GPU computes, the output counting as one: the last ones, -1 for
    // all. Without a GPU none, whatever this says.
    int32_t gpu_layers;
    // In engine_open(), with the part done (0 to 1). Returning false stops it: ENGINE_ABORTED. May
    // be NULL.
    bool (*progress)(void *user, float done);
    // In engine_decode() and engine_embed(), between any two nodes of the graph, on the thread that
    // computes. Returning true stops it: ENGINE_ABORTED or, in engine_embed(), ENGINE_EFAIL. May be
    // NULL.
    bool (*poll)(void *user);
    // With these, a thread of the engine computes, and the calling thread runs wait() again and
    // again until that has ended: a node of a graph may take seconds, and whoever calls may have
    // interrupts to see to. wait() should sleep until there is such work; wake(), from the thread
    // that computes, MUST make it return, or its next call if none is in progress. Both NULL: the
    // calling thread computes.
    void (*wait)(void *user);
    void (*wake)(void *user);
    void *user;
};

// Facts about a loaded model; strings are NUL-terminated and live as long as the engine.
struct engine_info {
    uint32_t n_ctx;                    // granted, possibly rounded up from the request
    uint32_t n_ctx_train;              // what the model was trained for
    uint32_t n_batch, n_seq;           // granted
    uint32_t n_vocab;                  // tokens are 0 <= token < n_vocab
    uint64_t n_params;                 // weights
    uint64_t size;                     // bytes of weights
    int32_t bos, eos;                  // tokens, -1 if the model has none
    int32_t fim_pre, fim_suf, fim_mid; // tokens for filling in the middle, -1 if the model has none
    int32_t fim_rep, fim_sep;
    uint32_t n_embd;       // width of an embedding
    int32_t pooling;       // ENGINE_POOLING_* in effect
    int32_t sep;           // the token that separates texts, -1 if the model has none
    bool add_eos, add_sep; // eos follows a text, sep separates two
    // Of a model that ranks, the text of a query and a document with {query} and {document}, or "".
    const char *rerank_template;
    int32_t vocab_type;        // llama.h's llama_vocab_type
    bool generates;            // false: it only computes embeddings
    bool divisible;            // parts of a sequence can be shared and removed
    bool add_bos;              // tokenizing with add_special puts bos in front
    bool has_chat_template;    // the file carries one; otherwise ChatML is used
    const char *chat_template; // its source, or ""
    const char *desc;          // such as "llama 135M Q4_1"
    const char *ftype;         // such as "Q4_1"
    const char *kernels;       // that were chosen: "ggml", "tcg" or "exact"
    uint32_t gpu_layers;       // that a GPU computes, by ggml-cuda's kernels
};

// Version of what is linked in, such as "llama.cpp 0.5.0-dev".
const char *engine_version(void);

// Chooses the build of ggml's CPU code to compute with: "sse42", "avx2", "avx512", "avx512-vnni" or
// "avx512-bf16"; "" is the best that this processor runs, which the first engine_open() takes where
// nobody chose. ENGINE_EINVAL: there is none of that name, the processor lacks its instructions, or
// another one is in use.
int engine_use_cpu(const char *name);

// Name of the one in use; "" before the first engine_open().
const char *engine_cpu(void);

// The first GPU. Strings are valid until the next call.
struct engine_gpu {
    const char *name;      // of the device; "" before a model was loaded
    const char *kind;      // what computes: "cuda", or "ptx" for an interpreter
    const char *fault;     // why it is lost; "" while it works
    uint64_t memory, used; // bytes that this machine may have, and has
    // Since it was connected: kernels and graphs launched, times that the machine waited for it,
    // bytes copied.
    uint64_t launches, graph_launches, round_trips, copied;
    uint64_t losses; // since the machine was booted
};

// False: there is none, or this build cannot use one. Does not wait for it.
bool engine_gpu(struct engine_gpu *out);

// Reason of the last call that failed: one line of valid UTF-8. Holds until the next call.
const char *engine_error(void);

// Sends llama.cpp's log to fn(user, level, text) instead of nowhere. level is ggml's: 1 debug,
// 2 info, 3 warning, 4 error, 5 continues the line before. NULL stops it.
void engine_set_log(void (*fn)(void *user, int level, const char *text), void *user);

// fn is called before abort() when an assertion fails where it cannot become an error: on a compute
// thread, or in engine_decode() with n_threads > 1, where other threads would wait forever. fn may
// reboot the machine. NULL removes it.
void engine_set_abort_handler(void (*fn)(const char *message));

// Dies outside every guard, for tests of what the machine reports then: "assert" fails a
// GGML_ASSERT, "throw" throws an exception that nobody catches. With an engine that has
// engine_params.wait, on the thread that computes. Returns for any other kind.
void engine_crash(struct engine *e, const char *kind);

// Loads the GGUF file `path` by mmap, without a copy, and makes a context for it.
// ENGINE_EINVAL: params. ENGINE_EFAIL: the file; the reason is llama.cpp's own. On any error *out
// is NULL and nothing stays allocated.
int engine_open(const char *path, const struct engine_params *params, struct engine **out);

// The same, but on the thread of engine_params.wait, which MUST be there: returns at once, and the
// calling thread may see to other things, other engines included. engine_params.progress is not
// called. ENGINE_EINVAL: params.
int engine_load(const char *path, const struct engine_params *params, struct engine_loading **out);

// The part done: 1 once loading has ended, one way or the other, less before.
float engine_loading_done(struct engine_loading *l);

// Has the loading end early, with ENGINE_ABORTED.
void engine_loading_stop(struct engine_loading *l);

// Waits for the end and frees `l`. What came of it, as from engine_open().
int engine_loading_end(struct engine_loading *l, struct engine **out);

// Frees model, context and all samplers of this engine; their handles stay valid for
// engine_sampler_close() alone. e may be NULL. ENGINE_EINVAL in a callback of e: nothing is freed.
int engine_close(struct engine *e);

const struct engine_info *engine_info(const struct engine *e);

// Tokens of a text. add_special: with bos and eos as the model wants them. parse_special: text such
// as "<|im_end|>" becomes the control token of that name.
int engine_tokenize(struct engine *e, const char *text, size_t len, bool add_special,
    bool parse_special, const int32_t **tokens, size_t *n);

// Jobs. What a request hands to llama.cpp may take long, or for ever: a chat template, a JSON
// schema, a grammar, a text of a megabyte. Such work runs on a thread of its own, one job after
// another in the order in which they were started. Each may take `ms` of processor time (0:
// engine_params.job_ms), a part of the machine's memory and the thread's stack; what takes more
// ends with ENGINE_LIMIT and costs nobody else anything. engine_params.wake is called when a job
// has ended. The finish function, called once, waits for that (by engine_params.wait) and gives
// the result or the error. engine_chat_open() and engine_sampler_open() are start and finish
// in one; engine_tokenize() takes no thread.
int engine_tokenize_start(struct engine *e, const char *text, size_t len, bool add_special,
    bool parse_special, uint32_t ms, struct engine_job **out);
int engine_tokenize_finish(struct engine_job *j, const int32_t **tokens, size_t *n);

// Whether finish() would return at once. May be called by any thread.
bool engine_job_ended(const struct engine_job *j);
// Processor time that an ended job took, in ms of a real processor.
uint32_t engine_job_ms(const struct engine_job *j);
// j may be NULL. Stops the job if it still runs.
void engine_job_close(struct engine_job *j);

// Text of n tokens, control tokens included. May end inside a UTF-8 character.
int engine_detokenize(struct engine *e, const int32_t *tokens, size_t n, const char **text,
    size_t *len);

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

// The same in two parts: start() checks the batch and returns, the thread of the engine computes
// it, and finish() waits for the end (by engine_params.wait) and returns the result. In between
// only functions that need no more than vocabulary and templates may be called (engine_tokenize,
// _detokenize, _piece, _is_eog, _info, engine_chat_*, engine_sampler_open, _accept, _probs,
// _logprobs and _close, engine_sample_finish), engine_abort() and engine_close(); everything else
// is ENGINE_EINVAL. Without engine_params.wait start() computes.
int engine_decode_start(struct engine *e, size_t n, const int32_t *tokens, const int32_t *positions,
    const int32_t *seqs, const int8_t *outputs);
int engine_decode_finish(struct engine *e);

// Whether finish() of what was started would return at once; after engine_params.wake was called
// for it. May be called by any thread.
bool engine_ended(const struct engine *e);

// Stops the engine_decode() or engine_embed() in progress after the node that it computes; without
// one it does nothing. May be called by any thread and from callbacks, and cannot fail.
void engine_abort(struct engine *e);

// Removes the tokens of a sequence at positions p0 <= p < p1; a negative p0 or p1 leaves that end
// open. 1 if done, 0 if this kind of model cannot remove a part (all of a sequence always works).
int engine_seq_rm(struct engine *e, int32_t seq, int32_t p0, int32_t p1);

// Lets the sequence dst share the tokens of src at p0 <= p < p1, without computing or copying them.
// dst MUST be empty. Negative ends are open; others need engine_info.divisible.
int engine_seq_cp(struct engine *e, int32_t src, int32_t dst, int32_t p0, int32_t p1);

// Moves the tokens at p0 <= p < p1 by delta positions: down into a gap that engine_seq_rm() left,
// or up at the end. ENGINE_EINVAL while any other sequence holds tokens.
int engine_seq_add(struct engine *e, int32_t seq, int32_t p0, int32_t p1, int32_t delta);

// Stores the last position in the cache, or -1 for an empty sequence.
int engine_seq_pos_max(struct engine *e, int32_t seq, int32_t *pos);

// Empties the cache.
int engine_clear(struct engine *e);

// A sampler for one generation, from a JSON object. Keys and their defaults are those of
// llama-server, which takes them from the model file where that has general.sampling.*:
//   temperature (0.8; <= 0 is greedy), top_k (40; 0: off), top_p (0.95), min_p (0.05),
//   typical_p (1), top_n_sigma (-1: off), xtc_probability (0), xtc_threshold (0.1),
//   dynatemp_range (0), dynatemp_exponent (1), repeat_penalty (1), repeat_last_n (64),
//   presence_penalty (0), frequency_penalty (0), dry_multiplier (0), dry_base (1.75),
//   dry_allowed_length (2), dry_penalty_last_n (64), dry_sequence_breakers, mirostat (0),
//   mirostat_tau (5), mirostat_eta (0.1), adaptive_target (-1: off), adaptive_decay (0.9),
//   min_keep (0), samplers (their order), seed (-1: random), logit_bias, ignore_eos (false),
//   min_tokens (0; generated before the end is allowed), grammar (GBNF), json_schema.
// An unknown key, a wrong type or a value out of range is ENGINE_EINVAL. chat: a conversation whose
// tools or response format constrain the reply, or NULL. One of the next two functions may give
// ENGINE_LIMIT, if the grammar is too ambiguous; then the sampler is of no more use.
int engine_sampler_open(struct engine *e, const char *params, size_t len,
    const struct engine_chat *chat, struct engine_sampler **out);

// As a job; see engine_tokenize_start(). `chat` may be closed meanwhile.
int engine_sampler_start(struct engine *e, const char *params, size_t len,
    const struct engine_chat *chat, uint32_t ms, struct engine_job **out);
int engine_sampler_finish(struct engine_job *j, struct engine_sampler **out);

// Whether a grammar restrains it, so that sampling may take long.
bool engine_sampler_constrained(const struct engine_sampler *s);

// engine_sampler_sample() in two parts: start() copies the logits and returns, and a thread chooses
// the token, so that the engine may decode the next batch meanwhile. finish() waits for the end (by
// engine_params.wait) and gives the token; before it, the only other call with this sampler is
// engine_sampler_close(), which stops it. engine_params.wake is called at the end. Samples are made
// one after the other, but those of samplers whose last one took long delay only each other.
int engine_sample_start(struct engine_sampler *s, size_t index);
// Whether finish() would return at once. May be called by any thread.
bool engine_sample_ended(const struct engine_sampler *s);
int engine_sample_finish(struct engine_sampler *s, int32_t *token);
// Processor time of the last one that was finished, in microseconds; 0 before.
uint64_t engine_sample_us(const struct engine_sampler *s);

// Chooses a token for entry `index` of the last decode and accepts it.
int engine_sampler_sample(struct engine_sampler *s, size_t index, int32_t *token);

// Tells the sampler of a token that it did not choose. is_prompt: the token is part of the prompt,
// which counts for repetition penalties only.
int engine_sampler_accept(struct engine_sampler *s, int32_t token, bool is_prompt);

// Has the thought end that a conversation with a reasoning_budget_tokens is in: from the next token
// on, the end of thoughts is forced. 1 if so, 0 if there is no thought to end.
int engine_sampler_end_thought(struct engine_sampler *s);

// The candidates that the last engine_sampler_sample() chose from, after all samplers: at most n,
// the most probable first.
int engine_sampler_probs(struct engine_sampler *s, size_t n, const int32_t **tokens,
    const float **probs, size_t *count);

// s may be NULL.
void engine_sampler_close(struct engine_sampler *s);

// Natural logarithms of the probabilities that the model itself gives at entry `index` of the last
// decode: of `token`, and of the n most probable tokens.
int engine_logprobs(struct engine *e, size_t index, int32_t token, size_t n, float *logprob,
    const int32_t **tokens, const float **logprobs, size_t *count);

// The same of the entry that the last engine_sample_start() of this sampler was given.
int engine_sampler_logprobs(struct engine_sampler *s, int32_t token, size_t n, float *logprob,
    const int32_t **tokens, const float **logprobs, size_t *count);

// Renders a conversation with the model's Jinja template. `request` is a JSON object with OpenAI's
// messages and, if wanted, tools, tool_choice (a string; "required" makes the reply a call whatever
// the template knows of tools), parallel_tool_calls, json_schema (of the reply),
// add_generation_prompt (true), continue_final_message, enable_thinking (true),
// reasoning_format, reasoning_budget_tokens (-1: no limit), reasoning_budget_message,
// chat_template_kwargs (an object of variables for the template).
// ENGINE_EINVAL carries the reason, which may be the template's own.
int engine_chat_open(struct engine *e, const char *request, size_t len, struct engine_chat **out);

// As a job; see engine_tokenize_start().
int engine_chat_start(struct engine *e, const char *request, size_t len, uint32_t ms,
    struct engine_job **out);
int engine_chat_finish(struct engine_job *j, struct engine_chat **out);

// A JSON object: prompt (tokenize it with add_special and parse_special), stops, plain (a reply
// needs no parsing), shown (if there are any: control tokens whose names are text of a reply),
// thinking (the template knows reasoning), format, generation_prompt, grammar. Belongs to the
// conversation.
int engine_chat_describe(const struct engine_chat *chat, const char **json, size_t *len);

// chat may be NULL; samplers and replies made from it stay valid.
void engine_chat_close(struct engine_chat *chat);

// Parses one reply of the model to a conversation.
int engine_reply_open(const struct engine_chat *chat, struct engine_reply **out);

// Takes more text of the reply. The result is a JSON object: deltas, a list of OpenAI's delta
// objects with what is new (reasoning_content, content, tool_calls), and if `final` the whole
// message. Belongs to the reply until the next call. ENGINE_EFAIL: the text is not in the form that
// the template asks for.
int engine_reply_push(struct engine_reply *reply, const char *text, size_t len, bool final,
    const char **json, size_t *json_len);

// reply may be NULL.
void engine_reply_close(struct engine_reply *reply);

// The embedding of a text (with ENGINE_POOLING_RANK, its scores), which a causal model may be given in pieces of at most n_batch tokens;
// other models take it at once, at most 512 tokens. first, last: of the pieces. The last call
// gives the vector. normalize: -1 not, 0 to the largest, 2 to Euclid's length, else to that norm.
// Has a context of its own, made by the first call, for texts of at most n_ctx tokens, or as many
// as there is memory for then. ENGINE_ENOMEM: there is none, or for a shorter text only; the call
// may be repeated.
int engine_embed(struct engine *e, size_t n, const int32_t *tokens, bool first, bool last,
    int32_t normalize, const float **vector, size_t *width);

// The same in two parts, as engine_decode() has them.
int engine_embed_start(struct engine *e, size_t n, const int32_t *tokens, bool first, bool last,
    int32_t normalize);
int engine_embed_finish(struct engine *e, const float **vector, size_t *width);

// Loads a LoRA adapter for the model; stores its number. ENGINE_EFAIL: the file.
int engine_lora_open(struct engine *e, const char *path, int32_t *id);

// Which adapters apply from the next decode on, and how much; none for n = 0.
int engine_lora_set(struct engine *e, size_t n, const int32_t *ids, const float *scales);

// The state of a sequence as bytes, and back. ENGINE_EFAIL: they are of another model or engine, or
// there is no room; then the sequence is empty.
int engine_state_get(struct engine *e, int32_t seq, const uint8_t **data, size_t *len);
int engine_state_set(struct engine *e, int32_t seq, const uint8_t *data, size_t len);

#ifdef __cplusplus
}
#endif

#endif // CLLM_ENGINE_H
