// The `_tls` module: TLS in memory (native/tls). frozen/lib/tls.py makes sockets of it.
//
//   suites() -> list of str              all cipher suites, in the default order
//   Context(server)
//       certificate(chain, key)          PEM or DER, as all below
//       trust(authorities)
//       verify(mode)                     0 none, 1 optional, 2 required
//       version(least)                   0x0303 or 0x0304
//       protocols(names)                 ALPN
//       ciphers(names)
//       prefer_chacha(flag)
//       judge(function or None)          function(der, depth) -> int, 0 for a certificate that is
//                                        taken; it counts beside what Mbed TLS finds
//   Session(context, server_name or None)
//       feed(buf) -> int                 how much was taken
//       end()                            nothing more will be fed
//       output() -> bytes                for the peer; sent(n) drops what was sent of it
//       input_size() -> int              bytes fed and not read yet
//       step() -> bool or None           done; None: feed or take output first
//       done() -> bool
//       readinto(buf) -> int or None     0: the peer has ended; None: feed first
//       readable() -> int                bytes that are decrypted already
//       write(buf) -> int or None        None: take output first
//       close()                          tells the peer
//       free()                           every method but this one then raises ValueError
//       version(), cipher(), protocol() -> str or None; peer_certificate() -> bytes or None
//
// What the peer or a certificate does wrong raises OSError(code, text), what memory lacks
// MemoryError.
#include <string.h>

#include "py/gc.h"
#include "py/objexcept.h"
#include "py/objstr.h"
#include "py/runtime.h"

#include "tls.h"

typedef struct {
    mp_obj_base_t base;
    tls_context *context;
    mp_obj_t judge;
} context_t;

typedef struct {
    mp_obj_base_t base;
    tls_session *session;
} session_t;

static const mp_obj_type_t context_type, session_type;

static NORETURN void refuse(const tls_session *session, int code) {
    if (code == TLS_MEMORY) {
        mp_raise_type(&mp_type_MemoryError);
    }
    char text[256];
    tls_error_text(session, code, text, sizeof text);
    mp_obj_t args[2] = {MP_OBJ_NEW_SMALL_INT(code), mp_obj_new_str(text, strlen(text))};
    nlr_raise(mp_obj_exception_make_new(&mp_type_OSError, 2, 0, args));
}

// None for TLS_AGAIN, an integer for a success.
static mp_obj_t number(const tls_session *session, int code) {
    if (code == TLS_AGAIN) {
        return mp_const_none;
    }
    if (code < 0) {
        refuse(session, code);
    }
    return MP_OBJ_NEW_SMALL_INT(code);
}

static mp_obj_t text_or_none(const char *text) {
    return text ? mp_obj_new_str(text, strlen(text)) : mp_const_none;
}

static mp_buffer_info_t buffer(mp_obj_t object, mp_uint_t flags) {
    mp_buffer_info_t info;
    mp_get_buffer_raise(object, &info, flags);
    return info;
}

// --- Context

static mp_obj_t context_make_new(const mp_obj_type_t *type, size_t n_args, size_t n_kw,
    const mp_obj_t *args) {
    mp_arg_check_num(n_args, n_kw, 1, 1, false);
    // Freed by its finaliser, so it exists before there is anything to free.
    context_t *self = mp_obj_malloc_with_finaliser(context_t, type);
    self->context = NULL;
    self->judge = mp_const_none;
    int error = 0;
    self->context = tls_context_new(mp_obj_is_true(args[0]), &error);
    if (!self->context) {
        refuse(NULL, error);
    }
    return MP_OBJ_FROM_PTR(self);
}

static mp_obj_t context_del(mp_obj_t self_in) {
    context_t *self = MP_OBJ_TO_PTR(self_in);
    tls_context_release(self->context);
    self->context = NULL;
    return mp_const_none;
}
static MP_DEFINE_CONST_FUN_OBJ_1(context_del_obj, context_del);

