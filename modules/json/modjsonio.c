// The `_jsonio` module: Python values from and to JSON text, by native/json.
//
//   read(text, depth, members, containers, memory, us) -> value or Reader
//       text        bytes
//       depth       most arrays and objects inside each other
//       members     most members of one object
//       containers  most arrays and objects in all
//       memory      most bytes, roughly, that the values may take
//   write(value, depth, wide, us) -> bytes or Writer
//       wide        write integers of any size digit by digit; without it, those beyond 64 bits
//                   become the doubles that most readers make of them
//   integers(items, least, most) -> bool   whether all items of a list are integers in that range
//   is_utf8(buffer) -> bool
//   decode(buffer) -> (str, used)          U+FFFD replaces bytes that are not UTF-8; a character
//                                          that the buffer's end cuts off is not used
//   Reader, Writer
//       run(us) -> bool                    goes on; whether all is done
//       result()                           the value or the bytes
//
// read() and write() work for about `us` microseconds (-1: to the end). What is not done by then
// they return as a Reader or Writer. Reading raises ValueError, which gives the fault and its byte,
// or the bound that was passed. Writing raises ValueError for a number or text that JSON cannot
// express, TypeError for any other value. A list or dict may change while it is written: each item
// is written as it is when its turn comes.
#include <string.h>

#include "py/mphal.h"
#include "py/objint.h"
#include "py/objlist.h"
#include "py/objstr.h"
#include "py/objtuple.h"
#include "py/objtype.h"
#include "py/parsenum.h"
#include "py/runtime.h"

#include "json.h"
#include "modjsonio.h"

#define WORK 4096 // bytes of one token between two looks at the clock
#define LOOK 32   // tokens between two looks
#define MANY 64   // in an object with more members, look after each
#define SHORT 64  // a string of at most this many bytes may be interned already

// Roughly what values take of MicroPython's heap, whose blocks have 32 bytes.
#define ITEM_MEMORY 8
#define OBJECT_MEMORY 32
#define CONTAINER_MEMORY 96
#define MEMBER_MEMORY 48

#define WRITER_DEPTH 128

enum { RUNNING, FINISHED, BROKEN };

// Whether `us` microseconds are over since `start`.
static bool over(mp_int_t us, mp_uint_t start) {
    return us >= 0 && (mp_uint_t)(mp_hal_ticks_us() - start) >= (mp_uint_t)us;
}

// Returns false if all is done. Else marks the work as broken, which it is if an exception ends it;
// the caller sets the state again when it stops without one.
static bool resume(uint8_t *state) {
    if (*state == BROKEN) {
        mp_raise_ValueError(MP_ERROR_TEXT("it failed before"));
    }
    if (*state == FINISHED) {
        return false;
    }
    *state = BROKEN;
    return true;
}

// Takes over `data`, which ends with NUL, if it is longer than SHORT.
static mp_obj_t new_str(char *data, size_t length) {
    if (length <= SHORT) {
        return mp_obj_new_str(data, length);
    }
    mp_obj_str_t *string = mp_obj_malloc(mp_obj_str_t, &mp_type_str);
    string->hash = 0; // computed when needed
    string->len = length;
    string->data = (const byte *)data;
    return MP_OBJ_FROM_PTR(string);
}

// --- reading

typedef struct {
    mp_obj_base_t base;
    uint8_t state;
    bool is_name; // the string being decoded is a member's name
    bool slow;    // storing the last value may have taken long
    mp_obj_t text, value;
    struct json_reader reader;
    size_t members, containers, memory, compared;
    char *string; // being decoded, NULL for none
    size_t from, length;
    mp_obj_t open[JSON_MAX_DEPTH], name[JSON_MAX_DEPTH];
} reader_t;

