// The Job class: work for a request on a thread beside Python's, for at most `ms` of processor time
// (0: the engine's job_ms). Engine.start_sampler() and start_chat() return a Job, and so does
//
//   Engine.start_tokenize(text, add_special=True, parse_special=True, ms=0) -> Job
//   Job
//     finish()                                the tokens, Sampler or Chat; select and asyncio
//                                             report when it will not wait
//     ms() -> int                             processor time that it took
//     close()                                 stops it
#include "modengine.h"

job_obj_t *modengine_new_job(mp_obj_t engine, int kind) {
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
    uint32_t ms = n_args > 4 ? modengine_count(mp_obj_get_int(args[4]), MP_QSTR_ms) : 0;
    job_obj_t *self = modengine_new_job(args[0], TOKENIZE);
    modengine_check(engine_tokenize_start(modengine_engine(args[0]), text, len, add_special,
        parse_special, ms, &self->job));
    return MP_OBJ_FROM_PTR(self);
}
MP_DEFINE_CONST_FUN_OBJ_VAR_BETWEEN(engine_start_tokenize_obj, 2, 5, engine_start_tokenize_py);

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
        modengine_check(engine_tokenize_finish(job, &tokens, &n));
        return modengine_token_list(tokens, n);
    }
    if (self->kind == SAMPLER) {
        sampler_obj_t *sampler = modengine_new_sampler(self->engine);
        modengine_check(engine_sampler_finish(job, &sampler->sampler));
        return MP_OBJ_FROM_PTR(sampler);
    }
    chat_obj_t *chat = modengine_new_chat();
    modengine_check(engine_chat_finish(job, &chat->chat));
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

static mp_uint_t job_ioctl(mp_obj_t self_in, mp_uint_t request, uintptr_t arg, int *error) {
    struct engine_job *job = ((job_obj_t *)MP_OBJ_TO_PTR(self_in))->job;
    return modengine_ioctl(request, arg, error, job == NULL ? -1 : engine_job_ended(job));
}

static const mp_stream_p_t job_stream = {.ioctl = job_ioctl};

static const mp_rom_map_elem_t job_locals_table[] = {
    {MP_ROM_QSTR(MP_QSTR___del__), MP_ROM_PTR(&job_close_obj)},
    {MP_ROM_QSTR(MP_QSTR_finish), MP_ROM_PTR(&job_finish_obj)},
    {MP_ROM_QSTR(MP_QSTR_ms), MP_ROM_PTR(&job_ms_obj)},
    {MP_ROM_QSTR(MP_QSTR_close), MP_ROM_PTR(&job_close_obj)},
};
static MP_DEFINE_CONST_DICT(job_locals, job_locals_table);

MP_DEFINE_CONST_OBJ_TYPE(engine_type_job, MP_QSTR_Job, MP_TYPE_FLAG_NONE, protocol, &job_stream,
    locals_dict, &job_locals);