static tls_context *context_of(mp_obj_t self_in) {
    context_t *self = MP_OBJ_TO_PTR(self_in);
    if (!self->context) {
        mp_raise_ValueError(MP_ERROR_TEXT("freed"));
    }
    return self->context;
}

static mp_obj_t context_certificate(mp_obj_t self, mp_obj_t chain_in, mp_obj_t key_in) {
    mp_buffer_info_t chain = buffer(chain_in, MP_BUFFER_READ);
    mp_buffer_info_t key = buffer(key_in, MP_BUFFER_READ);
    int code = tls_context_certificate(context_of(self), chain.buf, chain.len, key.buf, key.len);
    number(NULL, code);
    return mp_const_none;
}
static MP_DEFINE_CONST_FUN_OBJ_3(context_certificate_obj, context_certificate);

static mp_obj_t context_trust(mp_obj_t self, mp_obj_t authorities) {
    mp_buffer_info_t info = buffer(authorities, MP_BUFFER_READ);
    number(NULL, tls_context_trust(context_of(self), info.buf, info.len));
    return mp_const_none;
}
static MP_DEFINE_CONST_FUN_OBJ_2(context_trust_obj, context_trust);

static mp_obj_t context_verify(mp_obj_t self, mp_obj_t mode_in) {
    mp_int_t mode = mp_obj_get_int(mode_in);
    if (mode < TLS_VERIFY_NONE || mode > TLS_VERIFY_REQUIRED) {
        mp_raise_ValueError(MP_ERROR_TEXT("mode"));
    }
    tls_context_verify(context_of(self), (int)mode);
    return mp_const_none;
}
static MP_DEFINE_CONST_FUN_OBJ_2(context_verify_obj, context_verify);

static mp_obj_t context_version(mp_obj_t self, mp_obj_t version_in) {
    mp_int_t version = mp_obj_get_int(version_in);
    if (version != 0x0303 && version != 0x0304) {
        mp_raise_ValueError(MP_ERROR_TEXT("version"));
    }
    tls_context_version(context_of(self), (int)version);
    return mp_const_none;
}
static MP_DEFINE_CONST_FUN_OBJ_2(context_version_obj, context_version);

// Calls `set` with the C strings of a list of str.
static mp_obj_t with_names(mp_obj_t self, mp_obj_t names_in,
    int (*set)(tls_context *, const char *const *, size_t)) {
    size_t count;
    mp_obj_t *names;
    mp_obj_get_array(names_in, &count, &names);
    const char *texts[32];
    if (count > MP_ARRAY_SIZE(texts)) {
        mp_raise_ValueError(MP_ERROR_TEXT("too many names"));
    }
    for (size_t i = 0; i < count; i++) {
        texts[i] = mp_obj_str_get_str(names[i]);
    }
    number(NULL, set(context_of(self), texts, count));
    return mp_const_none;
}

static mp_obj_t context_protocols(mp_obj_t self, mp_obj_t names) {
    return with_names(self, names, tls_context_protocols);
}
static MP_DEFINE_CONST_FUN_OBJ_2(context_protocols_obj, context_protocols);

static mp_obj_t context_ciphers(mp_obj_t self, mp_obj_t names) {
    return with_names(self, names, tls_context_ciphers);
}
static MP_DEFINE_CONST_FUN_OBJ_2(context_ciphers_obj, context_ciphers);

// Asks the Python function; what it raises is printed, and refuses the certificate: nothing may
// unwind through Mbed TLS's frames.
static uint32_t ask_judge(void *argument, const uint8_t *der, size_t size, int depth,
    uint32_t flags) {
    context_t *self = argument;
    nlr_buf_t nlr;
    if (nlr_push(&nlr) == 0) {
        mp_obj_t args[2] = {mp_obj_new_bytes(der, size), MP_OBJ_NEW_SMALL_INT(depth)};
        mp_obj_t answer = mp_call_function_n_kw(self->judge, 2, 0, args);
        bool refused = answer != mp_const_none && mp_obj_get_int(answer) != 0;
        nlr_pop();
        return flags | (refused ? TLS_REFUSED : 0);
    }
    mp_obj_print_exception(&mp_plat_print, MP_OBJ_FROM_PTR(nlr.ret_val));
    return flags | TLS_REFUSED;
}