static NORETURN void refuse(const struct json_reader *reader) {
    unsigned at = (unsigned)reader->at;
    const byte *found = reader->text + reader->at;
    if (reader->at < reader->size && *found > 0x20 && *found < 0x7F
        && strcmp(reader->error, "unexpected character") == 0) {
        mp_raise_msg_varg(&mp_type_ValueError, MP_ERROR_TEXT("unexpected '%c' at byte %u"), *found,
            at);
    }
    mp_raise_msg_varg(&mp_type_ValueError, MP_ERROR_TEXT("%s at byte %u"), reader->error, at);
}

static void pay(reader_t *self, size_t memory) {
    if (memory > self->memory) {
        mp_raise_ValueError(MP_ERROR_TEXT("its values take too much memory"));
    }
    self->memory -= memory;
}

// Stores a value in the innermost of `depth` open containers, or as the result.
static void give(reader_t *self, unsigned depth, mp_obj_t value) {
    if (!depth) {
        self->value = value;
        return;
    }
    mp_obj_t parent = self->open[depth - 1];
    if (mp_obj_is_type(parent, &mp_type_list)) {
        pay(self, ITEM_MEMORY);
        mp_obj_list_append(parent, value);
        return;
    }
    pay(self, MEMBER_MEMORY);
    // A client can choose names with equal hashes, each of which is compared with all before it.
    size_t used = mp_obj_dict_get_map(parent)->used;
    self->compared += used;
    self->slow = used > MANY;
    mp_obj_dict_store(parent, self->name[depth - 1], value);
    if (used >= self->members && mp_obj_dict_get_map(parent)->used > self->members) {
        mp_raise_msg_varg(&mp_type_ValueError, MP_ERROR_TEXT("more than %u members in an object"),
            (unsigned)self->members);
    }
    if (self->compared > self->members * self->members) {
        mp_raise_ValueError(MP_ERROR_TEXT("too many members in its objects"));
    }
}

static void give_string(reader_t *self, mp_obj_t string) {
    if (self->is_name) {
        self->name[self->reader.depth - 1] = string;
    } else {
        give(self, self->reader.depth, string);
    }
}

static void go_on_decoding(reader_t *self) {
    self->length +=
        json_decode(&self->reader, &self->from, (uint8_t *)self->string + self->length, WORK);
    if (self->from == self->reader.end) {
        self->string[self->length] = 0;
        mp_obj_t string = new_str(self->string, self->length);
        self->string = NULL;
        give_string(self, string);
    }
}

static void take_string(reader_t *self, bool is_name) {
    const struct json_reader *reader = &self->reader;
    pay(self, 2 * OBJECT_MEMORY + reader->length);
    self->is_name = is_name;
    self->from = reader->start;
    self->length = 0;
    if (reader->length <= SHORT) {
        char buffer[SHORT];
        size_t length = json_decode(reader, &self->from, (uint8_t *)buffer, SIZE_MAX);
        give_string(self, mp_obj_new_str(buffer, length));
        return;
    }
    self->string = m_new(char, reader->length + 1);
    if (!reader->escaped) {
        memcpy(self->string, reader->text + reader->start, reader->length);
        self->length = reader->length;
        self->from = reader->end;
    }
    go_on_decoding(self);
}

static mp_obj_t integer(reader_t *self) {
    const struct json_reader *reader = &self->reader;
    if (reader->fits) {
        return mp_obj_new_int(reader->integer);
    }
    size_t length = reader->end - reader->start;
    pay(self, 2 * OBJECT_MEMORY + length);
    return mp_parse_num_integer((const char *)reader->text + reader->start, length, 10, NULL);
}

