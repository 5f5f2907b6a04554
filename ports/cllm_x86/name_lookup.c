// Lookups of names, in place of py/map.c's and py/runtime.c's: every name, attribute and method that
// Python mentions is one, and half of the instructions of an HTTP request went there.
//
// Tables. Upstream's fill up completely before they grow, by a quarter or so, which saves the memory of a
// microcontroller; but a method's name is looked for in vain among the object's attributes first, and in
// a full table that is a search of all of it. Here tables grow at three quarters, to twice as many, and
// what was deleted does not lengthen searches for ever. A small table is searched from its beginning, so
// its order is that of insertion, which upstream's tests of select expect.
//
// Keys. While all keys of a table are interned strings (qstrs, which are numbers), as in nearly every
// table that names are looked for in, their numbers are what is hashed and compared. A table is ordered
// anew when it gets its first key of another kind.
//
// Methods. mp_load_method() finds a function of an object's class without the general search, which
// handles properties, descriptors, builtin base classes and __getattr__.
#include <string.h>

#include "py/objtype.h"
#include "py/runtime.h"

// map.c's own, for tables that are arrays in order: modules and types in C, keyword arguments,
// collections.OrderedDict.
mp_map_elem_t *upstream_mp_map_lookup(mp_map_t *map, mp_obj_t index, mp_map_lookup_kind_t kind);
// runtime.c's own (see Makefile).
void upstream_mp_load_method(mp_obj_t object, qstr attr, mp_obj_t *dest);

// Where a name was found last in whatever array: a guess, checked by comparing keys. qstrs are numbers
// from 0 up, so that most have a place for themselves.
#define N_GUESSES 8192
static uint16_t guesses[N_GUESSES];

#define LEAST_ALLOC 4

// A multiplication spreads numbers and addresses, which have no low bits, over 32 bits.
static inline uint32_t hash_of_qstr(mp_obj_t index) {
    return (uint32_t)((uintptr_t)index * 0x9E3779B97F4A7C15u >> 32);
}

// The same for all kinds: 1 is equal to 1.0, and a text may be a qstr or not.
static uint32_t hash_of_value(mp_obj_t index) {
    uint64_t hash = mp_obj_is_qstr(index) ? qstr_hash(MP_OBJ_QSTR_VALUE(index))
        : mp_obj_is_small_int(index) ? (size_t)MP_OBJ_SMALL_INT_VALUE(index)
        : (size_t)MP_OBJ_SMALL_INT_VALUE(mp_unary_op(MP_UNARY_OP_HASH, index));
    return (uint32_t)(hash * 0x9E3779B97F4A7C15u >> 32);
}

// Where a search begins. Tables have any size, and a division is a slow thing in an emulator.
static inline size_t start(const mp_map_t *map, uint32_t hash) {
    return map->alloc <= LEAST_ALLOC ? 0 : (uint64_t)hash * map->alloc >> 32;
}

static inline size_t next(const mp_map_t *map, size_t at) {
    return at + 1 == map->alloc ? 0 : at + 1;
}

// mp_map_init() makes tables of the size that is asked for, to be filled up; those that grew are powers
// of two and keep room.
static bool has_room(const mp_map_t *map) {
    size_t alloc = map->alloc;
    return alloc <= LEAST_ALLOC || alloc & (alloc - 1) || (map->used + 1) * 4 <= alloc * 3;
}

// A new table with room for one more, without what was deleted; false where there is no memory.
static bool rehash(mp_map_t *map) {
    size_t alloc = LEAST_ALLOC;
    while (alloc * 3 < (map->used + 1) * 4) {
        alloc *= 2;
    }
    mp_map_elem_t *table = m_new_maybe(mp_map_elem_t, alloc);
    if (!table) {
        return false;
    }
    memset(table, 0, alloc * sizeof(*table));
    mp_map_t old = *map;
    map->alloc = alloc;
    map->table = table;
    for (size_t i = 0; i < old.alloc; i++) {
        if (mp_map_slot_is_filled(&old, i)) {
            mp_obj_t key = old.table[i].key;
            size_t at = start(map, map->all_keys_are_qstrs ? hash_of_qstr(key) : hash_of_value(key));
            while (table[at].key != MP_OBJ_NULL) {
                at = next(map, at);
            }
            table[at] = old.table[i];
        }
    }
    m_del(mp_map_elem_t, old.table, old.alloc);
    return true;
}

