// Methods of `dict` and OrderedDict that replace py/objdict.c's where those depend on the order of
// entries, or hold a pointer into a table while Python runs: __eq__, __hash__ and __repr__ may
// clear or grow that very dictionary. All other methods are upstream's (dict_methods.h says how).
//
// These methods read a slot at once, and look it up by number again after each call that may run
// Python.
#include "py/builtin.h"
#include "py/cstack.h"
#include "py/objstr.h"
#include "py/runtime.h"
#include "name_lookup.h"

#define IS_DICT(object) mp_check_self(mp_obj_is_dict_or_ordereddict(object))

static mp_map_t *map_of(mp_obj_t self) {
    return &((mp_obj_dict_t *)MP_OBJ_TO_PTR(self))->map;
}

static mp_map_t *changeable_map_of(mp_obj_t self) {
    IS_DICT(self);
    mp_map_t *map = map_of(self);
    if (map->is_fixed) {
        mp_raise_TypeError(NULL);
    }
    return map;
}

// Finds the next entry from slot `at` on, in arrays and tables alike; false after the last.
static bool next_entry(const mp_map_t *map, size_t *at, mp_obj_t *key, mp_obj_t *value) {
    for (; *at < map->alloc; ++*at) {
        if (mp_map_slot_is_filled(map, *at)) {
            *key = map->table[*at].key;
            *value = map->table[*at].value;
            ++*at;
            return true;
        }
    }
    return false;
}

static void store(mp_map_t *map, mp_obj_t key, mp_obj_t value) {
    mp_map_lookup(map, key, MP_MAP_LOOKUP_ADD_IF_NOT_FOUND)->value = value;
}

// CPython raises it too. Without it, a dictionary that keeps growing would be read for ever.
static void update_from_dict(mp_map_t *map, const mp_map_t *from) {
    size_t at = 0, used = from->used;
    mp_obj_t key, value;
    while (next_entry(from, &at, &key, &value)) {
        store(map, key, value);
        if (from->used != used) {
            mp_raise_msg(&mp_type_RuntimeError, MP_ERROR_TEXT("dict mutated during update"));
        }
    }
}

static void update_from_pairs(mp_map_t *map, mp_obj_t pairs) {
    mp_obj_t pair, iterator = mp_getiter(pairs, NULL);
    while ((pair = mp_iternext(iterator)) != MP_OBJ_STOP_ITERATION) {
        mp_obj_t items = mp_getiter(pair, NULL);
        mp_obj_t key = mp_iternext(items);
        mp_obj_t value = key == MP_OBJ_STOP_ITERATION ? key : mp_iternext(items);
        if (value == MP_OBJ_STOP_ITERATION || mp_iternext(items) != MP_OBJ_STOP_ITERATION) {
            mp_raise_ValueError(MP_ERROR_TEXT("dict update sequence has wrong length"));
        }
        store(map, key, value);
    }
}

mp_obj_t dict_update(size_t n_args, const mp_obj_t *args, mp_map_t *kwargs) {
    mp_map_t *map = changeable_map_of(args[0]);
    mp_arg_check_num(n_args, kwargs->used, 1, 2, true);
    if (n_args == 2 && !mp_obj_is_dict_or_ordereddict(args[1])) {
        update_from_pairs(map, args[1]);
    } else if (n_args == 2 && args[1] != args[0]) {
        update_from_dict(map, map_of(args[1]));
    }
    update_from_dict(map, kwargs);
    return mp_const_none;
}

mp_obj_t mp_obj_dict_make_new(const mp_obj_type_t *type, size_t n_args, size_t n_kw,
    const mp_obj_t *args) {
    bool copy = n_args == 1 && n_kw == 0 && mp_obj_is_dict_or_ordereddict(args[0]);
    mp_obj_t self = copy ? mp_obj_dict_copy(args[0]) : mp_obj_new_dict(0);
    // An OrderedDict is a table like every dictionary. Upstream's is an array, searched from its
    // beginning.
    ((mp_obj_dict_t *)MP_OBJ_TO_PTR(self))->base.type = type;
    if (!copy && (n_args || n_kw)) {
        mp_obj_t of_update[2] = {self, args[0]};
        mp_map_t kwargs;
        mp_map_init_fixed_table(&kwargs, n_kw, args + n_args);
        dict_update(n_args + 1, of_update, &kwargs);
    }
    return self;
}