static void take(reader_t *self, enum json_event event) {
    struct json_reader *reader = &self->reader;
    unsigned depth = reader->depth;
    switch (event) {
        case JSON_NULL:
            give(self, depth, mp_const_none);
            break;
        case JSON_FALSE:
            give(self, depth, mp_const_false);
            break;
        case JSON_TRUE:
            give(self, depth, mp_const_true);
            break;
        case JSON_INTEGER:
            give(self, depth, integer(self));
            break;
        case JSON_FLOAT:
            pay(self, OBJECT_MEMORY);
            give(self, depth, mp_obj_new_float(reader->number));
            break;
        case JSON_STRING:
        case JSON_NAME:
            take_string(self, event == JSON_NAME);
            break;
        case JSON_ARRAY:
        case JSON_OBJECT: {
            pay(self, CONTAINER_MEMORY);
            if (!self->containers--) {
                mp_raise_ValueError(MP_ERROR_TEXT("too many arrays and objects"));
            }
            bool array = event == JSON_ARRAY;
            mp_obj_t container = array ? mp_obj_new_list(0, NULL) : mp_obj_new_dict(0);
            self->open[depth - 1] = container;
            give(self, depth - 1, container);
            break;
        }
        default: // the end of a container
            self->open[depth] = self->name[depth] = MP_OBJ_NULL;
    }
}

static void reader_work(reader_t *self, mp_int_t us) {
    mp_uint_t start = mp_hal_ticks_us();
    if (!resume(&self->state)) {
        return;
    }
    for (unsigned count = 1;; count++) {
        bool look = count % LOOK == 0;
        if (self->string) {
            go_on_decoding(self);
            look = true;
        } else {
            enum json_event event = json_next(&self->reader, WORK);
            if (event == JSON_DONE) {
                self->state = FINISHED;
                return;
            }
            if (event == JSON_ERROR) {
                refuse(&self->reader);
            }
            if (event != JSON_PAUSE) {
                take(self, event);
            }
            look |= event == JSON_PAUSE || self->slow;
            self->slow = false;
        }
        if (look && over(us, start)) {
            break;
        }
    }
    self->state = RUNNING;
}

static mp_obj_t reader_run(mp_obj_t self_in, mp_obj_t us) {
    reader_t *self = MP_OBJ_TO_PTR(self_in);
    reader_work(self, mp_obj_get_int(us));
    return mp_obj_new_bool(self->state == FINISHED);
}
static MP_DEFINE_CONST_FUN_OBJ_2(reader_run_obj, reader_run);

static mp_obj_t reader_result(mp_obj_t self_in) {
    reader_t *self = MP_OBJ_TO_PTR(self_in);
    if (self->state != FINISHED) {
        mp_raise_ValueError(MP_ERROR_TEXT("not done"));
    }
    return self->value;
}
static MP_DEFINE_CONST_FUN_OBJ_1(reader_result_obj, reader_result);

static const mp_rom_map_elem_t reader_locals_table[] = {
    {MP_ROM_QSTR(MP_QSTR_run), MP_ROM_PTR(&reader_run_obj)},
    {MP_ROM_QSTR(MP_QSTR_result), MP_ROM_PTR(&reader_result_obj)},
};
static MP_DEFINE_CONST_DICT(reader_locals, reader_locals_table);
static MP_DEFINE_CONST_OBJ_TYPE(reader_type, MP_QSTR_Reader, MP_TYPE_FLAG_NONE, locals_dict,
    &reader_locals);

static mp_obj_t jsonio_read(size_t n_args, const mp_obj_t *args) {
    (void)n_args;
    if (!mp_obj_is_type(args[0], &mp_type_bytes)) {
        // A Reader could not resume in a buffer that changes.
        mp_raise_TypeError(MP_ERROR_TEXT("bytes expected"));
    }
    size_t size;
    const char *text = mp_obj_str_get_data(args[0], &size);
    reader_t self = {.base = {&reader_type}, .text = args[0], .value = mp_const_none};
    json_read(&self.reader, text, size, (unsigned)mp_obj_get_int(args[1]));
    self.members = (size_t)mp_obj_get_int(args[2]);
    self.containers = (size_t)mp_obj_get_int(args[3]);
    self.memory = (size_t)mp_obj_get_int(args[4]);
    reader_work(&self, mp_obj_get_int(args[5]));
    if (self.state == FINISHED) {
        return self.value;
    }
    reader_t *rest = mp_obj_malloc(reader_t, &reader_type);
    *rest = self;
    return MP_OBJ_FROM_PTR(rest);
}
static MP_DEFINE_CONST_FUN_OBJ_VAR_BETWEEN(jsonio_read_obj, 6, 6, jsonio_read);

