// The `_engine` module: argument conversion around native/engine.
//
//   Engine(path, *, n_ctx=2048, n_batch=64, n_seq=4, n_threads=1, sample_ms=0, job_ms=0, pooling=0,
//          kernels=0, progress=None, poll=None, background=False)
//     loaded() -> float                       the part done: 1 when all is there
//     n_ctx n_ctx_train n_batch n_seq n_vocab n_embd n_params size desc ftype vocab_type
//     chat_template has_chat_template bos eos add_bos fim_pre fim_suf fim_mid fim_rep fim_sep
//     generates divisible kernels
//     tokenize(text, add_special=True, parse_special=True) -> [token, ...]
//     detokenize(tokens) -> bytes             control tokens included
//     piece(token, special=False) -> bytes    control tokens only if special
//     is_eog(token) -> bool
//     decode(tokens, positions, seq_ids, outputs)
//     start(the same)                         begins what decode() does, and finish() ends it; in
//     finish()                                between, select and asyncio tell when it will not wait
//     abort()                                 stops the decode in progress
//     seq_rm(seq, p0, p1) -> bool    seq_cp(src, dst, p0, p1)    seq_add(seq, p0, p1, delta)
//     seq_pos_max(seq) -> int        clear()
//     sampler(params, chat=None) -> Sampler   params: a dict, or JSON text
//     logprobs(batch_index, token, n) -> (logprob, [(token, logprob), ...])
//     chat(request_json) -> Chat
//     start_tokenize(text, add_special=True, parse_special=True, ms=0) -> Job
//     start_sampler(params, chat=None, ms=0) -> Job
//     start_chat(request_json, ms=0) -> Job   the same beside Python, for ms of processor time
//     embed(tokens, first, last, normalize=2) -> [float, ...] at the last piece, else None
//     start_embed(the same)                   begins it, as start(); finish() returns it
//     lora_open(path) -> id                   lora_set(ids, scales)
//     state_get(seq) -> bytes                 state_set(seq, data)
//     close()
//   Job
//     finish()                                the tokens, Sampler or Chat; select and asyncio tell when
//                                             it will not wait
//     ms() -> int                             processor time that it took
//     close()                                 stops it
//   Sampler
//     constrained                             by a grammar
//     sample(batch_index) -> token            accepts it as well
//     accept(token, is_prompt=True)
//     probs(n) -> [(token, probability), ...]
//     start(batch_index)                      begins what sample() does, from a copy of the
//                                             logits: the engine may decode meanwhile; select and
//                                             asyncio report when finish() will not wait
//     finish() -> token
//     us() -> int                             processor time of the last one, in microseconds
//     logprobs(token, n)                      as Engine.logprobs(), of the last start()'s entry
//     close()                                 stops what was started
//   Chat
//     describe() -> str                       JSON
//     reply() -> Reply
//     close()
//   Reply
//     push(text, final=False) -> str          JSON
//     close()
//   version() -> str
//   log(callback)                             callback(level, text), or None for silence
//   Error(RuntimeError), NoSlot(Error), Aborted(Error), Limit(Error), Assertion(Error)
//
// engine.h describes what each does. Wrong arguments raise ValueError, too little memory
// MemoryError, the rest Error.
//
// With background, the constructor returns at once and a thread of the engine loads; until
// loaded(), which raises what the constructor would have raised, gives 1, close() is all else that
// works.
//
// The same thread computes. Between start() and finish() Python goes on, and may do with the
// engine what needs only the vocabulary and templates; the rest raises ValueError. In decode() and
// embed() Python's thread sleeps, and runs whatever MicroPython's scheduler has pending when an
// interrupt wakes it, and poll(), which also runs once before. progress(fraction) runs while the
// constructor loads, unless in the background. Either callback may raise: the work stops at the
// graph's next node, and the constructor, decode() or embed() raises the same exception. They run
// with C++ frames below, which a longjmp must not skip, so the exception is kept until the ABI has
// returned.
#include <stdio.h>
#include <string.h>

#include "py/gc.h"
#include "py/mphal.h"
#include "py/objexcept.h"
#include "py/objstr.h"
#include "py/runtime.h"
#include "py/stream.h"

#include "engine.h"
#include "modjsonio.h"

