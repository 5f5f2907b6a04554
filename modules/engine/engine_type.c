// The Engine class: construction, attributes, table of methods, end.
//
//   Engine(path, *, n_ctx=2048, n_batch=64, n_seq=4, n_threads=1, sample_ms=0, job_ms=0, pooling=0,
//          kernels=0, gpu_layers=-1, progress=None, poll=None, background=False)
//     loaded() -> float                       the part loaded so far, 1 at the end
//     close()
//     n_ctx n_ctx_train n_batch n_seq n_vocab n_embd n_params size desc ftype vocab_type
//     chat_template has_chat_template bos eos add_bos fim_pre fim_suf fim_mid fim_rep fim_sep
//     generates divisible kernels gpu_layers  as in struct engine_info; absent until loaded
//
// The other methods: engine_compute.c, engine_text.c, engine_state.c; sampler_type.c, chat_type.c
// and job_type.c have those that make objects of these classes.
//
// With `background`, the constructor returns at once and a thread of the engine loads. Until
// loaded() gives 1, only loaded() and close() work; loaded() raises what the constructor would have
// raised. Without it, progress(fraction) runs while the constructor loads. If that raises, loading
// stops and the constructor raises the same exception.
#include <stddef.h>

#include "modengine.h"

engine_obj_t *modengine_self(mp_obj_t self_in) {
    engine_obj_t *self = MP_OBJ_TO_PTR(self_in);
    if (self->loading != NULL) {
        mp_raise_msg(&engine_type_Error, MP_ERROR_TEXT("the model is still loading"));
    }
    if (self->engine == NULL) {
        mp_raise_msg(&engine_type_Error, MP_ERROR_TEXT("the engine is closed"));
    }
    return self;
}

struct engine *modengine_engine(mp_obj_t self_in) {
    return modengine_self(self_in)->engine;
}

// Waits for the end of loading in the background and returns its code.
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
        ARG_gpu_layers,
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
        {MP_QSTR_gpu_layers, MP_ARG_KW_ONLY | MP_ARG_INT, {.u_int = -1}},
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
        .n_ctx = modengine_count(arg[ARG_n_ctx].u_int, MP_QSTR_n_ctx),
        .n_batch = modengine_count(arg[ARG_n_batch].u_int, MP_QSTR_n_batch),
        .n_seq = modengine_count(arg[ARG_n_seq].u_int, MP_QSTR_n_seq),
        .n_threads = modengine_count(arg[ARG_n_threads].u_int, MP_QSTR_n_threads),
        .sample_ms = modengine_count(arg[ARG_sample_ms].u_int, MP_QSTR_sample_ms),
        .job_ms = modengine_count(arg[ARG_job_ms].u_int, MP_QSTR_job_ms),
        .pooling = modengine_count(arg[ARG_pooling].u_int, MP_QSTR_pooling),
        .kernels = modengine_count(arg[ARG_kernels].u_int, MP_QSTR_kernels),
        .gpu_layers = -1,
    };
    if (arg[ARG_gpu_layers].u_int != -1) { // all, where there is a GPU
        params.gpu_layers = modengine_count(arg[ARG_gpu_layers].u_int, MP_QSTR_gpu_layers);
    }
    modengine_set_callbacks(self, &params);
    const char *path = mp_obj_str_get_str(arg[ARG_path].u_obj);
    if (arg[ARG_background].u_bool) {
        modengine_check(engine_load(path, &params, &self->loading));
    } else {
        int code = engine_open(path, &params, &self->engine);
        modengine_check_raised(self, code);
        modengine_make_batch(self);
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
        modengine_check(end_loading(self));
        modengine_make_batch(self);
    }
    modengine_self(self_in);
    return mp_obj_new_float(1);
}
static MP_DEFINE_CONST_FUN_OBJ_1(engine_loaded_obj, engine_loaded_py);

enum { UNSIGNED, SIGNED, LONG, BOOL, TEXT };

