// The Sampler class, and Engine's methods that make one.
//
//   Engine.sampler(params, chat=None) -> Sampler             params: a dict, or JSON text
//   Engine.start_sampler(params, chat=None, ms=0) -> Job     the same on a thread (job_type.c)
//   Sampler
//     constrained                             whether a grammar restrains it
//     sample(batch_index) -> token            accepts it as well
//     accept(token, is_prompt=True)
//     end_thought() -> bool                  the end of the thought is forced, if there is one
//     probs(n) -> [(token, probability), ...]
//     start(batch_index)                      begins what sample() does, from a copy of the
//                                             logits: the engine may decode meanwhile; select and
//                                             asyncio report when finish() will not wait
//     finish() -> token
//     us() -> int                             processor time of the last one, in microseconds
//     logprobs(token, n)                      as Engine.logprobs(), of the last start()'s entry
//     close()                                 stops what was started
#include "py/objstr.h"

#include "modengine.h"
#include "modjsonio.h"

// The JSON text of sampler parameters, which may be a dict.
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

sampler_obj_t *modengine_new_sampler(mp_obj_t engine) {
    sampler_obj_t *self = mp_obj_malloc_with_finaliser(sampler_obj_t, &engine_type_sampler);
    self->engine = engine;
    self->sampler = NULL;
    return self;
}

static mp_obj_t engine_sampler_py(size_t n_args, const mp_obj_t *args) {
    struct engine *engine = modengine_engine(args[0]);
    struct engine_chat *chat = modengine_chat_or_null(n_args > 2 ? args[2] : mp_const_none);
    size_t len;
    const char *params = get_params(args[1], &len);
    sampler_obj_t *self = modengine_new_sampler(args[0]);
    modengine_check(engine_sampler_open(engine, params, len, chat, &self->sampler));
    return MP_OBJ_FROM_PTR(self);
}
MP_DEFINE_CONST_FUN_OBJ_VAR_BETWEEN(engine_sampler_obj, 2, 3, engine_sampler_py);

static mp_obj_t engine_start_sampler_py(size_t n_args, const mp_obj_t *args) {
    struct engine_chat *chat = modengine_chat_or_null(n_args > 2 ? args[2] : mp_const_none);
    uint32_t ms = n_args > 3 ? modengine_count(mp_obj_get_int(args[3]), MP_QSTR_ms) : 0;
    size_t len;
    const char *params = get_params(args[1], &len);
    job_obj_t *self = modengine_new_job(args[0], SAMPLER);
    modengine_check(
        engine_sampler_start(modengine_engine(args[0]), params, len, chat, ms, &self->job));
    return MP_OBJ_FROM_PTR(self);
}
MP_DEFINE_CONST_FUN_OBJ_VAR_BETWEEN(engine_start_sampler_obj, 2, 4, engine_start_sampler_py);

static struct engine_sampler *get_sampler(mp_obj_t self_in) {
    sampler_obj_t *self = MP_OBJ_TO_PTR(self_in);
    if (self->sampler == NULL) {
        mp_raise_msg(&engine_type_Error, MP_ERROR_TEXT("the sampler is closed"));
    }
    return self->sampler;
}

static mp_obj_t sampler_sample_py(mp_obj_t self_in, mp_obj_t index_in) {
    struct engine_sampler *sampler = get_sampler(self_in);
    int32_t index = modengine_int32(index_in), token;
    if (index < 0) {
        mp_raise_ValueError(MP_ERROR_TEXT("negative batch index"));
    }
    modengine_check(engine_sampler_sample(sampler, index, &token));
    return MP_OBJ_NEW_SMALL_INT(token);
}
static MP_DEFINE_CONST_FUN_OBJ_2(sampler_sample_obj, sampler_sample_py);

static mp_obj_t sampler_accept_py(size_t n_args, const mp_obj_t *args) {
    bool is_prompt = n_args < 3 || mp_obj_is_true(args[2]);
    modengine_check(
        engine_sampler_accept(get_sampler(args[0]), modengine_int32(args[1]), is_prompt));
    return mp_const_none;
}
static MP_DEFINE_CONST_FUN_OBJ_VAR_BETWEEN(sampler_accept_obj, 2, 3, sampler_accept_py);

static mp_obj_t sampler_end_thought_py(mp_obj_t self_in) {
    return modengine_bool(engine_sampler_end_thought(get_sampler(self_in)));
}
static MP_DEFINE_CONST_FUN_OBJ_1(sampler_end_thought_obj, sampler_end_thought_py);

static mp_obj_t sampler_probs_py(mp_obj_t self_in, mp_obj_t n) {
    const int32_t *tokens;
    const float *probs;
    size_t count;
    modengine_check(
        engine_sampler_probs(get_sampler(self_in), modengine_size(n), &tokens, &probs, &count));
    return modengine_pairs(tokens, probs, count);
}
static MP_DEFINE_CONST_FUN_OBJ_2(sampler_probs_obj, sampler_probs_py);

static mp_obj_t sampler_start_py(mp_obj_t self_in, mp_obj_t index) {
    modengine_check(engine_sample_start(get_sampler(self_in), modengine_size(index)));
    return mp_const_none;
}
static MP_DEFINE_CONST_FUN_OBJ_2(sampler_start_obj, sampler_start_py);

static mp_obj_t sampler_finish_py(mp_obj_t self_in) {
    int32_t token;
    modengine_check(engine_sample_finish(get_sampler(self_in), &token));
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
    modengine_check(engine_sampler_logprobs(get_sampler(self_in), modengine_int32(token),
        modengine_size(n), &logprob, &tokens, &logprobs, &count));
    return modengine_logprobs(logprob, tokens, logprobs, count);
}
static MP_DEFINE_CONST_FUN_OBJ_3(sampler_logprobs_obj, sampler_logprobs_py);

static mp_uint_t sampler_ioctl(mp_obj_t self_in, mp_uint_t request, uintptr_t arg, int *error) {
    struct engine_sampler *sampler = ((sampler_obj_t *)MP_OBJ_TO_PTR(self_in))->sampler;
    return modengine_ioctl(request, arg, error,
        sampler == NULL ? -1 : engine_sample_ended(sampler));
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
    {MP_ROM_QSTR(MP_QSTR_end_thought), MP_ROM_PTR(&sampler_end_thought_obj)},
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

MP_DEFINE_CONST_OBJ_TYPE(engine_type_sampler, MP_QSTR_Sampler, MP_TYPE_FLAG_NONE, attr,
    sampler_attr, protocol, &sampler_stream, locals_dict, &sampler_locals);
