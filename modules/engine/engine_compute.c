// Engine's methods that compute, and the callbacks that run meanwhile.
//
//   decode(tokens, positions, seq_ids, outputs)
//   start(tokens, positions, seq_ids, outputs)  begins what decode() does
//   finish()     ends what start() or start_embed() began; select and asyncio report when it will
//                not wait
//   abort()      stops the decode in progress
//   embed(tokens, first, last, normalize=2) -> [float, ...] for the last piece, else None
//   start_embed(tokens, first, last, normalize=2)  begins it; finish() returns the result
//   logprobs(batch_index, token, n) -> (logprob, [(token, logprob), ...])
//
// A thread of the engine computes. Between start() and finish() Python goes on. Then only methods
// that need no more than vocabulary and templates work; the others raise ValueError.
//
// In decode() and embed() Python's thread sleeps. When an interrupt wakes it, it runs what
// MicroPython's scheduler has pending, and poll(). poll() also runs once before. If one of them
// raises, the work stops at the graph's next node, and decode() or embed() raises the same
// exception. C++ frames lie below a callback, and a longjmp must not skip them, so the exception is
// kept until the ABI has returned.
#include "py/objlist.h"

#include "modengine.h"
#include "waiting.h"

void modengine_check_raised(engine_obj_t *self, int code) {
    mp_obj_t raised = self->raised;
    if (raised != MP_OBJ_NULL) {
        self->raised = MP_OBJ_NULL;
        nlr_raise(raised);
    }
    modengine_check(code);
}

// Runs what is pending and calls a Python function, from a callback of the engine. Returns false
// if one of them raised.
static bool call_from_engine(engine_obj_t *self, mp_obj_t function, size_t n,
    const mp_obj_t *args) {
    nlr_buf_t nlr;
    if (nlr_push(&nlr) == 0) {
        mp_event_handle_nowait();
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
    waiting_hooks.progress();
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

// Runs between two nodes of a graph on the thread that computes, which must not touch Python.
static bool on_poll(void *self_in) {
    waiting_hooks.progress(); // a long decode is work, not a hang
    return ((engine_obj_t *)self_in)->stop;
}

// Runs on Python's thread, again and again until the other thread has ended its work.
static void on_wait(void *self_in) {
    engine_obj_t *self = self_in;
    call_from_engine(self, self->stop ? mp_const_none : self->poll, 0, NULL);
    // A callback that slept may have used up the wake-up of on_wake().
    if (!engine_ended(self->engine)) {
        waiting_hooks.sleep();
    }
}

static void on_wake(void *self_in) {
    (void)self_in;
    waiting_hooks.wake();
}

void modengine_set_callbacks(engine_obj_t *self, struct engine_params *params) {
    params->progress = on_progress;
    params->poll = on_poll;
    params->wait = on_wait;
    params->wake = on_wake;
    params->user = self;
}

static void end(engine_obj_t *self, int code) {
    self->computing = false;
    modengine_check_raised(self, code);
}

void modengine_begin(engine_obj_t *self) {
    if (self->computing) {
        mp_raise_ValueError(MP_ERROR_TEXT("the engine is busy"));
    }
    self->stop = false;
    self->computing = true;
    call_from_engine(self, self->poll, 0, NULL);
    end(self, ENGINE_OK);
}

void modengine_make_batch(engine_obj_t *self) {
    uint32_t n_batch = engine_info(self->engine)->n_batch;
    self->tokens = m_new(int32_t, n_batch);
    self->positions = m_new(int32_t, n_batch);
    self->seqs = m_new(int32_t, n_batch);
    self->outputs = m_new(int8_t, n_batch);
}

static mp_obj_t engine_start_py(size_t n_args, const mp_obj_t *args) {
    (void)n_args;
    engine_obj_t *self = modengine_self(args[0]);
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
    modengine_begin(self);
    for (size_t i = 0; i < n; i++) {
        self->tokens[i] = modengine_int32(columns[0][i]);
        self->positions[i] = modengine_int32(columns[1][i]);
        self->seqs[i] = modengine_int32(columns[2][i]);
        self->outputs[i] = mp_obj_is_true(columns[3][i]);
    }
    modengine_check(engine_decode_start(self->engine, n, self->tokens, self->positions, self->seqs,
        self->outputs));
    self->computing = true;
    self->started = BATCH;
    return mp_const_none;
}
MP_DEFINE_CONST_FUN_OBJ_VAR_BETWEEN(engine_start_obj, 5, 5, engine_start_py);

static mp_obj_t engine_finish_py(mp_obj_t self_in) {
    engine_obj_t *self = modengine_self(self_in);
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
MP_DEFINE_CONST_FUN_OBJ_1(engine_finish_obj, engine_finish_py);

static mp_obj_t engine_decode_py(size_t n_args, const mp_obj_t *args) {
    engine_start_py(n_args, args);
    return engine_finish_py(args[0]);
}
MP_DEFINE_CONST_FUN_OBJ_VAR_BETWEEN(engine_decode_obj, 5, 5, engine_decode_py);

static mp_obj_t engine_abort_py(mp_obj_t self_in) {
    engine_abort(modengine_engine(self_in));
    return mp_const_none;
}
MP_DEFINE_CONST_FUN_OBJ_1(engine_abort_obj, engine_abort_py);

static mp_obj_t engine_start_embed_py(size_t n_args, const mp_obj_t *args) {
    engine_obj_t *self = modengine_self(args[0]);
    int32_t normalize = n_args > 4 ? modengine_int32(args[4]) : 2;
    size_t n;
    int32_t *tokens = modengine_int32s(args[1], &n);
    modengine_begin(self);
    int code = engine_embed_start(self->engine, n, tokens, mp_obj_is_true(args[2]),
        mp_obj_is_true(args[3]), normalize);
    m_del(int32_t, tokens, n);
    modengine_check(code);
    self->computing = true;
    self->started = EMBEDDING;
    return mp_const_none;
}
MP_DEFINE_CONST_FUN_OBJ_VAR_BETWEEN(engine_start_embed_obj, 4, 5, engine_start_embed_py);

static mp_obj_t engine_embed_py(size_t n_args, const mp_obj_t *args) {
    engine_start_embed_py(n_args, args);
    return engine_finish_py(args[0]);
}
MP_DEFINE_CONST_FUN_OBJ_VAR_BETWEEN(engine_embed_obj, 4, 5, engine_embed_py);

static mp_obj_t engine_logprobs_py(size_t n_args, const mp_obj_t *args) {
    (void)n_args;
    float logprob;
    const int32_t *tokens;
    const float *logprobs;
    size_t count;
    modengine_check(engine_logprobs(modengine_engine(args[0]), modengine_size(args[1]),
        modengine_int32(args[2]), modengine_size(args[3]), &logprob, &tokens, &logprobs, &count));
    return modengine_logprobs(logprob, tokens, logprobs, count);
}
MP_DEFINE_CONST_FUN_OBJ_VAR_BETWEEN(engine_logprobs_obj, 4, 4, engine_logprobs_py);