// An attribute under the name of a field of struct engine_info.
#define ATTRIBUTE(field) \
    {MP_QSTR_##field, offsetof(struct engine_info, field), \
        _Generic(((struct engine_info *)0)->field, \
            uint32_t: UNSIGNED, \
            int32_t: SIGNED, \
            uint64_t: LONG, \
            bool: BOOL, \
            const char *: TEXT)}

static const struct {
    uint16_t name, offset;
    uint8_t type;
} attributes[] = {
    ATTRIBUTE(n_ctx),
    ATTRIBUTE(n_ctx_train),
    ATTRIBUTE(n_batch),
    ATTRIBUTE(n_seq),
    ATTRIBUTE(n_vocab),
    ATTRIBUTE(n_embd),
    ATTRIBUTE(pooling),
    ATTRIBUTE(sep),
    ATTRIBUTE(add_eos),
    ATTRIBUTE(add_sep),
    ATTRIBUTE(rerank_template),
    ATTRIBUTE(n_params),
    ATTRIBUTE(size),
    ATTRIBUTE(desc),
    ATTRIBUTE(ftype),
    ATTRIBUTE(vocab_type),
    ATTRIBUTE(chat_template),
    ATTRIBUTE(has_chat_template),
    ATTRIBUTE(bos),
    ATTRIBUTE(eos),
    ATTRIBUTE(add_bos),
    ATTRIBUTE(fim_pre),
    ATTRIBUTE(fim_suf),
    ATTRIBUTE(fim_mid),
    ATTRIBUTE(fim_rep),
    ATTRIBUTE(fim_sep),
    ATTRIBUTE(generates),
    ATTRIBUTE(divisible),
    ATTRIBUTE(kernels),
    ATTRIBUTE(gpu_layers),
};

static mp_obj_t new_value(const void *field, unsigned type) {
    switch (type) {
        case UNSIGNED:
            return mp_obj_new_int_from_uint(*(const uint32_t *)field);
        case SIGNED:
            return mp_obj_new_int(*(const int32_t *)field);
        case LONG:
            return mp_obj_new_int_from_ull(*(const uint64_t *)field);
        case BOOL:
            return mp_obj_new_bool(*(const bool *)field);
        default:
            return mp_obj_new_str_from_cstr(*(const char *const *)field);
    }
}

static void engine_attr(mp_obj_t self_in, qstr name, mp_obj_t *dest) {
    if (dest[0] != MP_OBJ_NULL) {
        return; // attributes cannot be stored
    }
    engine_obj_t *self = MP_OBJ_TO_PTR(self_in);
    for (size_t i = 0; i < MP_ARRAY_SIZE(attributes) && self->engine != NULL; i++) {
        if (attributes[i].name == name) {
            const char *info = (const char *)engine_info(self->engine);
            dest[0] = new_value(info + attributes[i].offset, attributes[i].type);
            return;
        }
    }
    dest[1] = MP_OBJ_SENTINEL; // go on with the methods
}

static mp_uint_t engine_ioctl(mp_obj_t self_in, mp_uint_t request, uintptr_t arg, int *error) {
    struct engine *engine = ((engine_obj_t *)MP_OBJ_TO_PTR(self_in))->engine;
    return modengine_ioctl(request, arg, error, engine == NULL ? -1 : engine_ended(engine));
}

static const mp_stream_p_t engine_stream = {.ioctl = engine_ioctl};

// Also the finaliser, which must not raise. engine_close() fails only while the engine is in use,
// and then it is not garbage.
static mp_obj_t engine_close_py(mp_obj_t self_in) {
    engine_obj_t *self = MP_OBJ_TO_PTR(self_in);
    if (self->loading != NULL) {
        engine_loading_stop(self->loading);
        end_loading(self); // stopped, failed or just done in time
    }
    if (self->engine != NULL) {
        modengine_check(engine_close(self->engine));
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

MP_DEFINE_CONST_OBJ_TYPE(engine_type_engine, MP_QSTR_Engine, MP_TYPE_FLAG_NONE, make_new,
    engine_make_new, attr, engine_attr, protocol, &engine_stream, locals_dict, &engine_locals);