// --- writing

typedef struct {
    mp_obj_t object; // list, tuple or dict
    size_t next;     // index of the next item, or slot of a dict's table
    bool some;       // an item has been written
} level_t;

typedef struct {
    mp_obj_base_t base;
    uint8_t state;
    bool wide, is_name;
    char *text;
    size_t size, room;
    mp_obj_t string; // being written, MP_OBJ_NULL for none
    mp_obj_t value;  // to be written next, MP_OBJ_NULL for none
    size_t from;
    unsigned depth, max_depth;
    level_t open[WRITER_DEPTH];
} writer_t;

static char *make_room(writer_t *self, size_t more) {
    if (self->room - self->size < more) {
        size_t room = self->room * 2 + more + 64;
        self->text = m_renew(char, self->text, self->room, room);
        self->room = room;
    }
    return self->text + self->size;
}

static void add(writer_t *self, const char *text, size_t size) {
    memcpy(make_room(self, size), text, size);
    self->size += size;
}

static void add_byte(writer_t *self, char byte) {
    *make_room(self, 1) = byte;
    self->size++;
}

static void go_on_escaping(writer_t *self) {
    size_t size;
    const char *text = mp_obj_str_get_data(self->string, &size);
    size_t left = size - self->from, most = left < WORK ? left + 16 : WORK;
    uint8_t *to = (uint8_t *)make_room(self, most);
    size_t written = json_escape((const uint8_t *)text, size, &self->from, to, most);
    if (written == SIZE_MAX) {
        mp_raise_ValueError(MP_ERROR_TEXT("a str that is no UTF-8"));
    }
    self->size += written;
    if (self->from == size) {
        self->string = MP_OBJ_NULL;
        add_byte(self, '"');
        if (self->is_name) {
            add_byte(self, ':');
        }
    }
}

static void begin_string(writer_t *self, mp_obj_t string, bool is_name) {
    add_byte(self, '"');
    self->string = string;
    self->from = 0;
    self->is_name = is_name;
    go_on_escaping(self);
}

static void add_double(writer_t *self, mp_float_t value) {
    size_t size = json_double(value, make_room(self, JSON_DOUBLE_SIZE));
    if (!size) {
        mp_raise_ValueError(MP_ERROR_TEXT("a number that JSON has not"));
    }
    self->size += size;
}

// Whether an integer fits into 64 bits, signed or unsigned.
static bool is_narrow(mp_obj_t number) {
    if (mp_obj_is_small_int(number)) {
        return true;
    }
    mp_obj_t high = mp_binary_op(MP_BINARY_OP_RSHIFT, number, MP_OBJ_NEW_SMALL_INT(63));
    return mp_obj_is_small_int(high) && MP_OBJ_SMALL_INT_VALUE(high) >= -1
        && MP_OBJ_SMALL_INT_VALUE(high) <= 1;
}

static void add_integer(writer_t *self, mp_obj_t number) {
    if (!self->wide && !is_narrow(number)) {
        add_double(self, mp_obj_get_float(number));
        return;
    }
    char buffer[32], *text = buffer;
    size_t room = sizeof buffer, size;
    const char *digits = mp_obj_int_formatted(&text, &room, &size, number, 10, NULL, '\0', '\0');
    add(self, digits, size);
    if (text != buffer) {
        m_del(char, text, room);
    }
}