mp_obj_t mp_obj_dict_copy(mp_obj_t self) {
    IS_DICT(self);
    mp_obj_dict_t *copy = m_new_obj(mp_obj_dict_t);
    copy->base.type = ((mp_obj_dict_t *)MP_OBJ_TO_PTR(self))->base.type;
    map_copy(&copy->map, map_of(self));
    return MP_OBJ_FROM_PTR(copy);
}

mp_obj_t dict_popitem(mp_obj_t self) {
    mp_map_t *map = changeable_map_of(self);
    mp_map_elem_t *last = map_last(map);
    if (!last) {
        mp_raise_msg(&mp_type_KeyError, MP_ERROR_TEXT("popitem(): dictionary is empty"));
    }
    mp_obj_t pair = mp_obj_new_tuple(2, (mp_obj_t[]){last->key, last->value});
    map_remove(map, last);
    last->value = MP_OBJ_NULL;
    return pair;
}

void dict_print(const mp_print_t *print, mp_obj_t self, mp_print_kind_t kind) {
    const mp_map_t *map = map_of(self);
    const mp_obj_type_t *type = mp_obj_get_type(self);
    bool json = MICROPY_PY_JSON && kind == PRINT_JSON, named = type != &mp_type_dict && !json;
    const char *between = ", ", *colon = ": ";
#if MICROPY_PY_JSON_SEPARATORS
    if (json) {
        between = MP_PRINT_GET_EXT(print)->item_separator;
        colon = MP_PRINT_GET_EXT(print)->key_separator;
    }
#endif
    kind = json ? PRINT_JSON : PRINT_REPR;
    if (named) {
        mp_printf(print, "%q(", type->name);
    }
    mp_print_str(print, "{");
    size_t at = 0;
    mp_obj_t key, value;
    for (const char *before = ""; next_entry(map, &at, &key, &value); before = between) {
        mp_print_str(print, before);
        // JSON's keys are strings.
        const char *quote = json && !mp_obj_is_str_or_bytes(key) ? "\"" : "";
        mp_print_str(print, quote);
        mp_obj_print_helper(print, key, kind);
        mp_print_str(print, quote);
        mp_print_str(print, colon);
        mp_obj_print_helper(print, value, kind);
    }
    mp_print_str(print, named ? "})" : "}");
}

static bool equal_in_order(const mp_map_t *left, const mp_map_t *right) {
    size_t at[2] = {0, 0};
    mp_obj_t key[2], value[2];
    for (;;) {
        bool more = next_entry(left, &at[0], &key[0], &value[0]);
        if (more != next_entry(right, &at[1], &key[1], &value[1])) {
            return false;
        }
        if (!more) {
            return true;
        }
        if (!mp_obj_equal(key[0], key[1]) || !mp_obj_equal(value[0], value[1])) {
            return false;
        }
    }
}

static bool equal(const mp_map_t *left, mp_map_t *right) {
    if (left->used != right->used) {
        return false;
    }
    size_t at = 0;
    mp_obj_t key, value;
    while (next_entry(left, &at, &key, &value)) {
        mp_map_elem_t *other = mp_map_lookup(right, key, MP_MAP_LOOKUP);
        if (!other || !mp_obj_equal(value, other->value)) {
            return false;
        }
    }
    return true;
}

mp_obj_t dict_binary_op(mp_binary_op_t op, mp_obj_t left, mp_obj_t right) {
    switch (op) {
        case MP_BINARY_OP_CONTAINS:
            return mp_obj_new_bool(mp_map_lookup(map_of(left), right, MP_MAP_LOOKUP) != NULL);
        case MP_BINARY_OP_EQUAL:
            mp_cstack_check(); // a dict may contain dicts, even itself
            if (mp_obj_is_type(left, &mp_type_ordereddict)
                && mp_obj_is_type(right, &mp_type_ordereddict)) {
                return mp_obj_new_bool(equal_in_order(map_of(left), map_of(right)));
            }
            return mp_obj_new_bool(
                mp_obj_is_type(right, &mp_type_dict) && equal(map_of(left), map_of(right)));
        case MP_BINARY_OP_OR:
        case MP_BINARY_OP_INPLACE_OR: {
            mp_obj_t sum = op == MP_BINARY_OP_OR ? mp_obj_dict_copy(left) : left;
            dict_update(2, (mp_obj_t[]){sum, right}, (mp_map_t *)&mp_const_empty_map);
            return sum;
        }
        default:
            return MP_OBJ_NULL;
    }
}