static mp_obj_t context_judge(mp_obj_t self_in, mp_obj_t function) {
    context_t *self = MP_OBJ_TO_PTR(self_in);
    tls_context *context = context_of(self_in);
    self->judge = function;
    tls_context_judge(context, function == mp_const_none ? NULL : ask_judge, self);
    return mp_const_none;
}
static MP_DEFINE_CONST_FUN_OBJ_2(context_judge_obj, context_judge);

static mp_obj_t context_prefer_chacha(mp_obj_t self, mp_obj_t flag) {
    tls_context_prefer_chacha(context_of(self), mp_obj_is_true(flag));
    return mp_const_none;
}
static MP_DEFINE_CONST_FUN_OBJ_2(context_prefer_chacha_obj, context_prefer_chacha);

static const mp_rom_map_elem_t context_locals_table[] = {
    {MP_ROM_QSTR(MP_QSTR___del__), MP_ROM_PTR(&context_del_obj)},
    {MP_ROM_QSTR(MP_QSTR_certificate), MP_ROM_PTR(&context_certificate_obj)},
    {MP_ROM_QSTR(MP_QSTR_trust), MP_ROM_PTR(&context_trust_obj)},
    {MP_ROM_QSTR(MP_QSTR_verify), MP_ROM_PTR(&context_verify_obj)},
    {MP_ROM_QSTR(MP_QSTR_version), MP_ROM_PTR(&context_version_obj)},
    {MP_ROM_QSTR(MP_QSTR_protocols), MP_ROM_PTR(&context_protocols_obj)},
    {MP_ROM_QSTR(MP_QSTR_ciphers), MP_ROM_PTR(&context_ciphers_obj)},
    {MP_ROM_QSTR(MP_QSTR_judge), MP_ROM_PTR(&context_judge_obj)},
    {MP_ROM_QSTR(MP_QSTR_prefer_chacha), MP_ROM_PTR(&context_prefer_chacha_obj)},
};
static MP_DEFINE_CONST_DICT(context_locals, context_locals_table);
static MP_DEFINE_CONST_OBJ_TYPE(context_type, MP_QSTR_Context, MP_TYPE_FLAG_NONE, make_new,
    context_make_new, locals_dict, &context_locals);

// --- Session

static mp_obj_t session_make_new(const mp_obj_type_t *type, size_t n_args, size_t n_kw,
    const mp_obj_t *args) {
    mp_arg_check_num(n_args, n_kw, 2, 2, false);
    if (!mp_obj_is_type(args[0], &context_type)) {
        mp_raise_TypeError(MP_ERROR_TEXT("Context expected"));
    }
    const char *name = args[1] == mp_const_none ? NULL : mp_obj_str_get_str(args[1]);
    session_t *self = mp_obj_malloc_with_finaliser(session_t, type);
    self->session = NULL;
    int error = 0;
    self->session = tls_session_new(context_of(args[0]), name, &error);
    if (error == TLS_MEMORY) {
        // A session's memory is not the collector's, which does not know what waits to be freed.
        gc_collect();
        self->session = tls_session_new(context_of(args[0]), name, &error);
    }
    if (!self->session) {
        refuse(NULL, error);
    }
    return MP_OBJ_FROM_PTR(self);
}

static mp_obj_t session_free(mp_obj_t self_in) {
    session_t *self = MP_OBJ_TO_PTR(self_in);
    tls_session_free(self->session);
    self->session = NULL;
    return mp_const_none;
}
static MP_DEFINE_CONST_FUN_OBJ_1(session_free_obj, session_free);

static tls_session *session_of(mp_obj_t self_in) {
    session_t *self = MP_OBJ_TO_PTR(self_in);
    if (!self->session) {
        mp_raise_ValueError(MP_ERROR_TEXT("freed"));
    }
    return self->session;
}