// Writes null, a truth value or a number; returns false for any other value.
static bool add_scalar(writer_t *self, mp_obj_t value) {
    if (value == mp_const_none) {
        add(self, "null", 4);
    } else if (value == mp_const_true) {
        add(self, "true", 4);
    } else if (value == mp_const_false) {
        add(self, "false", 5);
    } else if (mp_obj_is_int(value)) {
        add_integer(self, value);
    } else if (mp_obj_is_float(value)) {
        add_double(self, mp_obj_float_get(value));
    } else {
        return false;
    }
    return true;
}

static NORETURN void refuse_type(mp_obj_t value) {
    mp_raise_msg_varg(&mp_type_TypeError, MP_ERROR_TEXT("JSON has no %s"),
        mp_obj_get_type_str(value));
}

// The native object inside an instance of a class derived from one of `kinds`; else the value.
static mp_obj_t native(mp_obj_t value) {
    const mp_obj_type_t *kinds[] = {&mp_type_dict, &mp_type_list, &mp_type_tuple, &mp_type_str};
    bool instance = mp_obj_is_instance_type(mp_obj_get_type(value));
    for (size_t i = 0; i < MP_ARRAY_SIZE(kinds) && instance; i++) {
        mp_obj_t found = mp_obj_cast_to_native_base(value, MP_OBJ_FROM_PTR(kinds[i]));
        if (found != MP_OBJ_NULL) {
            return found;
        }
    }
    return value;
}

// Whether it is a tuple or a namedtuple.
static bool is_tuple(mp_obj_t value) {
    return MP_OBJ_TYPE_GET_SLOT_OR_NULL(mp_obj_get_type(value), iter) == mp_obj_tuple_getiter;
}

static void begin_value(writer_t *self, mp_obj_t value) {
    if (mp_obj_is_str(value)) {
        begin_string(self, value, false);
        return;
    }
    if (add_scalar(self, value)) {
        return;
    }
    value = native(value);
    bool dict = mp_obj_is_dict_or_ordereddict(value);
    if (!dict && !mp_obj_is_type(value, &mp_type_list) && !is_tuple(value)) {
        if (!mp_obj_is_str(value)) {
            refuse_type(value);
        }
        begin_string(self, value, false);
        return;
    }
    if (self->depth == self->max_depth) {
        mp_raise_ValueError(MP_ERROR_TEXT("nested too deeply"));
    }
    self->open[self->depth++] = (level_t){.object = value};
    add_byte(self, dict ? '{' : '[');
}

static void begin_name(writer_t *self, mp_obj_t name) {
    name = mp_obj_is_str(name) ? name : native(name);
    if (mp_obj_is_str(name)) {
        begin_string(self, name, true);
        return;
    }
    // As in CPython's json, a scalar as a name becomes text.
    add_byte(self, '"');
    if (!add_scalar(self, name)) {
        refuse_type(name);
    }
    add(self, "\":", 2);
}

static void leave(writer_t *self, char byte) {
    add_byte(self, byte);
    self->open[--self->depth] = (level_t){0};
}

// Writes the next item of the innermost container, or its end.
static void next_item(writer_t *self) {
    level_t *level = &self->open[self->depth - 1];
    mp_obj_t value;
    if (mp_obj_is_dict_or_ordereddict(level->object)) {
        const mp_map_t *map = mp_obj_dict_get_map(level->object);
        while (level->next < map->alloc && !mp_map_slot_is_filled(map, level->next)) {
            level->next++;
        }
        if (level->next >= map->alloc) {
            leave(self, '}');
            return;
        }
        const mp_map_elem_t *slot = &map->table[level->next++];
        value = slot->value;
        if (level->some) {
            add_byte(self, ',');
        }
        level->some = true;
        self->value = value;
        begin_name(self, slot->key);
        return;
    }
    size_t count;
    mp_obj_t *items;
    if (mp_obj_is_type(level->object, &mp_type_list)) {
        mp_obj_list_get(level->object, &count, &items);
    } else {
        mp_obj_tuple_get(level->object, &count, &items);
    }
    if (level->next >= count) {
        leave(self, ']');
        return;
    }
    value = items[level->next++];
    if (level->some) {
        add_byte(self, ',');
    }
    level->some = true;
    begin_value(self, value);
}

