// Engine's methods that need the vocabulary only.
//
//   tokenize(text, add_special=True, parse_special=True) -> [token, ...]
//   detokenize(tokens) -> bytes             control tokens included
//   piece(token, special=False) -> bytes    control tokens only if special
//   is_eog(token) -> bool
#include "modengine.h"

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
    modengine_check(engine_tokenize(modengine_engine(pos_args[0]), text, len,
        arg[ARG_add_special].u_bool, arg[ARG_parse_special].u_bool, &tokens, &n));
    return modengine_token_list(tokens, n);
}
MP_DEFINE_CONST_FUN_OBJ_KW(engine_tokenize_obj, 2, engine_tokenize_py);

static mp_obj_t engine_detokenize_py(mp_obj_t self_in, mp_obj_t tokens_in) {
    struct engine *engine = modengine_engine(self_in);
    size_t n;
    int32_t *tokens = modengine_int32s(tokens_in, &n);
    const char *text;
    size_t len;
    int code = engine_detokenize(engine, tokens, n, &text, &len);
    m_del(int32_t, tokens, n);
    modengine_check(code);
    return mp_obj_new_bytes((const byte *)text, len);
}
MP_DEFINE_CONST_FUN_OBJ_2(engine_detokenize_obj, engine_detokenize_py);

static mp_obj_t engine_piece_py(size_t n_args, const mp_obj_t *args) {
    const char *text;
    size_t len;
    bool special = n_args > 2 && mp_obj_is_true(args[2]);
    modengine_check(
        engine_piece(modengine_engine(args[0]), modengine_int32(args[1]), special, &text, &len));
    return mp_obj_new_bytes((const byte *)text, len);
}
MP_DEFINE_CONST_FUN_OBJ_VAR_BETWEEN(engine_piece_obj, 2, 3, engine_piece_py);

static mp_obj_t engine_is_eog_py(mp_obj_t self_in, mp_obj_t token) {
    return modengine_bool(engine_is_eog(modengine_engine(self_in), modengine_int32(token)));
}
MP_DEFINE_CONST_FUN_OBJ_2(engine_is_eog_obj, engine_is_eog_py);