static void remove(mp_map_t *map, size_t at) {
    map->used--;
    // The value stays for the caller.
    map->table[at].key = MP_OBJ_SENTINEL;
    if (map->table[next(map, at)].key == MP_OBJ_NULL) {
        // No search goes on behind here, so none has to come this far.
        while (map->table[at].key == MP_OBJ_SENTINEL) {
            map->table[at].key = MP_OBJ_NULL;
            at = (at ? at : map->alloc) - 1;
        }
    }
}

// The slot of a qstr in a table of qstrs that is not an array, NULL for none.
static inline mp_map_elem_t *find_qstr(const mp_map_t *map, mp_obj_t index) {
    mp_map_elem_t *table = map->table, *end = table + map->alloc;
    if (map->alloc <= LEAST_ALLOC) {
        for (mp_map_elem_t *slot = table; slot < end; slot++) {
            if (slot->key == index) {
                return slot;
            }
        }
        return NULL;
    }
    mp_map_elem_t *first = table + start(map, hash_of_qstr(index)), *slot = first;
    while (slot->key != index) {
        if (slot->key == MP_OBJ_NULL) {
            return NULL;
        }
        slot = slot + 1 == end ? table : slot + 1;
        if (slot == first) {
            return NULL;
        }
    }
    return slot;
}

static MP_NOINLINE mp_map_elem_t *find_in_array(mp_map_t *map, mp_obj_t index, mp_map_lookup_kind_t kind) {
    uint16_t *guess = &guesses[((uintptr_t)index >> 3) % N_GUESSES];
    if (*guess < map->alloc && kind != MP_MAP_LOOKUP_REMOVE_IF_FOUND) {
        mp_map_elem_t *slot = &map->table[*guess];
        if (slot->key == index) {
            return slot;
        }
    }
    mp_map_elem_t *slot = upstream_mp_map_lookup(map, index, kind);
    if (slot && kind != MP_MAP_LOOKUP_REMOVE_IF_FOUND) {
        *guess = (uint16_t)(slot - map->table);
    }
    return slot;
}

// As mp_map_lookup(), of any key in a table that is not an array.
static MP_NOINLINE mp_map_elem_t *find(mp_map_t *map, mp_obj_t index, mp_map_lookup_kind_t kind) {
    bool add = kind == MP_MAP_LOOKUP_ADD_IF_NOT_FOUND;
    if (map->all_keys_are_qstrs && mp_obj_is_exact_type(index, &mp_type_str)) {
        // A text that is older than the qstr equal to it.
        size_t length;
        const char *text = mp_obj_str_get_data(index, &length);
        qstr known = qstr_find_strn(text, length);
        index = known == MP_QSTRnull ? index : MP_OBJ_NEW_QSTR(known);
    }
    if (!add && (map->alloc == 0 || (map->all_keys_are_qstrs && !mp_obj_is_qstr(index)))) {
        return NULL;
    }
    uint32_t hash = map->all_keys_are_qstrs && mp_obj_is_qstr(index) ? hash_of_qstr(index)
        : hash_of_value(index);
    if (map->all_keys_are_qstrs && !mp_obj_is_qstr(index)) {
        map->all_keys_are_qstrs = 0;
        if (map->used && !rehash(map)) {
            map->all_keys_are_qstrs = 1;
            m_malloc_fail(map->alloc * sizeof(mp_map_elem_t));
        }
    }
    // Among qstrs, a qstr is equal to itself only, and so are small integers among each other.
    bool identity = map->all_keys_are_qstrs;
    for (bool again = true;; again = false) {
        mp_map_elem_t *room = NULL;
        size_t steps = 0;
        for (size_t at = start(map, hash); steps < map->alloc; steps++) {
            mp_map_elem_t *slot = &map->table[at];
            if (slot->key == MP_OBJ_NULL) {
                room = room ? room : slot;
                break;
            }
            if (slot->key == MP_OBJ_SENTINEL) {
                room = room ? room : slot;
            } else if (slot->key == index
                || (!identity && !(mp_obj_is_small_int(index) && mp_obj_is_small_int(slot->key))
                    && mp_obj_equal(slot->key, index))) {
                if (kind == MP_MAP_LOOKUP_REMOVE_IF_FOUND) {
                    remove(map, at);
                }
                return slot;
            }
            at = next(map, at);
        }
        if (!add) {
            return NULL;
        }
        // A long search in a table that has room went over what was deleted.
        bool good = has_room(map) && (steps <= 2 * LEAST_ALLOC || steps * 2 <= map->alloc);
        if (room && (good || !again || !rehash(map))) {
            map->used++;
            room->key = index;
            room->value = MP_OBJ_NULL;
            return room;
        }
        if (!room && !rehash(map)) {
            m_malloc_fail(map->alloc * sizeof(mp_map_elem_t));
        }
    }
}

