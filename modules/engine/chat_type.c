// The classes Chat and Reply, and Engine's methods that make a Chat.
//
//   Engine.chat(request_json) -> Chat
//   Engine.start_chat(request_json, ms=0) -> Job    the same on a thread (job_type.c)
//   Chat
//     describe() -> str                       JSON
//     reply() -> Reply
//     close()
//   Reply
//     push(text, final=False) -> str          JSON
//     close()
#include "modengine.h"

typedef struct {
    mp_obj_base_t base;
    struct engine_reply *reply; // NULL when closed
} reply_obj_t;

static const mp_obj_type_t engine_type_reply;

struct engine_chat *modengine_chat_or_null(mp_obj_t chat) {
    if (chat == mp_const_none) {
        return NULL;
    }
    if (!mp_obj_is_type(chat, &engine_type_chat)) {
        mp_raise_TypeError(MP_ERROR_TEXT("not a Chat"));
    }
    return ((chat_obj_t *)MP_OBJ_TO_PTR(chat))->chat;
}

chat_obj_t *modengine_new_chat(void) {
    chat_obj_t *self = mp_obj_malloc_with_finaliser(chat_obj_t, &engine_type_chat);
    self->chat = NULL;
    return self;
}

static mp_obj_t engine_chat_py(mp_obj_t self_in, mp_obj_t request_in) {
    size_t len;
    const char *request = mp_obj_str_get_data(request_in, &len);
    struct engine *engine = modengine_engine(self_in);
    chat_obj_t *self = modengine_new_chat();
    modengine_check(engine_chat_open(engine, request, len, &self->chat));
    return MP_OBJ_FROM_PTR(self);
}
MP_DEFINE_CONST_FUN_OBJ_2(engine_chat_obj, engine_chat_py);

static mp_obj_t engine_start_chat_py(size_t n_args, const mp_obj_t *args) {
    size_t len;
    const char *request = mp_obj_str_get_data(args[1], &len);
    uint32_t ms = n_args > 2 ? modengine_count(mp_obj_get_int(args[2]), MP_QSTR_ms) : 0;
    job_obj_t *self = modengine_new_job(args[0], CHAT);
    modengine_check(engine_chat_start(modengine_engine(args[0]), request, len, ms, &self->job));
    return MP_OBJ_FROM_PTR(self);
}
MP_DEFINE_CONST_FUN_OBJ_VAR_BETWEEN(engine_start_chat_obj, 2, 3, engine_start_chat_py);

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
    modengine_check(engine_chat_describe(get_chat(self_in), &json, &len));
    return mp_obj_new_str(json, len);
}
static MP_DEFINE_CONST_FUN_OBJ_1(chat_describe_obj, chat_describe_py);

static mp_obj_t chat_reply_py(mp_obj_t self_in) {
    struct engine_chat *chat = get_chat(self_in);
    reply_obj_t *reply = mp_obj_malloc_with_finaliser(reply_obj_t, &engine_type_reply);
    reply->reply = NULL;
    modengine_check(engine_reply_open(chat, &reply->reply));
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

MP_DEFINE_CONST_OBJ_TYPE(engine_type_chat, MP_QSTR_Chat, MP_TYPE_FLAG_NONE, locals_dict,
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
    modengine_check(engine_reply_push(self->reply, text, len, final, &json, &json_len));
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