static mp_obj_t session_feed(mp_obj_t self, mp_obj_t data) {
    mp_buffer_info_t info = buffer(data, MP_BUFFER_READ);
    return MP_OBJ_NEW_SMALL_INT(tls_feed(session_of(self), info.buf, info.len));
}
static MP_DEFINE_CONST_FUN_OBJ_2(session_feed_obj, session_feed);

static mp_obj_t session_end(mp_obj_t self) {
    tls_end(session_of(self));
    return mp_const_none;
}
static MP_DEFINE_CONST_FUN_OBJ_1(session_end_obj, session_end);

static mp_obj_t session_output(mp_obj_t self) {
    size_t size;
    const uint8_t *data = tls_output(session_of(self), &size);
    return mp_obj_new_bytes(data, size);
}
static MP_DEFINE_CONST_FUN_OBJ_1(session_output_obj, session_output);

static mp_obj_t session_sent(mp_obj_t self, mp_obj_t size_in) {
    mp_int_t size = mp_obj_get_int(size_in);
    if (size > 0) {
        tls_sent(session_of(self), (size_t)size);
    }
    return mp_const_none;
}
static MP_DEFINE_CONST_FUN_OBJ_2(session_sent_obj, session_sent);

static mp_obj_t session_input_size(mp_obj_t self) {
    return MP_OBJ_NEW_SMALL_INT(tls_input_size(session_of(self)));
}
static MP_DEFINE_CONST_FUN_OBJ_1(session_input_size_obj, session_input_size);

static mp_obj_t session_step(mp_obj_t self) {
    tls_session *session = session_of(self);
    mp_obj_t code = number(session, tls_step(session));
    return code == mp_const_none ? code : mp_obj_new_bool(code != MP_OBJ_NEW_SMALL_INT(0));
}
static MP_DEFINE_CONST_FUN_OBJ_1(session_step_obj, session_step);

static mp_obj_t session_done(mp_obj_t self) {
    return mp_obj_new_bool(tls_done(session_of(self)));
}
static MP_DEFINE_CONST_FUN_OBJ_1(session_done_obj, session_done);

static mp_obj_t session_readinto(mp_obj_t self, mp_obj_t to) {
    mp_buffer_info_t info = buffer(to, MP_BUFFER_WRITE);
    tls_session *session = session_of(self);
    return number(session, tls_read(session, info.buf, info.len));
}
static MP_DEFINE_CONST_FUN_OBJ_2(session_readinto_obj, session_readinto);

static mp_obj_t session_readable(mp_obj_t self) {
    return MP_OBJ_NEW_SMALL_INT(tls_readable(session_of(self)));
}
static MP_DEFINE_CONST_FUN_OBJ_1(session_readable_obj, session_readable);

static mp_obj_t session_write(mp_obj_t self, mp_obj_t data) {
    mp_buffer_info_t info = buffer(data, MP_BUFFER_READ);
    tls_session *session = session_of(self);
    return number(session, tls_write(session, info.buf, info.len));
}
static MP_DEFINE_CONST_FUN_OBJ_2(session_write_obj, session_write);

static mp_obj_t session_close(mp_obj_t self) {
    tls_session *session = session_of(self);
    number(session, tls_close(session));
    return mp_const_none;
}
static MP_DEFINE_CONST_FUN_OBJ_1(session_close_obj, session_close);

static mp_obj_t session_version(mp_obj_t self) {
    return text_or_none(tls_version(session_of(self)));
}
static MP_DEFINE_CONST_FUN_OBJ_1(session_version_obj, session_version);

static mp_obj_t session_cipher(mp_obj_t self) {
    return text_or_none(tls_cipher(session_of(self)));
}
static MP_DEFINE_CONST_FUN_OBJ_1(session_cipher_obj, session_cipher);

static mp_obj_t session_protocol(mp_obj_t self) {
    return text_or_none(tls_protocol(session_of(self)));
}
static MP_DEFINE_CONST_FUN_OBJ_1(session_protocol_obj, session_protocol);

