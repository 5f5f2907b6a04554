// What the files of the `_engine` module share. modengine.c has the module, its exceptions and the
// conversions; the type of each class has a file that documents its methods (*_type.c).
#ifndef CLLM_MODENGINE_H
#define CLLM_MODENGINE_H

#include "py/obj.h"
#include "py/runtime.h"
#include "py/stream.h"

#include "engine.h"

// --- objects

typedef struct {
    mp_obj_base_t base;
    struct engine *engine;          // NULL when closed or loading
    struct engine_loading *loading; // in the background, else NULL
    mp_obj_t progress, poll;
    mp_obj_t raised; // by a callback, MP_OBJ_NULL if none did
    bool computing;  // in decode() or embed(), or between start() and the end of finish()
    enum { NOTHING, BATCH, EMBEDDING } started; // what finish() will finish
    volatile bool stop;                         // read by the thread that computes
    // One batch, converted; n_batch entries each. Allocated once, so that decode() does not grow
    // the heap.
    int32_t *tokens, *positions, *seqs;
    int8_t *outputs;
} engine_obj_t;

typedef struct {
    mp_obj_base_t base;
    mp_obj_t engine;                // keeps it from being collected first
    struct engine_sampler *sampler; // NULL when closed
} sampler_obj_t;

typedef struct {
    mp_obj_base_t base;
    struct engine_chat *chat; // NULL when closed
} chat_obj_t;

typedef struct {
    mp_obj_base_t base;
    mp_obj_t engine;        // keeps it from being collected first
    struct engine_job *job; // NULL when closed
    enum { TOKENIZE, SAMPLER, CHAT } kind;
} job_obj_t;

extern const mp_obj_type_t engine_type_engine, engine_type_sampler, engine_type_chat,
    engine_type_job, engine_type_Error;

// Each has a handle that is NULL until the caller has opened it.
sampler_obj_t *modengine_new_sampler(mp_obj_t engine);
chat_obj_t *modengine_new_chat(void);
job_obj_t *modengine_new_job(mp_obj_t engine, int kind);

// The open engine of an Engine; Error while it loads and when it is closed.
engine_obj_t *modengine_self(mp_obj_t self);
struct engine *modengine_engine(mp_obj_t self);
// NULL for None; TypeError for anything but a Chat.
struct engine_chat *modengine_chat_or_null(mp_obj_t chat);

// --- errors

// Raises what a code of engine.h other than ENGINE_OK means, with engine_error() for its text.
void modengine_check(int code);
// Raises what a callback of this engine raised, else checks the code.
void modengine_check_raised(engine_obj_t *self, int code);

// --- computing (engine_compute.c)

// Sets the callbacks, and `self` as their argument.
void modengine_set_callbacks(engine_obj_t *self, struct engine_params *params);
// Allocates the columns of a batch for an engine that is open.
void modengine_make_batch(engine_obj_t *self);
// Calls poll(); ValueError while the engine computes. Call this before the arguments of a
// computation are converted: a callback in the middle of one may get here, and must not change its
// batch.
void modengine_begin(engine_obj_t *self);

// --- arguments; ValueError where one is out of range

int32_t modengine_int32(mp_obj_t obj);
// Any that is not negative.
size_t modengine_size(mp_obj_t obj);
// 0 to INT32_MAX; `name` is the argument's.
uint32_t modengine_count(mp_int_t value, qstr name);
// The n integers of a list or tuple, in an array that the caller frees (m_del).
int32_t *modengine_int32s(mp_obj_t list, size_t *n);

// --- results

// Of a function that returns 1, 0 or the code of an error.
mp_obj_t modengine_bool(int answer);
mp_obj_t modengine_token_list(const int32_t *tokens, size_t n);
// [(token, value), ...]
mp_obj_t modengine_pairs(const int32_t *tokens, const float *values, size_t n);
// (logprob, [(token, logprob), ...])
mp_obj_t modengine_logprobs(float logprob, const int32_t *tokens, const float *logprobs,
    size_t count);
// For objects that select and asyncio find readable when finish() will not wait. ended: -1 for one
// that is closed, else whether its work has ended.
mp_uint_t modengine_ioctl(mp_uint_t request, uintptr_t arg, int *error, int ended);

// --- methods of Engine outside engine_type.c

MP_DECLARE_CONST_FUN_OBJ_VAR_BETWEEN(engine_start_obj);
MP_DECLARE_CONST_FUN_OBJ_VAR_BETWEEN(engine_start_embed_obj);
MP_DECLARE_CONST_FUN_OBJ_1(engine_finish_obj);
MP_DECLARE_CONST_FUN_OBJ_VAR_BETWEEN(engine_decode_obj);
MP_DECLARE_CONST_FUN_OBJ_VAR_BETWEEN(engine_embed_obj);
MP_DECLARE_CONST_FUN_OBJ_VAR_BETWEEN(engine_logprobs_obj);
MP_DECLARE_CONST_FUN_OBJ_1(engine_abort_obj);

MP_DECLARE_CONST_FUN_OBJ_KW(engine_tokenize_obj);
MP_DECLARE_CONST_FUN_OBJ_2(engine_detokenize_obj);
MP_DECLARE_CONST_FUN_OBJ_VAR_BETWEEN(engine_piece_obj);
MP_DECLARE_CONST_FUN_OBJ_2(engine_is_eog_obj);

MP_DECLARE_CONST_FUN_OBJ_VAR_BETWEEN(engine_seq_rm_obj);
MP_DECLARE_CONST_FUN_OBJ_VAR_BETWEEN(engine_seq_cp_obj);
MP_DECLARE_CONST_FUN_OBJ_VAR_BETWEEN(engine_seq_add_obj);
MP_DECLARE_CONST_FUN_OBJ_2(engine_seq_pos_max_obj);
MP_DECLARE_CONST_FUN_OBJ_1(engine_clear_obj);
MP_DECLARE_CONST_FUN_OBJ_2(engine_lora_open_obj);
MP_DECLARE_CONST_FUN_OBJ_3(engine_lora_set_obj);
MP_DECLARE_CONST_FUN_OBJ_2(engine_state_get_obj);
MP_DECLARE_CONST_FUN_OBJ_3(engine_state_set_obj);

MP_DECLARE_CONST_FUN_OBJ_VAR_BETWEEN(engine_sampler_obj);
MP_DECLARE_CONST_FUN_OBJ_VAR_BETWEEN(engine_start_sampler_obj);
MP_DECLARE_CONST_FUN_OBJ_2(engine_chat_obj);
MP_DECLARE_CONST_FUN_OBJ_VAR_BETWEEN(engine_start_chat_obj);
MP_DECLARE_CONST_FUN_OBJ_VAR_BETWEEN(engine_start_tokenize_obj);

#endif