mp_map_elem_t *mp_map_lookup(mp_map_t *map, mp_obj_t index, mp_map_lookup_kind_t kind) {
    if (map->is_ordered) {
        return find_in_array(map, index, kind);
    }
    if (map->all_keys_are_qstrs && mp_obj_is_qstr(index) && kind != MP_MAP_LOOKUP_REMOVE_IF_FOUND) {
        mp_map_elem_t *slot = find_qstr(map, index);
        if (slot || kind == MP_MAP_LOOKUP) {
            return slot;
        }
    }
    return find(map, index, kind);
}

// A function in Python that `attr` is in a class of an object or in the bases that are Python's, if what
// the general search finds would be just that; MP_OBJ_NULL otherwise.
static mp_obj_t method_in_class(const mp_obj_type_t *type, qstr attr) {
    for (;;) {
        if (MP_OBJ_TYPE_HAS_SLOT(type, locals_dict)) {
            mp_map_elem_t *slot = mp_map_lookup(&MP_OBJ_TYPE_GET_SLOT(type, locals_dict)->map,
                MP_OBJ_NEW_QSTR(attr), MP_MAP_LOOKUP);
            if (slot) {
                if (!mp_obj_is_obj(slot->value)) {
                    return MP_OBJ_NULL;
                }
                uint16_t flags = ((mp_obj_base_t *)MP_OBJ_TO_PTR(slot->value))->type->flags;
                bool binds = (flags & MP_TYPE_FLAG_BINDS_SELF) && !(flags & MP_TYPE_FLAG_BUILTIN_FUN);
                return binds ? slot->value : MP_OBJ_NULL;
            }
        }
        const mp_obj_type_t *parent = MP_OBJ_TYPE_GET_SLOT_OR_NULL(type, parent);
        // Several bases are a tuple there.
        if (!parent || parent->base.type != &mp_type_type || !mp_obj_is_instance_type(parent)) {
            return MP_OBJ_NULL;
        }
        type = parent;
    }
}

void mp_load_method(mp_obj_t object, qstr attr, mp_obj_t *dest) {
    if (mp_obj_is_obj(object) && attr != MP_QSTR___class__ && attr != MP_QSTR___next__) {
        mp_obj_instance_t *self = MP_OBJ_TO_PTR(object);
        if (mp_obj_is_instance_type(self->base.type)) {
            mp_map_elem_t *slot = mp_map_lookup(&self->members, MP_OBJ_NEW_QSTR(attr), MP_MAP_LOOKUP);
            if (slot) {
                dest[0] = slot->value;
                dest[1] = MP_OBJ_NULL;
                return;
            }
            mp_obj_t method = method_in_class(self->base.type, attr);
            if (method != MP_OBJ_NULL) {
                dest[0] = method;
                dest[1] = object;
                return;
            }
        }
    }
    upstream_mp_load_method(object, attr, dest);
}