static void writer_work(writer_t *self, mp_int_t us) {
    mp_uint_t start = mp_hal_ticks_us();
    if (!resume(&self->state)) {
        return;
    }
    for (unsigned count = 1;; count++) {
        bool look = count % LOOK == 0;
        if (self->string != MP_OBJ_NULL) {
            go_on_escaping(self);
            look = true;
        } else if (self->value != MP_OBJ_NULL) {
            mp_obj_t value = self->value;
            self->value = MP_OBJ_NULL;
            begin_value(self, value);
        } else if (self->depth) {
            next_item(self);
        } else {
            self->state = FINISHED;
            return;
        }
        if (look && over(us, start)) {
            break;
        }
    }
    self->state = RUNNING;
}

static mp_obj_t take_text(writer_t *self) {
    mp_obj_str_t *bytes = mp_obj_malloc(mp_obj_str_t, &mp_type_bytes);
    bytes->hash = 0;
    bytes->len = self->size;
    add_byte(self, 0); // bytes objects end with NUL
    bytes->data = (const byte *)m_renew(char, self->text, self->room, self->size);
    self->text = NULL;
    self->state = BROKEN;
    return MP_OBJ_FROM_PTR(bytes);
}

static mp_obj_t writer_run(mp_obj_t self_in, mp_obj_t us) {
    writer_t *self = MP_OBJ_TO_PTR(self_in);
    writer_work(self, mp_obj_get_int(us));
    return mp_obj_new_bool(self->state == FINISHED);
}
static MP_DEFINE_CONST_FUN_OBJ_2(writer_run_obj, writer_run);

static mp_obj_t writer_result(mp_obj_t self_in) {
    writer_t *self = MP_OBJ_TO_PTR(self_in);
    if (self->state != FINISHED) {
        mp_raise_ValueError(MP_ERROR_TEXT("not done"));
    }
    return take_text(self);
}
static MP_DEFINE_CONST_FUN_OBJ_1(writer_result_obj, writer_result);

static const mp_rom_map_elem_t writer_locals_table[] = {
    {MP_ROM_QSTR(MP_QSTR_run), MP_ROM_PTR(&writer_run_obj)},
    {MP_ROM_QSTR(MP_QSTR_result), MP_ROM_PTR(&writer_result_obj)},
};
static MP_DEFINE_CONST_DICT(writer_locals, writer_locals_table);
static MP_DEFINE_CONST_OBJ_TYPE(writer_type, MP_QSTR_Writer, MP_TYPE_FLAG_NONE, locals_dict,
    &writer_locals);

static mp_obj_t write_for(mp_obj_t value, mp_int_t depth, bool wide, mp_int_t us) {
    writer_t self = {.base = {&writer_type}, .value = value, .wide = wide};
    self.max_depth = depth < WRITER_DEPTH ? depth : WRITER_DEPTH;
    writer_work(&self, us);
    if (self.state == FINISHED) {
        return take_text(&self);
    }
    writer_t *rest = mp_obj_malloc(writer_t, &writer_type);
    *rest = self;
    return MP_OBJ_FROM_PTR(rest);
}

mp_obj_t jsonio_text(mp_obj_t value, bool wide) {
    return write_for(value, WRITER_DEPTH, wide, -1);
}

static mp_obj_t jsonio_write(size_t n_args, const mp_obj_t *args) {
    (void)n_args;
    return write_for(args[0], mp_obj_get_int(args[1]), mp_obj_is_true(args[2]),
        mp_obj_get_int(args[3]));
}
static MP_DEFINE_CONST_FUN_OBJ_VAR_BETWEEN(jsonio_write_obj, 4, 4, jsonio_write);

// --- checks

