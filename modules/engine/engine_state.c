// Engine's methods for what lies in its cache, and for its adapters.
//
//   seq_rm(seq, p0, p1) -> bool           seq_cp(src, dst, p0, p1)
//   seq_add(seq, p0, p1, delta)           seq_pos_max(seq) -> int
//   clear()
//   state_get(seq) -> bytes               state_set(seq, data)
//   lora_open(path) -> id                 lora_set(ids, scales)
#include "modengine.h"

static mp_obj_t engine_seq_rm_py(size_t n_args, const mp_obj_t *args) {
    (void)n_args;
    return modengine_bool(engine_seq_rm(modengine_engine(args[0]), modengine_int32(args[1]),
        modengine_int32(args[2]), modengine_int32(args[3])));
}
MP_DEFINE_CONST_FUN_OBJ_VAR_BETWEEN(engine_seq_rm_obj, 4, 4, engine_seq_rm_py);

static mp_obj_t engine_seq_cp_py(size_t n_args, const mp_obj_t *args) {
    (void)n_args;
    modengine_check(engine_seq_cp(modengine_engine(args[0]), modengine_int32(args[1]),
        modengine_int32(args[2]), modengine_int32(args[3]), modengine_int32(args[4])));
    return mp_const_none;
}
MP_DEFINE_CONST_FUN_OBJ_VAR_BETWEEN(engine_seq_cp_obj, 5, 5, engine_seq_cp_py);

static mp_obj_t engine_seq_add_py(size_t n_args, const mp_obj_t *args) {
    (void)n_args;
    modengine_check(engine_seq_add(modengine_engine(args[0]), modengine_int32(args[1]),
        modengine_int32(args[2]), modengine_int32(args[3]), modengine_int32(args[4])));
    return mp_const_none;
}
MP_DEFINE_CONST_FUN_OBJ_VAR_BETWEEN(engine_seq_add_obj, 5, 5, engine_seq_add_py);

static mp_obj_t engine_seq_pos_max_py(mp_obj_t self_in, mp_obj_t seq) {
    int32_t pos;
    modengine_check(engine_seq_pos_max(modengine_engine(self_in), modengine_int32(seq), &pos));
    return mp_obj_new_int(pos);
}
MP_DEFINE_CONST_FUN_OBJ_2(engine_seq_pos_max_obj, engine_seq_pos_max_py);

static mp_obj_t engine_clear_py(mp_obj_t self_in) {
    modengine_check(engine_clear(modengine_engine(self_in)));
    return mp_const_none;
}
MP_DEFINE_CONST_FUN_OBJ_1(engine_clear_obj, engine_clear_py);

static mp_obj_t engine_state_get_py(mp_obj_t self_in, mp_obj_t seq) {
    const uint8_t *data;
    size_t len;
    modengine_check(engine_state_get(modengine_engine(self_in), modengine_int32(seq), &data, &len));
    return mp_obj_new_bytes(data, len);
}
MP_DEFINE_CONST_FUN_OBJ_2(engine_state_get_obj, engine_state_get_py);

static mp_obj_t engine_state_set_py(mp_obj_t self_in, mp_obj_t seq, mp_obj_t data_in) {
    mp_buffer_info_t data;
    mp_get_buffer_raise(data_in, &data, MP_BUFFER_READ);
    modengine_check(
        engine_state_set(modengine_engine(self_in), modengine_int32(seq), data.buf, data.len));
    return mp_const_none;
}
MP_DEFINE_CONST_FUN_OBJ_3(engine_state_set_obj, engine_state_set_py);

static mp_obj_t engine_lora_open_py(mp_obj_t self_in, mp_obj_t path) {
    int32_t id;
    modengine_check(engine_lora_open(modengine_engine(self_in), mp_obj_str_get_str(path), &id));
    return MP_OBJ_NEW_SMALL_INT(id);
}
MP_DEFINE_CONST_FUN_OBJ_2(engine_lora_open_obj, engine_lora_open_py);

static mp_obj_t engine_lora_set_py(mp_obj_t self_in, mp_obj_t ids_in, mp_obj_t scales_in) {
    struct engine *engine = modengine_engine(self_in);
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
        numbers[i] = modengine_int32(ids[i]);
        factors[i] = mp_obj_get_float(scales[i]);
    }
    int code = engine_lora_set(engine, n, numbers, factors);
    m_del(int32_t, numbers, n);
    m_del(float, factors, n);
    modengine_check(code);
    return mp_const_none;
}
MP_DEFINE_CONST_FUN_OBJ_3(engine_lora_set_obj, engine_lora_set_py);