static mp_obj_t session_peer_certificate(mp_obj_t self) {
    size_t size;
    const uint8_t *data = tls_peer_certificate(session_of(self), &size);
    return data ? mp_obj_new_bytes(data, size) : mp_const_none;
}
static MP_DEFINE_CONST_FUN_OBJ_1(session_peer_certificate_obj, session_peer_certificate);

static const mp_rom_map_elem_t session_locals_table[] = {
    {MP_ROM_QSTR(MP_QSTR___del__), MP_ROM_PTR(&session_free_obj)},
    {MP_ROM_QSTR(MP_QSTR_feed), MP_ROM_PTR(&session_feed_obj)},
    {MP_ROM_QSTR(MP_QSTR_end), MP_ROM_PTR(&session_end_obj)},
    {MP_ROM_QSTR(MP_QSTR_output), MP_ROM_PTR(&session_output_obj)},
    {MP_ROM_QSTR(MP_QSTR_sent), MP_ROM_PTR(&session_sent_obj)},
    {MP_ROM_QSTR(MP_QSTR_input_size), MP_ROM_PTR(&session_input_size_obj)},
    {MP_ROM_QSTR(MP_QSTR_step), MP_ROM_PTR(&session_step_obj)},
    {MP_ROM_QSTR(MP_QSTR_done), MP_ROM_PTR(&session_done_obj)},
    {MP_ROM_QSTR(MP_QSTR_readinto), MP_ROM_PTR(&session_readinto_obj)},
    {MP_ROM_QSTR(MP_QSTR_readable), MP_ROM_PTR(&session_readable_obj)},
    {MP_ROM_QSTR(MP_QSTR_write), MP_ROM_PTR(&session_write_obj)},
    {MP_ROM_QSTR(MP_QSTR_close), MP_ROM_PTR(&session_close_obj)},
    {MP_ROM_QSTR(MP_QSTR_free), MP_ROM_PTR(&session_free_obj)},
    {MP_ROM_QSTR(MP_QSTR_version), MP_ROM_PTR(&session_version_obj)},
    {MP_ROM_QSTR(MP_QSTR_cipher), MP_ROM_PTR(&session_cipher_obj)},
    {MP_ROM_QSTR(MP_QSTR_protocol), MP_ROM_PTR(&session_protocol_obj)},
    {MP_ROM_QSTR(MP_QSTR_peer_certificate), MP_ROM_PTR(&session_peer_certificate_obj)},
};
static MP_DEFINE_CONST_DICT(session_locals, session_locals_table);
static MP_DEFINE_CONST_OBJ_TYPE(session_type, MP_QSTR_Session, MP_TYPE_FLAG_NONE, make_new,
    session_make_new, locals_dict, &session_locals);

// --- the module

static mp_obj_t tls_suites(void) {
    mp_obj_t list = mp_obj_new_list(0, NULL);
    const char *name;
    for (size_t i = 0; (name = tls_suite(i)); i++) {
        mp_obj_list_append(list, mp_obj_new_str(name, strlen(name)));
    }
    return list;
}
static MP_DEFINE_CONST_FUN_OBJ_0(tls_suites_obj, tls_suites);

static const mp_rom_map_elem_t tls_globals_table[] = {
    {MP_ROM_QSTR(MP_QSTR___name__), MP_ROM_QSTR(MP_QSTR__tls)},
    {MP_ROM_QSTR(MP_QSTR_Context), MP_ROM_PTR(&context_type)},
    {MP_ROM_QSTR(MP_QSTR_Session), MP_ROM_PTR(&session_type)},
    {MP_ROM_QSTR(MP_QSTR_suites), MP_ROM_PTR(&tls_suites_obj)},
};
static MP_DEFINE_CONST_DICT(tls_globals, tls_globals_table);

const mp_obj_module_t tls_module = {
    .base = {&mp_type_module},
    .globals = (mp_obj_dict_t *)&tls_globals,
};

MP_REGISTER_MODULE(MP_QSTR__tls, tls_module);