typedef struct {
    mp_obj_base_t base;
    struct engine *engine;          // NULL when closed or loading
    struct engine_loading *loading; // in the background, else NULL
    mp_obj_t progress, poll;
    mp_obj_t raised; // by a callback, MP_OBJ_NULL if none did
    bool computing;  // in decode() or embed(), or between start() and the end of finish()
    enum { NOTHING, BATCH, EMBEDDING } started; // what finish() is to finish
    volatile bool stop;                         // for the thread that computes
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

typedef struct {
    mp_obj_base_t base;
    struct engine_reply *reply; // NULL when closed
} reply_obj_t;

static const mp_obj_type_t engine_type_sampler;
static const mp_obj_type_t engine_type_chat;
static const mp_obj_type_t engine_type_job;
static const mp_obj_type_t engine_type_reply;

#define ENGINE_EXCEPTION(name, parent_type) \
    static MP_DEFINE_CONST_OBJ_TYPE(engine_type_##name, MP_QSTR_##name, MP_TYPE_FLAG_NONE, \
        make_new, mp_obj_exception_make_new, print, mp_obj_exception_print, attr, \
        mp_obj_exception_attr, parent, &parent_type)

ENGINE_EXCEPTION(Error, mp_type_RuntimeError);
ENGINE_EXCEPTION(NoSlot, engine_type_Error);
ENGINE_EXCEPTION(Aborted, engine_type_Error);
ENGINE_EXCEPTION(Limit, engine_type_Error);
ENGINE_EXCEPTION(Assertion, engine_type_Error);

static void check(int code) {
    if (code == ENGINE_OK) {
        return;
    }
    const mp_obj_type_t *type = &engine_type_Error;
    if (code == ENGINE_NO_SLOT) {
        type = &engine_type_NoSlot;
    } else if (code == ENGINE_ABORTED) {
        type = &engine_type_Aborted;
    } else if (code == ENGINE_LIMIT) {
        type = &engine_type_Limit;
    } else if (code == ENGINE_EASSERT || code == ENGINE_EBROKEN) {
        type = &engine_type_Assertion;
    } else if (code == ENGINE_EINVAL) {
        type = &mp_type_ValueError;
    } else if (code == ENGINE_ENOMEM) {
        type = &mp_type_MemoryError;
    }
    const char *reason = engine_error();
    mp_obj_t text = mp_obj_new_str(reason, strlen(reason));
    nlr_raise(mp_obj_new_exception_arg1(type, text));
}

// Passes on what a callback raised, else checks the code.
static void check_raised(engine_obj_t *self, int code) {
    mp_obj_t raised = self->raised;
    if (raised != MP_OBJ_NULL) {
        self->raised = MP_OBJ_NULL;
        nlr_raise(raised);
    }
    check(code);
}

// For the functions that answer 0 or 1, or an error below that.
static mp_obj_t get_bool(int answer) {
    if (answer < 0) {
        check(answer);
    }
    return mp_obj_new_bool(answer);
}

static int32_t get_int32(mp_obj_t obj) {
    mp_int_t value = mp_obj_get_int(obj);
    if (value != (int32_t)value) {
        mp_raise_ValueError(MP_ERROR_TEXT("integer outside 32 bits"));
    }
    return value;
}

static engine_obj_t *get_self(mp_obj_t self_in) {
    engine_obj_t *self = MP_OBJ_TO_PTR(self_in);
    if (self->loading != NULL) {
        mp_raise_msg(&engine_type_Error, MP_ERROR_TEXT("the model is still loading"));
    }
    if (self->engine == NULL) {
        mp_raise_msg(&engine_type_Error, MP_ERROR_TEXT("the engine is closed"));
    }
    return self;
}

static struct engine *get_engine(mp_obj_t self_in) {
    return get_self(self_in)->engine;
}

// Calls a Python function from a callback of the engine. False if it raised.
static bool call_from_engine(engine_obj_t *self, mp_obj_t function, size_t n,
    const mp_obj_t *args) {
    nlr_buf_t nlr;
    if (nlr_push(&nlr) == 0) {
        mp_handle_pending(true);
        if (function != mp_const_none) {
            mp_call_function_n_kw(function, n, 0, args);
        }
        nlr_pop();
        return true;
    }
    self->raised = MP_OBJ_FROM_PTR(nlr.ret_val);
    self->stop = true;
    return false;
}

static bool on_progress(void *self_in, float done) {
    watchdog_feed(WATCHDOG_LOOP);
    engine_obj_t *self = self_in;
    nlr_buf_t nlr;
    mp_obj_t fraction;
    if (nlr_push(&nlr) == 0) {
        fraction = mp_obj_new_float((mp_float_t)done);
        nlr_pop();
    } else {
        self->raised = MP_OBJ_FROM_PTR(nlr.ret_val);
        return false;
    }
    return call_from_engine(self, self->progress, 1, &fraction);
}

// Between two nodes of a graph, on the thread that computes: nothing of Python may be touched.
static bool on_poll(void *self_in) {
    watchdog_feed(WATCHDOG_LOOP); // a long decode is work, not a hang
    return ((engine_obj_t *)self_in)->stop;
}

// On Python's thread, until the other one has ended its work.
static void on_wait(void *self_in) {
    engine_obj_t *self = self_in;
    call_from_engine(self, self->stop ? mp_const_none : self->poll, 0, NULL);
    // A callback that slept may have used up the wake-up of on_wake().
    if (MP_STATE_VM(sched_state) != MP_SCHED_PENDING && !engine_ended(self->engine)) {
        clock_wait(UINT64_MAX);
    }
}

static void on_wake(void *self_in) {
    (void)self_in;
    clock_interrupted();
}

// After the engine has computed.
static void end(engine_obj_t *self, int code) {
    self->computing = false;
    check_raised(self, code);
}

// Before the arguments of what the engine is to compute are converted: a callback may come here in
// the middle of a computation, and must leave its batch alone.
static void begin(engine_obj_t *self) {
    if (self->computing) {
        mp_raise_ValueError(MP_ERROR_TEXT("the engine is busy"));
    }
    self->stop = false;
    self->computing = true;
    call_from_engine(self, self->poll, 0, NULL);
    end(self, ENGINE_OK);
}

static uint32_t get_count(mp_int_t value, qstr name) {
    if (value < 0 || value > INT32_MAX) {
        mp_raise_msg_varg(&mp_type_ValueError, MP_ERROR_TEXT("%q is out of range"), name);
    }
    return value;
}

static void make_batch(engine_obj_t *self) {
    uint32_t n_batch = engine_info(self->engine)->n_batch;
    self->tokens = m_new(int32_t, n_batch);
    self->positions = m_new(int32_t, n_batch);
    self->seqs = m_new(int32_t, n_batch);
    self->outputs = m_new(int8_t, n_batch);
}

// What came of loading in the background; waits for it.
static int end_loading(engine_obj_t *self) {
    struct engine_loading *loading = self->loading;
    self->loading = NULL;
    return engine_loading_end(loading, &self->engine);
}

static mp_obj_t engine_make_new(const mp_obj_type_t *type, size_t n_args, size_t n_kw,
    const mp_obj_t *args) {
    enum {
        ARG_path,
        ARG_n_ctx,
        ARG_n_batch,
        ARG_n_seq,
        ARG_n_threads,
        ARG_sample_ms,
        ARG_job_ms,
        ARG_pooling,
        ARG_kernels,
        ARG_progress,
        ARG_poll,
        ARG_background
    };
    static const mp_arg_t allowed[] = {
        {MP_QSTR_path, MP_ARG_REQUIRED | MP_ARG_OBJ, {.u_obj = MP_OBJ_NULL}},
        {MP_QSTR_n_ctx, MP_ARG_KW_ONLY | MP_ARG_INT, {.u_int = 2048}},
        {MP_QSTR_n_batch, MP_ARG_KW_ONLY | MP_ARG_INT, {.u_int = 64}},
        {MP_QSTR_n_seq, MP_ARG_KW_ONLY | MP_ARG_INT, {.u_int = 4}},
        {MP_QSTR_n_threads, MP_ARG_KW_ONLY | MP_ARG_INT, {.u_int = 1}},
        {MP_QSTR_sample_ms, MP_ARG_KW_ONLY | MP_ARG_INT, {.u_int = 0}},
        {MP_QSTR_job_ms, MP_ARG_KW_ONLY | MP_ARG_INT, {.u_int = 0}},
        {MP_QSTR_pooling, MP_ARG_KW_ONLY | MP_ARG_INT, {.u_int = ENGINE_POOLING_MODEL}},
        {MP_QSTR_kernels, MP_ARG_KW_ONLY | MP_ARG_INT, {.u_int = ENGINE_KERNELS_AUTO}},
        {MP_QSTR_progress, MP_ARG_KW_ONLY | MP_ARG_OBJ, {.u_rom_obj = MP_ROM_NONE}},
        {MP_QSTR_poll, MP_ARG_KW_ONLY | MP_ARG_OBJ, {.u_rom_obj = MP_ROM_NONE}},
        {MP_QSTR_background, MP_ARG_KW_ONLY | MP_ARG_BOOL, {.u_bool = false}},
    };
    mp_arg_val_t arg[MP_ARRAY_SIZE(allowed)];
    mp_arg_parse_all_kw_array(n_args, n_kw, args, MP_ARRAY_SIZE(allowed), allowed, arg);

    engine_obj_t *self = mp_obj_malloc_with_finaliser(engine_obj_t, type);
    self->engine = NULL;
    self->loading = NULL;
    self->progress = arg[ARG_progress].u_obj;
    self->poll = arg[ARG_poll].u_obj;
    self->raised = MP_OBJ_NULL;
    self->computing = self->stop = false;
    self->started = NOTHING;
    struct engine_params params = {
        .n_ctx = get_count(arg[ARG_n_ctx].u_int, MP_QSTR_n_ctx),
        .n_batch = get_count(arg[ARG_n_batch].u_int, MP_QSTR_n_batch),
        .n_seq = get_count(arg[ARG_n_seq].u_int, MP_QSTR_n_seq),
        .n_threads = get_count(arg[ARG_n_threads].u_int, MP_QSTR_n_threads),
        .sample_ms = get_count(arg[ARG_sample_ms].u_int, MP_QSTR_sample_ms),
        .job_ms = get_count(arg[ARG_job_ms].u_int, MP_QSTR_job_ms),
        .pooling = get_count(arg[ARG_pooling].u_int, MP_QSTR_pooling),
        .kernels = get_count(arg[ARG_kernels].u_int, MP_QSTR_kernels),
        .progress = on_progress,
        .poll = on_poll,
        .wait = on_wait,
        .wake = on_wake,
        .user = self,
    };
    const char *path = mp_obj_str_get_str(arg[ARG_path].u_obj);
    if (arg[ARG_background].u_bool) {
        check(engine_load(path, &params, &self->loading));
    } else {
        int code = engine_open(path, &params, &self->engine);
        check_raised(self, code);
        make_batch(self);
    }
    return MP_OBJ_FROM_PTR(self);
}

static mp_obj_t engine_loaded_py(mp_obj_t self_in) {
    engine_obj_t *self = MP_OBJ_TO_PTR(self_in);
    if (self->loading != NULL) {
        float done = engine_loading_done(self->loading);
        if (done < 1) {
            return mp_obj_new_float((mp_float_t)done);
        }
    }
    if (self->loading != NULL) { // the receiver of the log may have closed the engine
        check(end_loading(self));
        make_batch(self);
    }
    get_self(self_in);
    return mp_obj_new_float(1);
}
static MP_DEFINE_CONST_FUN_OBJ_1(engine_loaded_obj, engine_loaded_py);

static void engine_attr(mp_obj_t self_in, qstr name, mp_obj_t *dest) {
    if (dest[0] != MP_OBJ_NULL) {
        return; // attributes cannot be stored
    }
    engine_obj_t *self = MP_OBJ_TO_PTR(self_in);
    if (self->engine != NULL) {
        const struct engine_info *info = engine_info(self->engine);
        switch (name) {
            case MP_QSTR_n_ctx:
                dest[0] = mp_obj_new_int_from_uint(info->n_ctx);
                return;
            case MP_QSTR_n_ctx_train:
                dest[0] = mp_obj_new_int_from_uint(info->n_ctx_train);
                return;
            case MP_QSTR_n_batch:
                dest[0] = mp_obj_new_int_from_uint(info->n_batch);
                return;
            case MP_QSTR_n_seq:
                dest[0] = mp_obj_new_int_from_uint(info->n_seq);
                return;
            case MP_QSTR_n_vocab:
                dest[0] = mp_obj_new_int_from_uint(info->n_vocab);
                return;
            case MP_QSTR_n_embd:
                dest[0] = mp_obj_new_int_from_uint(info->n_embd);
                return;
            case MP_QSTR_vocab_type:
                dest[0] = mp_obj_new_int(info->vocab_type);
                return;
            case MP_QSTR_fim_pre:
                dest[0] = mp_obj_new_int(info->fim_pre);
                return;
            case MP_QSTR_fim_suf:
                dest[0] = mp_obj_new_int(info->fim_suf);
                return;
            case MP_QSTR_fim_mid:
                dest[0] = mp_obj_new_int(info->fim_mid);
                return;
            case MP_QSTR_fim_rep:
                dest[0] = mp_obj_new_int(info->fim_rep);
                return;
            case MP_QSTR_fim_sep:
                dest[0] = mp_obj_new_int(info->fim_sep);
                return;
            case MP_QSTR_generates:
                dest[0] = mp_obj_new_bool(info->generates);
                return;
            case MP_QSTR_divisible:
                dest[0] = mp_obj_new_bool(info->divisible);
                return;
            case MP_QSTR_n_params:
                dest[0] = mp_obj_new_int_from_ull(info->n_params);
                return;
            case MP_QSTR_size:
                dest[0] = mp_obj_new_int_from_ull(info->size);
                return;
            case MP_QSTR_bos:
                dest[0] = mp_obj_new_int(info->bos);
                return;
            case MP_QSTR_eos:
                dest[0] = mp_obj_new_int(info->eos);
                return;
            case MP_QSTR_add_bos:
                dest[0] = mp_obj_new_bool(info->add_bos);
                return;
            case MP_QSTR_has_chat_template:
                dest[0] = mp_obj_new_bool(info->has_chat_template);
                return;
            case MP_QSTR_chat_template:
                dest[0] = mp_obj_new_str_from_cstr(info->chat_template);
                return;
            case MP_QSTR_desc:
                dest[0] = mp_obj_new_str_from_cstr(info->desc);
                return;
            case MP_QSTR_ftype:
                dest[0] = mp_obj_new_str_from_cstr(info->ftype);
                return;
            case MP_QSTR_kernels:
                dest[0] = mp_obj_new_str_from_cstr(info->kernels);
                return;
        }
    }
    dest[1] = MP_OBJ_SENTINEL; // go on with the methods
}

static mp_obj_t new_token_list(const int32_t *tokens, size_t n) {
    mp_obj_list_t *list = MP_OBJ_TO_PTR(mp_obj_new_list(n, NULL));
    for (size_t i = 0; i < n; i++) {
        list->items[i] = MP_OBJ_NEW_SMALL_INT(tokens[i]);
    }
    return MP_OBJ_FROM_PTR(list);
}

static mp_obj_t engine_tokenize_py(size_t n_args, const mp_obj_t *pos_args, mp_map_t *kw_args) {
    enum { ARG_text, ARG_add_special, ARG_parse_special };
    static const mp_arg_t allowed[] = {
        {MP_QSTR_text, MP_ARG_REQUIRED | MP_ARG_OBJ, {.u_obj = MP_OBJ_NULL}},
        {MP_QSTR_add_special, MP_ARG_BOOL, {.u_bool = true}},
        {MP_QSTR_parse_special, MP_ARG_BOOL, {.u_bool = true}},
    };
    mp_arg_val_t arg[MP_ARRAY_SIZE(allowed)];
    mp_arg_parse_all(n_args - 1, pos_args + 1, kw_args, MP_ARRAY_SIZE(allowed), allowed, arg);

    size_t len;
    const char *text = mp_obj_str_get_data(arg[ARG_text].u_obj, &len);
    const int32_t *tokens;
    size_t n;
    check(engine_tokenize(get_engine(pos_args[0]), text, len, arg[ARG_add_special].u_bool,
        arg[ARG_parse_special].u_bool, &tokens, &n));
    return new_token_list(tokens, n);
}
static MP_DEFINE_CONST_FUN_OBJ_KW(engine_tokenize_obj, 2, engine_tokenize_py);

static mp_obj_t engine_detokenize_py(mp_obj_t self_in, mp_obj_t tokens_in) {
    struct engine *engine = get_engine(self_in);
    size_t n;
    mp_obj_t *items;
    mp_obj_get_array(tokens_in, &n, &items);
    int32_t *tokens = m_new(int32_t, n);
    for (size_t i = 0; i < n; i++) {
        tokens[i] = get_int32(items[i]);
    }
    const char *text;
    size_t len;
    int code = engine_detokenize(engine, tokens, n, &text, &len);
    m_del(int32_t, tokens, n);
    check(code);
    return mp_obj_new_bytes((const byte *)text, len);
}
static MP_DEFINE_CONST_FUN_OBJ_2(engine_detokenize_obj, engine_detokenize_py);

static mp_obj_t engine_piece_py(size_t n_args, const mp_obj_t *args) {
    const char *text;
    size_t len;
    bool special = n_args > 2 && mp_obj_is_true(args[2]);
    check(engine_piece(get_engine(args[0]), get_int32(args[1]), special, &text, &len));
    return mp_obj_new_bytes((const byte *)text, len);
}
static MP_DEFINE_CONST_FUN_OBJ_VAR_BETWEEN(engine_piece_obj, 2, 3, engine_piece_py);

static mp_obj_t engine_is_eog_py(mp_obj_t self_in, mp_obj_t token) {
    return get_bool(engine_is_eog(get_engine(self_in), get_int32(token)));
}
static MP_DEFINE_CONST_FUN_OBJ_2(engine_is_eog_obj, engine_is_eog_py);

static mp_obj_t engine_start_py(size_t n_args, const mp_obj_t *args) {
    (void)n_args;
    engine_obj_t *self = get_self(args[0]);
    size_t n;
    mp_obj_t *columns[4];
    for (size_t column = 0; column < 4; column++) {
        size_t length;
        mp_obj_get_array(args[1 + column], &length, &columns[column]);
        if (column == 0) {
            n = length;
        } else if (length != n) {
            mp_raise_ValueError(MP_ERROR_TEXT("the lists differ in length"));
        }
    }
    if (n > engine_info(self->engine)->n_batch) {
        mp_raise_ValueError(MP_ERROR_TEXT("the batch is larger than n_batch"));
    }
    begin(self);
    for (size_t i = 0; i < n; i++) {
        self->tokens[i] = get_int32(columns[0][i]);
        self->positions[i] = get_int32(columns[1][i]);
        self->seqs[i] = get_int32(columns[2][i]);
        self->outputs[i] = mp_obj_is_true(columns[3][i]);
    }
    check(engine_decode_start(self->engine, n, self->tokens, self->positions, self->seqs,
        self->outputs));
    self->computing = true;
    self->started = BATCH;
    return mp_const_none;
}
static MP_DEFINE_CONST_FUN_OBJ_VAR_BETWEEN(engine_start_obj, 5, 5, engine_start_py);

static mp_obj_t engine_finish_py(mp_obj_t self_in) {
    engine_obj_t *self = get_self(self_in);
    if (self->started == NOTHING) {
        mp_raise_ValueError(MP_ERROR_TEXT("no batch was started"));
    }
    int started = self->started;
    self->started = NOTHING;
    const float *vector = NULL;
    size_t width;
    end(self,
        started == EMBEDDING ? engine_embed_finish(self->engine, &vector, &width)
                             : engine_decode_finish(self->engine));
    if (vector == NULL) {
        return mp_const_none;
    }
    mp_obj_list_t *list = MP_OBJ_TO_PTR(mp_obj_new_list(width, NULL));
    for (size_t i = 0; i < width; i++) {
        list->items[i] = mp_const_none;
    }
    for (size_t i = 0; i < width; i++) {
        list->items[i] = mp_obj_new_float((mp_float_t)vector[i]);
    }
    return MP_OBJ_FROM_PTR(list);
}
static MP_DEFINE_CONST_FUN_OBJ_1(engine_finish_obj, engine_finish_py);

static mp_obj_t engine_decode_py(size_t n_args, const mp_obj_t *args) {
    engine_start_py(n_args, args);
    return engine_finish_py(args[0]);
}
static MP_DEFINE_CONST_FUN_OBJ_VAR_BETWEEN(engine_decode_obj, 5, 5, engine_decode_py);

// Readable for select and asyncio when finish() will not have to wait.
static mp_uint_t engine_ioctl(mp_obj_t self_in, mp_uint_t request, uintptr_t arg, int *error) {
    engine_obj_t *self = MP_OBJ_TO_PTR(self_in);
    if (request != MP_STREAM_POLL) {
        *error = MP_EINVAL;
        return MP_STREAM_ERROR;
    }
    if (self->engine == NULL) {
        return MP_STREAM_POLL_NVAL;
    }
    return engine_ended(self->engine) ? arg & MP_STREAM_POLL_RD : 0;
}

static const mp_stream_p_t engine_stream = {.ioctl = engine_ioctl};

static mp_obj_t engine_abort_py(mp_obj_t self_in) {
    engine_abort(get_engine(self_in));
    return mp_const_none;
}
static MP_DEFINE_CONST_FUN_OBJ_1(engine_abort_obj, engine_abort_py);

static mp_obj_t engine_seq_rm_py(size_t n_args, const mp_obj_t *args) {
    (void)n_args;
    return get_bool(engine_seq_rm(get_engine(args[0]), get_int32(args[1]), get_int32(args[2]),
        get_int32(args[3])));
}
static MP_DEFINE_CONST_FUN_OBJ_VAR_BETWEEN(engine_seq_rm_obj, 4, 4, engine_seq_rm_py);

static mp_obj_t engine_seq_cp_py(size_t n_args, const mp_obj_t *args) {
    (void)n_args;
    check(engine_seq_cp(get_engine(args[0]), get_int32(args[1]), get_int32(args[2]),
        get_int32(args[3]), get_int32(args[4])));
    return mp_const_none;
}
static MP_DEFINE_CONST_FUN_OBJ_VAR_BETWEEN(engine_seq_cp_obj, 5, 5, engine_seq_cp_py);

static mp_obj_t engine_seq_add_py(size_t n_args, const mp_obj_t *args) {
    (void)n_args;
    check(engine_seq_add(get_engine(args[0]), get_int32(args[1]), get_int32(args[2]),
        get_int32(args[3]), get_int32(args[4])));
    return mp_const_none;
}
static MP_DEFINE_CONST_FUN_OBJ_VAR_BETWEEN(engine_seq_add_obj, 5, 5, engine_seq_add_py);

static mp_obj_t engine_seq_pos_max_py(mp_obj_t self_in, mp_obj_t seq) {
    int32_t pos;
    check(engine_seq_pos_max(get_engine(self_in), get_int32(seq), &pos));
    return mp_obj_new_int(pos);
}
static MP_DEFINE_CONST_FUN_OBJ_2(engine_seq_pos_max_obj, engine_seq_pos_max_py);

static mp_obj_t engine_clear_py(mp_obj_t self_in) {
    check(engine_clear(get_engine(self_in)));
    return mp_const_none;
}
static MP_DEFINE_CONST_FUN_OBJ_1(engine_clear_obj, engine_clear_py);

// A list of (token, value) tuples.
static mp_obj_t pairs(const int32_t *tokens, const float *values, size_t n) {
    mp_obj_list_t *list = MP_OBJ_TO_PTR(mp_obj_new_list(n, NULL));
    for (size_t i = 0; i < n; i++) {
        list->items[i] = mp_const_none; // what the collector sees while the rest is made
    }
    for (size_t i = 0; i < n; i++) {
        mp_obj_t pair[2] = {MP_OBJ_NEW_SMALL_INT(tokens[i]),
            mp_obj_new_float((mp_float_t)values[i])};
        list->items[i] = mp_obj_new_tuple(2, pair);
    }
    return MP_OBJ_FROM_PTR(list);
}

static mp_obj_t logprob_and_pairs(float logprob, const int32_t *tokens, const float *logprobs,
    size_t count) {
    mp_obj_t result[2] = {MP_OBJ_NULL, pairs(tokens, logprobs, count)};
    result[0] = mp_obj_new_float((mp_float_t)logprob);
    return mp_obj_new_tuple(2, result);
}

static size_t get_size(mp_obj_t obj) {
    mp_int_t value = mp_obj_get_int(obj);
    if (value < 0) {
        mp_raise_ValueError(MP_ERROR_TEXT("negative number"));
    }
    return value;
}

static mp_obj_t engine_logprobs_py(size_t n_args, const mp_obj_t *args) {
    (void)n_args;
    float logprob;
    const int32_t *tokens;
    const float *logprobs;
    size_t count;
    check(engine_logprobs(get_engine(args[0]), get_size(args[1]), get_int32(args[2]),
        get_size(args[3]), &logprob, &tokens, &logprobs, &count));
    return logprob_and_pairs(logprob, tokens, logprobs, count);
}
static MP_DEFINE_CONST_FUN_OBJ_VAR_BETWEEN(engine_logprobs_obj, 4, 4, engine_logprobs_py);

static mp_obj_t engine_chat_py(mp_obj_t self_in, mp_obj_t request_in) {
    size_t len;
    const char *request = mp_obj_str_get_data(request_in, &len);
    struct engine *engine = get_engine(self_in);
    chat_obj_t *self = mp_obj_malloc_with_finaliser(chat_obj_t, &engine_type_chat);
    self->chat = NULL;
    check(engine_chat_open(engine, request, len, &self->chat));
    return MP_OBJ_FROM_PTR(self);
}
static MP_DEFINE_CONST_FUN_OBJ_2(engine_chat_obj, engine_chat_py);

// The text of sampler parameters: JSON already, or a dict.
static const char *get_params(mp_obj_t params, size_t *len) {
    if (!mp_obj_is_str_or_bytes(params)) {
        if (!mp_obj_is_type(params, &mp_type_dict)) {
            mp_raise_TypeError(MP_ERROR_TEXT("sampler parameters must be a dict or JSON"));
        }
        // C++ reads an integer beyond 64 bits as a double, if at all.
        params = jsonio_text(params, false);
    }
    return mp_obj_str_get_data(params, len);
}

static struct engine_chat *get_chat_or_null(mp_obj_t chat) {
    if (chat == mp_const_none) {
        return NULL;
    }
    if (!mp_obj_is_type(chat, &engine_type_chat)) {
        mp_raise_TypeError(MP_ERROR_TEXT("not a Chat"));
    }
    return ((chat_obj_t *)MP_OBJ_TO_PTR(chat))->chat;
}

static sampler_obj_t *new_sampler(mp_obj_t engine) {
    sampler_obj_t *self = mp_obj_malloc_with_finaliser(sampler_obj_t, &engine_type_sampler);
    self->engine = engine;
    self->sampler = NULL;
    return self;
}

static mp_obj_t engine_sampler_py(size_t n_args, const mp_obj_t *args) {
    struct engine *engine = get_engine(args[0]);
    struct engine_chat *chat = get_chat_or_null(n_args > 2 ? args[2] : mp_const_none);
    size_t len;
    const char *params = get_params(args[1], &len);
    sampler_obj_t *self = new_sampler(args[0]);
    check(engine_sampler_open(engine, params, len, chat, &self->sampler));
    return MP_OBJ_FROM_PTR(self);
}
static MP_DEFINE_CONST_FUN_OBJ_VAR_BETWEEN(engine_sampler_obj, 2, 3, engine_sampler_py);

static job_obj_t *new_job(mp_obj_t engine, int kind) {
    job_obj_t *self = mp_obj_malloc_with_finaliser(job_obj_t, &engine_type_job);
    self->engine = engine;
    self->job = NULL;
    self->kind = kind;
    return self;
}

static mp_obj_t engine_start_tokenize_py(size_t n_args, const mp_obj_t *args) {
    size_t len;
    const char *text = mp_obj_str_get_data(args[1], &len);
    bool add_special = n_args < 3 || mp_obj_is_true(args[2]);
    bool parse_special = n_args < 4 || mp_obj_is_true(args[3]);
    uint32_t ms = n_args > 4 ? get_count(mp_obj_get_int(args[4]), MP_QSTR_ms) : 0;
    job_obj_t *self = new_job(args[0], TOKENIZE);
    check(engine_tokenize_start(get_engine(args[0]), text, len, add_special, parse_special, ms,
        &self->job));
    return MP_OBJ_FROM_PTR(self);
}
static MP_DEFINE_CONST_FUN_OBJ_VAR_BETWEEN(engine_start_tokenize_obj, 2, 5,
    engine_start_tokenize_py);

static mp_obj_t engine_start_sampler_py(size_t n_args, const mp_obj_t *args) {
    struct engine_chat *chat = get_chat_or_null(n_args > 2 ? args[2] : mp_const_none);
    uint32_t ms = n_args > 3 ? get_count(mp_obj_get_int(args[3]), MP_QSTR_ms) : 0;
    size_t len;
    const char *params = get_params(args[1], &len);
    job_obj_t *self = new_job(args[0], SAMPLER);
    check(engine_sampler_start(get_engine(args[0]), params, len, chat, ms, &self->job));
    return MP_OBJ_FROM_PTR(self);
}
static MP_DEFINE_CONST_FUN_OBJ_VAR_BETWEEN(engine_start_sampler_obj, 2, 4, engine_start_sampler_py);

static mp_obj_t engine_start_chat_py(size_t n_args, const mp_obj_t *args) {
    size_t len;
    const char *request = mp_obj_str_get_data(args[1], &len);
    uint32_t ms = n_args > 2 ? get_count(mp_obj_get_int(args[2]), MP_QSTR_ms) : 0;
    job_obj_t *self = new_job(args[0], CHAT);
    check(engine_chat_start(get_engine(args[0]), request, len, ms, &self->job));
    return MP_OBJ_FROM_PTR(self);
}
static MP_DEFINE_CONST_FUN_OBJ_VAR_BETWEEN(engine_start_chat_obj, 2, 3, engine_start_chat_py);

static mp_obj_t engine_start_embed_py(size_t n_args, const mp_obj_t *args) {
    engine_obj_t *self = get_self(args[0]);
    size_t n;
    mp_obj_t *items;
    mp_obj_get_array(args[1], &n, &items);
    int32_t normalize = n_args > 4 ? get_int32(args[4]) : 2;
    int32_t *tokens = m_new(int32_t, n);
    for (size_t i = 0; i < n; i++) {
        tokens[i] = get_int32(items[i]);
    }
    begin(self);
    int code = engine_embed_start(self->engine, n, tokens, mp_obj_is_true(args[2]),
        mp_obj_is_true(args[3]), normalize);
    m_del(int32_t, tokens, n);
    check(code);
    self->computing = true;
    self->started = EMBEDDING;
    return mp_const_none;
}
static MP_DEFINE_CONST_FUN_OBJ_VAR_BETWEEN(engine_start_embed_obj, 4, 5, engine_start_embed_py);

static mp_obj_t engine_embed_py(size_t n_args, const mp_obj_t *args) {
    engine_start_embed_py(n_args, args);
    return engine_finish_py(args[0]);
}
static MP_DEFINE_CONST_FUN_OBJ_VAR_BETWEEN(engine_embed_obj, 4, 5, engine_embed_py);

static mp_obj_t engine_lora_open_py(mp_obj_t self_in, mp_obj_t path) {
    int32_t id;
    check(engine_lora_open(get_engine(self_in), mp_obj_str_get_str(path), &id));
    return MP_OBJ_NEW_SMALL_INT(id);
}
static MP_DEFINE_CONST_FUN_OBJ_2(engine_lora_open_obj, engine_lora_open_py);

static mp_obj_t engine_lora_set_py(mp_obj_t self_in, mp_obj_t ids_in, mp_obj_t scales_in) {
    struct engine *engine = get_engine(self_in);
    size_t n, n_scales;
    mp_obj_t *ids, *scales;
    mp_obj_get_array(ids_in, &n, &ids);
    mp_obj_get_array(scales_in, &n_scales, &scales);
    if (n != n_scales) {
        mp_raise_ValueError(MP_ERROR_TEXT("the lists differ in length"));
    }
    int32_t *numbers = m_new(int32_t, n);
    float *factors = m_new(float, n);
    for (size_t i = 0; i < n; i++) {
        numbers[i] = get_int32(ids[i]);
        factors[i] = mp_obj_get_float(scales[i]);
    }
    int code = engine_lora_set(engine, n, numbers, factors);
    m_del(int32_t, numbers, n);
    m_del(float, factors, n);
    check(code);
    return mp_const_none;
}
static MP_DEFINE_CONST_FUN_OBJ_3(engine_lora_set_obj, engine_lora_set_py);

static mp_obj_t engine_state_get_py(mp_obj_t self_in, mp_obj_t seq) {
    const uint8_t *data;
    size_t len;
    check(engine_state_get(get_engine(self_in), get_int32(seq), &data, &len));
    return mp_obj_new_bytes(data, len);
}
static MP_DEFINE_CONST_FUN_OBJ_2(engine_state_get_obj, engine_state_get_py);

static mp_obj_t engine_state_set_py(mp_obj_t self_in, mp_obj_t seq, mp_obj_t data_in) {
    mp_buffer_info_t data;
    mp_get_buffer_raise(data_in, &data, MP_BUFFER_READ);
    check(engine_state_set(get_engine(self_in), get_int32(seq), data.buf, data.len));
    return mp_const_none;
}
static MP_DEFINE_CONST_FUN_OBJ_3(engine_state_set_obj, engine_state_set_py);

// Also the finaliser, so it must not raise unless the engine is in use, which a finaliser is not
// called for.
static mp_obj_t engine_close_py(mp_obj_t self_in) {
    engine_obj_t *self = MP_OBJ_TO_PTR(self_in);
    if (self->loading != NULL) {
        engine_loading_stop(self->loading);
        end_loading(self); // stopped, failed or just done in time
    }
    if (self->engine != NULL) {
        check(engine_close(self->engine));
        self->engine = NULL;
    }
    return mp_const_none;
}
static MP_DEFINE_CONST_FUN_OBJ_1(engine_close_obj, engine_close_py);

static const mp_rom_map_elem_t engine_locals_table[] = {
    {MP_ROM_QSTR(MP_QSTR___del__), MP_ROM_PTR(&engine_close_obj)},
    {MP_ROM_QSTR(MP_QSTR_loaded), MP_ROM_PTR(&engine_loaded_obj)},
    {MP_ROM_QSTR(MP_QSTR_tokenize), MP_ROM_PTR(&engine_tokenize_obj)},
    {MP_ROM_QSTR(MP_QSTR_detokenize), MP_ROM_PTR(&engine_detokenize_obj)},
    {MP_ROM_QSTR(MP_QSTR_piece), MP_ROM_PTR(&engine_piece_obj)},
    {MP_ROM_QSTR(MP_QSTR_is_eog), MP_ROM_PTR(&engine_is_eog_obj)},
    {MP_ROM_QSTR(MP_QSTR_decode), MP_ROM_PTR(&engine_decode_obj)},
    {MP_ROM_QSTR(MP_QSTR_start), MP_ROM_PTR(&engine_start_obj)},
    {MP_ROM_QSTR(MP_QSTR_start_embed), MP_ROM_PTR(&engine_start_embed_obj)},
    {MP_ROM_QSTR(MP_QSTR_finish), MP_ROM_PTR(&engine_finish_obj)},
    {MP_ROM_QSTR(MP_QSTR_abort), MP_ROM_PTR(&engine_abort_obj)},
    {MP_ROM_QSTR(MP_QSTR_seq_rm), MP_ROM_PTR(&engine_seq_rm_obj)},
    {MP_ROM_QSTR(MP_QSTR_seq_cp), MP_ROM_PTR(&engine_seq_cp_obj)},
    {MP_ROM_QSTR(MP_QSTR_seq_add), MP_ROM_PTR(&engine_seq_add_obj)},
    {MP_ROM_QSTR(MP_QSTR_seq_pos_max), MP_ROM_PTR(&engine_seq_pos_max_obj)},
    {MP_ROM_QSTR(MP_QSTR_clear), MP_ROM_PTR(&engine_clear_obj)},
    {MP_ROM_QSTR(MP_QSTR_sampler), MP_ROM_PTR(&engine_sampler_obj)},
    {MP_ROM_QSTR(MP_QSTR_start_tokenize), MP_ROM_PTR(&engine_start_tokenize_obj)},
    {MP_ROM_QSTR(MP_QSTR_start_sampler), MP_ROM_PTR(&engine_start_sampler_obj)},
    {MP_ROM_QSTR(MP_QSTR_start_chat), MP_ROM_PTR(&engine_start_chat_obj)},
    {MP_ROM_QSTR(MP_QSTR_logprobs), MP_ROM_PTR(&engine_logprobs_obj)},
    {MP_ROM_QSTR(MP_QSTR_chat), MP_ROM_PTR(&engine_chat_obj)},
    {MP_ROM_QSTR(MP_QSTR_embed), MP_ROM_PTR(&engine_embed_obj)},
    {MP_ROM_QSTR(MP_QSTR_lora_open), MP_ROM_PTR(&engine_lora_open_obj)},
    {MP_ROM_QSTR(MP_QSTR_lora_set), MP_ROM_PTR(&engine_lora_set_obj)},
    {MP_ROM_QSTR(MP_QSTR_state_get), MP_ROM_PTR(&engine_state_get_obj)},
    {MP_ROM_QSTR(MP_QSTR_state_set), MP_ROM_PTR(&engine_state_set_obj)},
    {MP_ROM_QSTR(MP_QSTR_close), MP_ROM_PTR(&engine_close_obj)},
};
static MP_DEFINE_CONST_DICT(engine_locals, engine_locals_table);

static MP_DEFINE_CONST_OBJ_TYPE(engine_type_engine, MP_QSTR_Engine, MP_TYPE_FLAG_NONE, make_new,
    engine_make_new, attr, engine_attr, protocol, &engine_stream, locals_dict, &engine_locals);

static struct engine_sampler *get_sampler(mp_obj_t self_in) {
    sampler_obj_t *self = MP_OBJ_TO_PTR(self_in);
    if (self->sampler == NULL) {
        mp_raise_msg(&engine_type_Error, MP_ERROR_TEXT("the sampler is closed"));
    }
    return self->sampler;
}

static mp_obj_t sampler_sample_py(mp_obj_t self_in, mp_obj_t index_in) {
    struct engine_sampler *sampler = get_sampler(self_in);
    int32_t index = get_int32(index_in), token;
    if (index < 0) {
        mp_raise_ValueError(MP_ERROR_TEXT("negative batch index"));
    }
    check(engine_sampler_sample(sampler, index, &token));
    return MP_OBJ_NEW_SMALL_INT(token);
}
static MP_DEFINE_CONST_FUN_OBJ_2(sampler_sample_obj, sampler_sample_py);

static mp_obj_t sampler_accept_py(size_t n_args, const mp_obj_t *args) {
    bool is_prompt = n_args < 3 || mp_obj_is_true(args[2]);
    check(engine_sampler_accept(get_sampler(args[0]), get_int32(args[1]), is_prompt));
    return mp_const_none;
}
static MP_DEFINE_CONST_FUN_OBJ_VAR_BETWEEN(sampler_accept_obj, 2, 3, sampler_accept_py);

static mp_obj_t sampler_probs_py(mp_obj_t self_in, mp_obj_t n) {
    const int32_t *tokens;
    const float *probs;
    size_t count;
    check(engine_sampler_probs(get_sampler(self_in), get_size(n), &tokens, &probs, &count));
    return pairs(tokens, probs, count);
}
static MP_DEFINE_CONST_FUN_OBJ_2(sampler_probs_obj, sampler_probs_py);

static mp_obj_t sampler_start_py(mp_obj_t self_in, mp_obj_t index) {
    check(engine_sample_start(get_sampler(self_in), get_size(index)));
    return mp_const_none;
}
static MP_DEFINE_CONST_FUN_OBJ_2(sampler_start_obj, sampler_start_py);

static mp_obj_t sampler_finish_py(mp_obj_t self_in) {
    int32_t token;
    check(engine_sample_finish(get_sampler(self_in), &token));
    return MP_OBJ_NEW_SMALL_INT(token);
}
static MP_DEFINE_CONST_FUN_OBJ_1(sampler_finish_obj, sampler_finish_py);

static mp_obj_t sampler_us_py(mp_obj_t self_in) {
    return mp_obj_new_int_from_ull(engine_sample_us(get_sampler(self_in)));
}
static MP_DEFINE_CONST_FUN_OBJ_1(sampler_us_obj, sampler_us_py);

static mp_obj_t sampler_logprobs_py(mp_obj_t self_in, mp_obj_t token, mp_obj_t n) {
    float logprob;
    const int32_t *tokens;
    const float *logprobs;
    size_t count;
    check(engine_sampler_logprobs(get_sampler(self_in), get_int32(token), get_size(n), &logprob,
        &tokens, &logprobs, &count));
    return logprob_and_pairs(logprob, tokens, logprobs, count);
}
static MP_DEFINE_CONST_FUN_OBJ_3(sampler_logprobs_obj, sampler_logprobs_py);

// Readable for select and asyncio when finish() will not have to wait.
static mp_uint_t sampler_ioctl(mp_obj_t self_in, mp_uint_t request, uintptr_t arg, int *error) {
    sampler_obj_t *self = MP_OBJ_TO_PTR(self_in);
    if (request != MP_STREAM_POLL) {
        *error = MP_EINVAL;
        return MP_STREAM_ERROR;
    }
    if (self->sampler == NULL) {
        return MP_STREAM_POLL_NVAL;
    }
    return engine_sample_ended(self->sampler) ? arg & MP_STREAM_POLL_RD : 0;
}

static const mp_stream_p_t sampler_stream = {.ioctl = sampler_ioctl};

static mp_obj_t sampler_close_py(mp_obj_t self_in) {
    sampler_obj_t *self = MP_OBJ_TO_PTR(self_in);
    struct engine_sampler *sampler = self->sampler;
    self->sampler = NULL;
    engine_sampler_close(sampler);
    return mp_const_none;
}
static MP_DEFINE_CONST_FUN_OBJ_1(sampler_close_obj, sampler_close_py);

static const mp_rom_map_elem_t sampler_locals_table[] = {
    {MP_ROM_QSTR(MP_QSTR___del__), MP_ROM_PTR(&sampler_close_obj)},
    {MP_ROM_QSTR(MP_QSTR_sample), MP_ROM_PTR(&sampler_sample_obj)},
    {MP_ROM_QSTR(MP_QSTR_accept), MP_ROM_PTR(&sampler_accept_obj)},
    {MP_ROM_QSTR(MP_QSTR_probs), MP_ROM_PTR(&sampler_probs_obj)},
    {MP_ROM_QSTR(MP_QSTR_start), MP_ROM_PTR(&sampler_start_obj)},
    {MP_ROM_QSTR(MP_QSTR_finish), MP_ROM_PTR(&sampler_finish_obj)},
    {MP_ROM_QSTR(MP_QSTR_us), MP_ROM_PTR(&sampler_us_obj)},
    {MP_ROM_QSTR(MP_QSTR_logprobs), MP_ROM_PTR(&sampler_logprobs_obj)},
    {MP_ROM_QSTR(MP_QSTR_close), MP_ROM_PTR(&sampler_close_obj)},
};
static MP_DEFINE_CONST_DICT(sampler_locals, sampler_locals_table);

static void sampler_attr(mp_obj_t self_in, qstr name, mp_obj_t *dest) {
    if (dest[0] != MP_OBJ_NULL) {
        return; // attributes cannot be stored
    }
    if (name == MP_QSTR_constrained) {
        dest[0] = mp_obj_new_bool(engine_sampler_constrained(get_sampler(self_in)));
        return;
    }
    dest[1] = MP_OBJ_SENTINEL; // go on with the methods
}

static MP_DEFINE_CONST_OBJ_TYPE(engine_type_sampler, MP_QSTR_Sampler, MP_TYPE_FLAG_NONE, attr,
    sampler_attr, protocol, &sampler_stream, locals_dict, &sampler_locals);

static struct engine_job *get_job(mp_obj_t self_in) {
    job_obj_t *self = MP_OBJ_TO_PTR(self_in);
    if (self->job == NULL) {
        mp_raise_msg(&engine_type_Error, MP_ERROR_TEXT("the job is closed"));
    }
    return self->job;
}

static mp_obj_t job_finish_py(mp_obj_t self_in) {
    job_obj_t *self = MP_OBJ_TO_PTR(self_in);
    struct engine_job *job = get_job(self_in);
    if (self->kind == TOKENIZE) {
        const int32_t *tokens;
        size_t n;
        check(engine_tokenize_finish(job, &tokens, &n));
        return new_token_list(tokens, n);
    }
    if (self->kind == SAMPLER) {
        sampler_obj_t *sampler = new_sampler(self->engine);
        check(engine_sampler_finish(job, &sampler->sampler));
        return MP_OBJ_FROM_PTR(sampler);
    }
    chat_obj_t *chat = mp_obj_malloc_with_finaliser(chat_obj_t, &engine_type_chat);
    chat->chat = NULL;
    check(engine_chat_finish(job, &chat->chat));
    return MP_OBJ_FROM_PTR(chat);
}
static MP_DEFINE_CONST_FUN_OBJ_1(job_finish_obj, job_finish_py);

static mp_obj_t job_ms_py(mp_obj_t self_in) {
    return mp_obj_new_int_from_uint(engine_job_ms(get_job(self_in)));
}
static MP_DEFINE_CONST_FUN_OBJ_1(job_ms_obj, job_ms_py);

static mp_obj_t job_close_py(mp_obj_t self_in) {
    job_obj_t *self = MP_OBJ_TO_PTR(self_in);
    struct engine_job *job = self->job;
    self->job = NULL;
    engine_job_close(job);
    return mp_const_none;
}
static MP_DEFINE_CONST_FUN_OBJ_1(job_close_obj, job_close_py);

// Readable for select and asyncio when finish() will not have to wait.
static mp_uint_t job_ioctl(mp_obj_t self_in, mp_uint_t request, uintptr_t arg, int *error) {
    job_obj_t *self = MP_OBJ_TO_PTR(self_in);
    if (request != MP_STREAM_POLL) {
        *error = MP_EINVAL;
        return MP_STREAM_ERROR;
    }
    if (self->job == NULL) {
        return MP_STREAM_POLL_NVAL;
    }
    return engine_job_ended(self->job) ? arg & MP_STREAM_POLL_RD : 0;
}

static const mp_stream_p_t job_stream = {.ioctl = job_ioctl};

static const mp_rom_map_elem_t job_locals_table[] = {
    {MP_ROM_QSTR(MP_QSTR___del__), MP_ROM_PTR(&job_close_obj)},
    {MP_ROM_QSTR(MP_QSTR_finish), MP_ROM_PTR(&job_finish_obj)},
    {MP_ROM_QSTR(MP_QSTR_ms), MP_ROM_PTR(&job_ms_obj)},
    {MP_ROM_QSTR(MP_QSTR_close), MP_ROM_PTR(&job_close_obj)},
};
static MP_DEFINE_CONST_DICT(job_locals, job_locals_table);

static MP_DEFINE_CONST_OBJ_TYPE(engine_type_job, MP_QSTR_Job, MP_TYPE_FLAG_NONE, protocol,
    &job_stream, locals_dict, &job_locals);

static struct engine_chat *get_chat(mp_obj_t self_in) {
    chat_obj_t *self = MP_OBJ_TO_PTR(self_in);
    if (self->chat == NULL) {
        mp_raise_msg(&engine_type_Error, MP_ERROR_TEXT("the conversation is closed"));
    }
    return self->chat;
}

static mp_obj_t chat_describe_py(mp_obj_t self_in) {
    const char *json;
    size_t len;
    check(engine_chat_describe(get_chat(self_in), &json, &len));
    return mp_obj_new_str(json, len);
}
static MP_DEFINE_CONST_FUN_OBJ_1(chat_describe_obj, chat_describe_py);

static mp_obj_t chat_reply_py(mp_obj_t self_in) {
    struct engine_chat *chat = get_chat(self_in);
    reply_obj_t *reply = mp_obj_malloc_with_finaliser(reply_obj_t, &engine_type_reply);
    reply->reply = NULL;
    check(engine_reply_open(chat, &reply->reply));
    return MP_OBJ_FROM_PTR(reply);
}
static MP_DEFINE_CONST_FUN_OBJ_1(chat_reply_obj, chat_reply_py);

static mp_obj_t chat_close_py(mp_obj_t self_in) {
    chat_obj_t *self = MP_OBJ_TO_PTR(self_in);
    engine_chat_close(self->chat);
    self->chat = NULL;
    return mp_const_none;
}
static MP_DEFINE_CONST_FUN_OBJ_1(chat_close_obj, chat_close_py);

static const mp_rom_map_elem_t chat_locals_table[] = {
    {MP_ROM_QSTR(MP_QSTR___del__), MP_ROM_PTR(&chat_close_obj)},
    {MP_ROM_QSTR(MP_QSTR_describe), MP_ROM_PTR(&chat_describe_obj)},
    {MP_ROM_QSTR(MP_QSTR_reply), MP_ROM_PTR(&chat_reply_obj)},
    {MP_ROM_QSTR(MP_QSTR_close), MP_ROM_PTR(&chat_close_obj)},
};
static MP_DEFINE_CONST_DICT(chat_locals, chat_locals_table);

static MP_DEFINE_CONST_OBJ_TYPE(engine_type_chat, MP_QSTR_Chat, MP_TYPE_FLAG_NONE, locals_dict,
    &chat_locals);

static mp_obj_t reply_push_py(size_t n_args, const mp_obj_t *args) {
    reply_obj_t *self = MP_OBJ_TO_PTR(args[0]);
    if (self->reply == NULL) {
        mp_raise_msg(&engine_type_Error, MP_ERROR_TEXT("the reply is closed"));
    }
    size_t len, json_len;
    const char *text = mp_obj_str_get_data(args[1], &len);
    const char *json;
    bool final = n_args > 2 && mp_obj_is_true(args[2]);
    check(engine_reply_push(self->reply, text, len, final, &json, &json_len));
    return mp_obj_new_str(json, json_len);
}
static MP_DEFINE_CONST_FUN_OBJ_VAR_BETWEEN(reply_push_obj, 2, 3, reply_push_py);

static mp_obj_t reply_close_py(mp_obj_t self_in) {
    reply_obj_t *self = MP_OBJ_TO_PTR(self_in);
    engine_reply_close(self->reply);
    self->reply = NULL;
    return mp_const_none;
}
static MP_DEFINE_CONST_FUN_OBJ_1(reply_close_obj, reply_close_py);

static const mp_rom_map_elem_t reply_locals_table[] = {
    {MP_ROM_QSTR(MP_QSTR___del__), MP_ROM_PTR(&reply_close_obj)},
    {MP_ROM_QSTR(MP_QSTR_push), MP_ROM_PTR(&reply_push_obj)},
    {MP_ROM_QSTR(MP_QSTR_close), MP_ROM_PTR(&reply_close_obj)},
};
static MP_DEFINE_CONST_DICT(reply_locals, reply_locals_table);

static MP_DEFINE_CONST_OBJ_TYPE(engine_type_reply, MP_QSTR_Reply, MP_TYPE_FLAG_NONE, locals_dict,
    &reply_locals);

static mp_obj_t engine_version_py(void) {
    return mp_obj_new_str_from_cstr(engine_version());
}
static MP_DEFINE_CONST_FUN_OBJ_0(engine_version_obj, engine_version_py);

static void on_log(void *unused, int level, const char *text) {
    (void)unused;
    if (gc_is_locked()) {
        return; // a finaliser closes an engine
    }
    nlr_buf_t nlr;
    if (nlr_push(&nlr) == 0) {
        mp_call_function_2(MP_STATE_VM(engine_log_callback), MP_OBJ_NEW_SMALL_INT(level),
            mp_obj_new_str_from_cstr(text));
        nlr_pop();
    } else {
        // Nobody waits for it, as with a scheduled callback.
        mp_obj_print_exception(&mp_plat_print, MP_OBJ_FROM_PTR(nlr.ret_val));
    }
}

static mp_obj_t engine_log_py(mp_obj_t callback) {
    MP_STATE_VM(engine_log_callback) = callback;
    engine_set_log(callback == mp_const_none ? NULL : on_log, NULL);
    return mp_const_none;
}
static MP_DEFINE_CONST_FUN_OBJ_1(engine_log_obj, engine_log_py);

// cpu(name=None) -> the build of ggml's CPU code in use, "" before the first Engine; with a name,
// chooses it first ("": the best for this processor). Error: there is none, or it cannot be used
// here or now.
static mp_obj_t engine_cpu_py(size_t n_args, const mp_obj_t *args) {
    if (n_args > 0) {
        check(engine_use_cpu(mp_obj_str_get_str(args[0])));
    }
    return mp_obj_new_str_from_cstr(engine_cpu());
}
static MP_DEFINE_CONST_FUN_OBJ_VAR_BETWEEN(engine_cpu_obj, 0, 1, engine_cpu_py);

// An assertion that ends the machine: who reads standard error's last line says why.
static void on_abort(const char *message) {
    fprintf(stderr, "%s\n", message);
}

// crash(kind, engine=None): dies in C++, for tests: "assert" (GGML_ASSERT), "throw" (an exception
// nobody catches). With an Engine, on the thread that computes for it.
static mp_obj_t engine_crash_py(size_t n_args, const mp_obj_t *args) {
    struct engine *engine = NULL;
    if (n_args > 1) {
        if (!mp_obj_is_type(args[1], &engine_type_engine)) {
            mp_raise_TypeError(MP_ERROR_TEXT("not an Engine"));
        }
        engine = get_engine(args[1]);
        begin(MP_OBJ_TO_PTR(args[1]));
    }
    engine_crash(engine, mp_obj_str_get_str(args[0]));
    mp_raise_ValueError(MP_ERROR_TEXT("no such way to die"));
}
static MP_DEFINE_CONST_FUN_OBJ_VAR_BETWEEN(engine_crash_obj, 1, 2, engine_crash_py);

// The first import after a reset: the heap that an earlier callback lived in is gone.
static mp_obj_t engine_init_py(void) {
    engine_set_abort_handler(on_abort);
    return engine_log_py(mp_const_none);
}
static MP_DEFINE_CONST_FUN_OBJ_0(engine_init_obj, engine_init_py);

static const mp_rom_map_elem_t engine_globals_table[] = {
    {MP_ROM_QSTR(MP_QSTR___name__), MP_ROM_QSTR(MP_QSTR__engine)},
    {MP_ROM_QSTR(MP_QSTR___init__), MP_ROM_PTR(&engine_init_obj)},
    {MP_ROM_QSTR(MP_QSTR_Engine), MP_ROM_PTR(&engine_type_engine)},
    {MP_ROM_QSTR(MP_QSTR_Sampler), MP_ROM_PTR(&engine_type_sampler)},
    {MP_ROM_QSTR(MP_QSTR_Error), MP_ROM_PTR(&engine_type_Error)},
    {MP_ROM_QSTR(MP_QSTR_NoSlot), MP_ROM_PTR(&engine_type_NoSlot)},
    {MP_ROM_QSTR(MP_QSTR_Aborted), MP_ROM_PTR(&engine_type_Aborted)},
    {MP_ROM_QSTR(MP_QSTR_Limit), MP_ROM_PTR(&engine_type_Limit)},
    {MP_ROM_QSTR(MP_QSTR_Assertion), MP_ROM_PTR(&engine_type_Assertion)},
    {MP_ROM_QSTR(MP_QSTR_version), MP_ROM_PTR(&engine_version_obj)},
    {MP_ROM_QSTR(MP_QSTR_cpu), MP_ROM_PTR(&engine_cpu_obj)},
    {MP_ROM_QSTR(MP_QSTR_log), MP_ROM_PTR(&engine_log_obj)},
    {MP_ROM_QSTR(MP_QSTR_crash), MP_ROM_PTR(&engine_crash_obj)},
};
static MP_DEFINE_CONST_DICT(engine_globals, engine_globals_table);

const mp_obj_module_t engine_module = {
    .base = {&mp_type_module},
    .globals = (mp_obj_dict_t *)&engine_globals,
};

MP_REGISTER_MODULE(MP_QSTR__engine, engine_module);
MP_REGISTER_ROOT_POINTER(mp_obj_t engine_log_callback);