static mp_obj_t jsonio_integers(mp_obj_t list, mp_obj_t least_in, mp_obj_t most_in) {
    size_t count;
    mp_obj_t *items;
    mp_obj_get_array(list, &count, &items); // TypeError for what is no list or tuple
    mp_int_t least = mp_obj_get_int(least_in), most = mp_obj_get_int(most_in);
    for (size_t i = 0; i < count; i++) {
        // An integer that is not small is outside every range of tokens.
        if (!mp_obj_is_small_int(items[i]) || MP_OBJ_SMALL_INT_VALUE(items[i]) < least
            || MP_OBJ_SMALL_INT_VALUE(items[i]) > most) {
            return mp_const_false;
        }
    }
    return mp_const_true;
}
static MP_DEFINE_CONST_FUN_OBJ_3(jsonio_integers_obj, jsonio_integers);

static mp_obj_t jsonio_is_utf8(mp_obj_t buffer) {
    mp_buffer_info_t info;
    mp_get_buffer_raise(buffer, &info, MP_BUFFER_READ);
    return mp_obj_new_bool(json_valid(info.buf, info.len) == info.len);
}
static MP_DEFINE_CONST_FUN_OBJ_1(jsonio_is_utf8_obj, jsonio_is_utf8);

static mp_obj_t jsonio_decode(mp_obj_t buffer) {
    mp_buffer_info_t info;
    mp_get_buffer_raise(buffer, &info, MP_BUFFER_READ);
    const byte *text = info.buf;
    size_t at = 0, size = 0;
    bool cut = false;
    char *out = NULL;
    // The first pass only counts.
    for (int pass = 0; pass < 2; pass++) {
        at = size = 0;
        cut = false;
        while (at < info.len && !cut) {
            size_t good = json_valid(text + at, info.len - at);
            if (pass) {
                memcpy(out + size, text + at, good);
            }
            at += good;
            size += good;
            if (at == info.len) {
                break;
            }
            size_t bad = json_broken(text + at, info.len - at, &cut);
            if (!cut) {
                if (pass) {
                    memcpy(out + size, "\xef\xbf\xbd", 3);
                }
                at += bad;
                size += 3;
            }
        }
        if (!pass) {
            out = m_new(char, size + 1);
        }
    }
    out[size] = 0;
    mp_obj_t result[2] = {new_str(out, size), MP_OBJ_NEW_SMALL_INT(at)};
    return mp_obj_new_tuple(2, result);
}
static MP_DEFINE_CONST_FUN_OBJ_1(jsonio_decode_obj, jsonio_decode);

static const mp_rom_map_elem_t jsonio_globals_table[] = {
    {MP_ROM_QSTR(MP_QSTR___name__), MP_ROM_QSTR(MP_QSTR__jsonio)},
    {MP_ROM_QSTR(MP_QSTR_read), MP_ROM_PTR(&jsonio_read_obj)},
    {MP_ROM_QSTR(MP_QSTR_Reader), MP_ROM_PTR(&reader_type)},
    {MP_ROM_QSTR(MP_QSTR_write), MP_ROM_PTR(&jsonio_write_obj)},
    {MP_ROM_QSTR(MP_QSTR_Writer), MP_ROM_PTR(&writer_type)},
    {MP_ROM_QSTR(MP_QSTR_integers), MP_ROM_PTR(&jsonio_integers_obj)},
    {MP_ROM_QSTR(MP_QSTR_is_utf8), MP_ROM_PTR(&jsonio_is_utf8_obj)},
    {MP_ROM_QSTR(MP_QSTR_decode), MP_ROM_PTR(&jsonio_decode_obj)},
};
static MP_DEFINE_CONST_DICT(jsonio_globals, jsonio_globals_table);

const mp_obj_module_t jsonio_module = {
    .base = {&mp_type_module},
    .globals = (mp_obj_dict_t *)&jsonio_globals,
};

MP_REGISTER_MODULE(MP_QSTR__jsonio, jsonio_module);
