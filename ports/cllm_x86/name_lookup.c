// Tables of names and of everything else that a `dict` holds, and the look-up of methods, in place
// of py/map.c's and py/runtime.c's. Every name, attribute and method that Python mentions is a
// look-up; with upstream's, look-ups took half of the instructions of an HTTP request.
//
// Order. Entries stand in the order of insertion, as CPython's do: json.loads(), keyword arguments
// and the attributes of classes keep the order of their text. A deleted entry leaves a gap
// (MP_OBJ_SENTINEL) until the table needs room, so upstream's loops over table[0..alloc), which
// skip gaps, keep working while entries come and go.
//
// Search. A table of up to LEAST_ALLOC entries is searched from its beginning. A larger one has
// an index behind its entries, in the same allocation: for each hash, where its entry is. The
// index has two places for each entry, so searches are short even when the entries are full. That
// matters for absent keys: a method's name is first searched among the object's attributes.
// Deletion leaves the index alone: a place whose entry has another key by now only makes the
// search go on.
//
// Keys. While all keys of a table are interned strings (qstrs, which are numbers), as in nearly
// every table of names, these numbers are hashed and compared. The first key of another kind makes
// the table index itself anew.
//
// Python. __eq__ and __hash__ of keys may change the table that is being searched. Values read
// from a table before such a call are used after it only if the table is still the same; otherwise
// the search starts again, MOST_SEARCHES times at most.
//
// Methods. mp_load_method() finds a function of an object's class without the general search, which
// handles properties, descriptors, builtin base classes and __getattr__.
#include <string.h>

#include "py/objtype.h"
#include "py/runtime.h"
#include "name_lookup.h"

// map.c's own, for fixed arrays: modules and types in C, keyword arguments.
mp_map_elem_t *upstream_mp_map_lookup(mp_map_t *map, mp_obj_t index, mp_map_lookup_kind_t kind);
// runtime.c's own (see name_lookup.mk).
void upstream_mp_load_method(mp_obj_t object, qstr attr, mp_obj_t *dest);

// Where a name was found last, in any array: a guess, which comparing keys checks. qstrs are
// numbers from 0 up, so most have a place of their own.
#define N_GUESSES 8192
static uint16_t guesses[N_GUESSES];

#define LEAST_ALLOC 4
#define MOST_SEARCHES 64

// Behind the entries of a table of more than LEAST_ALLOC: this, then 2 * alloc places of 1, 2 or 4
// bytes, which hold 0 for none or 1 + the position of an entry.
typedef struct {
    uint32_t end;   // entries up to here are filled or gaps, the last is filled
    uint32_t spent; // places taken: as many as `end`, or more after the last entry was deleted
} index_t;

static inline size_t place_size(size_t alloc) {
    return alloc <= UINT8_MAX ? 1 : alloc <= UINT16_MAX ? 2 : 4;
}

static size_t table_size(size_t alloc) {
    size_t entries = alloc * sizeof(mp_map_elem_t);
    size_t index = sizeof(index_t) + 2 * alloc * place_size(alloc);
    return alloc <= LEAST_ALLOC ? entries : entries + index;
}

static mp_map_elem_t *new_table(size_t alloc) {
    if (alloc > UINT32_MAX / 2) {
        m_malloc_fail(SIZE_MAX);
    }
    return (mp_map_elem_t *)m_malloc0(table_size(alloc));
}

static inline index_t *index_of(const mp_map_t *map) {
    return (index_t *)(map->table + map->alloc);
}

static inline bool has_index(const mp_map_t *map) {
    return map->alloc > LEAST_ALLOC;
}

static inline size_t read_place(const index_t *index, size_t size, size_t at) {
    const void *places = index + 1;
    return size == 1 ? ((const uint8_t *)places)[at]
        : size == 2  ? ((const uint16_t *)places)[at]
                     : ((const uint32_t *)places)[at];
}

// Keys that are equal only to themselves among their kind.
static inline bool is_word(mp_obj_t key) {
    return mp_obj_is_small_int(key) || mp_obj_is_qstr(key);
}

// A multiplication spreads numbers, and addresses, whose low bits are zero, over 32 bits.
static inline uint32_t hash_of_qstr(mp_obj_t index) {
    return (uint32_t)((uintptr_t)index * 0x9E3779B97F4A7C15u >> 32);
}

// One hash for all kinds of keys, because 1 equals 1.0 and a string may be a qstr or not. Runs
// __hash__.
static uint32_t hash_of_value(mp_obj_t index) {
    uint64_t hash = mp_obj_is_qstr(index) ? qstr_hash(MP_OBJ_QSTR_VALUE(index))
        : mp_obj_is_small_int(index)
        ? (size_t)MP_OBJ_SMALL_INT_VALUE(index)
        : (size_t)MP_OBJ_SMALL_INT_VALUE(mp_unary_op(MP_UNARY_OP_HASH, index));
    return (uint32_t)(hash * 0x9E3779B97F4A7C15u >> 32);
}

// Where a search begins. Tables have any size, and emulators divide slowly.
static inline size_t first_place(size_t alloc, uint32_t hash) {
    return (uint64_t)hash * (2 * alloc) >> 32;
}

static inline size_t next_place(size_t alloc, size_t at) {
    return at + 1 == 2 * alloc ? 0 : at + 1;
}

static inline void take_place_of_size(index_t *index, size_t size, size_t alloc, uint32_t hash,
    size_t entry) {
    size_t at = first_place(alloc, hash);
    while (read_place(index, size, at)) {
        at = next_place(alloc, at);
    }
    void *places = index + 1;
    if (size == 1) {
        ((uint8_t *)places)[at] = (uint8_t)(entry + 1);
    } else if (size == 2) {
        ((uint16_t *)places)[at] = (uint16_t)(entry + 1);
    } else {
        ((uint32_t *)places)[at] = (uint32_t)(entry + 1);
    }
}

static inline void take_place(mp_map_t *map, uint32_t hash, size_t entry) {
    switch (place_size(map->alloc)) {
        case 1:
            take_place_of_size(index_of(map), 1, map->alloc, hash, entry);
            break;
        case 2:
            take_place_of_size(index_of(map), 2, map->alloc, hash, entry);
            break;
        default:
            take_place_of_size(index_of(map), 4, map->alloc, hash, entry);
    }
}

static inline bool has_room(const mp_map_t *map) {
    return has_index(map) ? index_of(map)->spent < map->alloc
                          : map->alloc && map->table[map->alloc - 1].key == MP_OBJ_NULL;
}

// Adds an entry to a table that has room and does not have this key.
static mp_map_elem_t *append(mp_map_t *map, mp_obj_t key, uint32_t hash) {
    size_t entry = 0;
    if (has_index(map)) {
        index_t *index = index_of(map);
        entry = index->end++;
        index->spent++;
        take_place(map, hash, entry);
    } else {
        while (map->table[entry].key != MP_OBJ_NULL) {
            entry++;
        }
    }
    map->used++;
    mp_map_elem_t *slot = &map->table[entry];
    slot->key = key;
    slot->value = MP_OBJ_NULL;
    return slot;
}

// Moves the filled entries of `map` to `table`, which may be its own; returns how many.
static size_t pack(mp_map_elem_t *table, const mp_map_t *map) {
    if (map->used == map->alloc) {
        memmove(table, map->table, map->alloc * sizeof(mp_map_elem_t));
        return map->alloc;
    }
    size_t n = 0;
    for (size_t i = 0; i < map->alloc; i++) {
        if (mp_map_slot_is_filled(map, i)) {
            table[n++] = map->table[i];
        }
    }
    return n;
}

static void close_gaps(mp_map_t *map) {
    size_t n = pack(map->table, map);
    memset(map->table + n, 0, (map->alloc - n) * sizeof(mp_map_elem_t));
}

// Makes the index anew from entries whose hashes need no Python.
static void make_index(mp_map_t *map) {
    index_t *index = index_of(map);
    memset(index, 0, table_size(map->alloc) - map->alloc * sizeof(mp_map_elem_t));
    for (size_t i = 0; i < map->alloc && map->table[i].key != MP_OBJ_NULL; i++) {
        if (map->table[i].key != MP_OBJ_SENTINEL) {
            mp_obj_t key = map->table[i].key;
            take_place(map, map->all_keys_are_qstrs ? hash_of_qstr(key) : hash_of_value(key), i);
        }
        index->end = (uint32_t)i + 1;
    }
    index->spent = index->end;
}

// Whether the hash of every key needs no Python.
static bool has_plain_keys(const mp_map_t *map) {
    if (map->all_keys_are_qstrs) {
        return true;
    }
    for (size_t i = 0; i < map->alloc; i++) {
        mp_obj_t key = map->table[i].key;
        if (key != MP_OBJ_NULL && key != MP_OBJ_SENTINEL && !is_word(key)
            && !mp_obj_is_exact_type(key, &mp_type_str)) {
            return false;
        }
    }
    return true;
}

// Copies from `old` the values of the keys that `map` took from it; false where its keys have
// changed.
static bool take_values(mp_map_t *map, const mp_map_t *old) {
    size_t n = 0;
    for (size_t i = 0; i < old->alloc; i++) {
        if (mp_map_slot_is_filled(old, i)) {
            if (n == map->used || map->table[n].key != old->table[i].key) {
                return false;
            }
            map->table[n++].value = old->table[i].value;
        }
    }
    return n == map->used;
}

// Makes room for one more and drops the gaps. False where __hash__ of a key changed the table.
static bool make_room(mp_map_t *map) {
    if (!has_index(map) && map->used < map->alloc) {
        close_gaps(map);
        return true;
    }
    size_t alloc = LEAST_ALLOC;
    // A quarter stays free: else a table that is full except for one gap would be copied for each
    // new entry.
    while (alloc < map->used + 1 || (alloc > LEAST_ALLOC && alloc * 3 < (map->used + 1) * 4)) {
        alloc *= 2;
    }
    bool plain = has_plain_keys(map);
    if (plain && alloc == map->alloc) {
        close_gaps(map);
        make_index(map);
        return true;
    }
    mp_map_t old = *map, grown = *map;
    grown.table = new_table(alloc);
    grown.alloc = alloc;
    // The collector may have run finalisers.
    if (map->table != old.table || map->alloc != old.alloc || map->used != old.used) {
        return false;
    }
    if (plain) {
        pack(grown.table, map);
        if (has_index(&grown)) {
            make_index(&grown);
        }
        *map = grown;
        m_del(byte, (byte *)old.table, table_size(old.alloc));
        return true;
    }
    grown.used = 0;
    for (size_t i = 0; i < old.alloc && map->table == old.table && map->alloc == old.alloc; i++) {
        if (mp_map_slot_is_filled(&old, i)) {
            mp_obj_t key = old.table[i].key;
            uint32_t hash = hash_of_value(key);
            if (grown.used == old.used) {
                break; // the table has grown
            }
            append(&grown, key, hash);
        }
    }
    if (map->table != old.table || map->alloc != old.alloc || map->used != grown.used
        || map->all_keys_are_qstrs != grown.all_keys_are_qstrs || !take_values(&grown, &old)) {
        return false;
    }
    *map = grown;
    m_del(byte, (byte *)old.table, table_size(old.alloc));
    return true;
}

void map_remove(mp_map_t *map, mp_map_elem_t *slot) {
    map->used--;
    slot->key = MP_OBJ_SENTINEL;
    size_t end = has_index(map) ? index_of(map)->end : map->alloc;
    if (!has_index(map)) {
        while (map->table[end - 1].key == MP_OBJ_NULL) {
            end--;
        }
    }
    // No gaps behind the last entry, so popitem() finds it at once.
    while (end && map->table[end - 1].key == MP_OBJ_SENTINEL) {
        map->table[--end].key = MP_OBJ_NULL;
    }
    if (has_index(map)) {
        index_of(map)->end = (uint32_t)end;
    }
}

mp_map_elem_t *map_last(mp_map_t *map) {
    size_t end = has_index(map) ? index_of(map)->end : map->alloc;
    while (end && !mp_map_slot_is_filled(map, end - 1)) {
        end--;
    }
    return end ? &map->table[end - 1] : NULL;
}

void map_copy(mp_map_t *to, const mp_map_t *from) {
    mp_map_init(to, from->is_ordered ? from->used : from->alloc);
    if (from->is_ordered) { // an array, without an index
        for (size_t i = 0; i < from->used; i++) {
            mp_map_lookup(to, from->table[i].key, MP_MAP_LOOKUP_ADD_IF_NOT_FOUND)->value =
                from->table[i].value;
        }
    } else if (from->alloc) {
        memcpy(to->table, from->table, table_size(from->alloc));
        to->used = from->used;
        to->all_keys_are_qstrs = from->all_keys_are_qstrs;
    }
}

void mp_map_init(mp_map_t *map, size_t n) {
    map->table = n ? new_table(n) : NULL;
    map->alloc = n;
    map->used = 0;
    map->all_keys_are_qstrs = 1;
    map->is_fixed = 0;
    map->is_ordered = 0;
}

void mp_map_deinit(mp_map_t *map) {
    if (!map->is_fixed) {
        m_del(byte, (byte *)map->table, table_size(map->alloc));
    }
    map->used = map->alloc = 0;
}

void mp_map_clear(mp_map_t *map) {
    mp_map_deinit(map);
    map->all_keys_are_qstrs = 1;
    map->is_fixed = 0;
    map->table = NULL;
}

static inline mp_map_elem_t *find_qstr_by_index(const mp_map_t *map, mp_obj_t key, size_t size) {
    const index_t *index = index_of(map);
    size_t at = first_place(map->alloc, hash_of_qstr(key)), place;
    while ((place = read_place(index, size, at))) {
        mp_map_elem_t *slot = &map->table[place - 1];
        if (slot->key == key) {
            return slot;
        }
        at = next_place(map->alloc, at);
    }
    return NULL;
}

static MP_NOINLINE mp_map_elem_t *find_in_array(mp_map_t *map, mp_obj_t index,
    mp_map_lookup_kind_t kind) {
    if (!map->is_fixed) {
        // namedtuple._asdict() marks its new dictionary as an array, like upstream's OrderedDict.
        map->is_ordered = 0;
        return mp_map_lookup(map, index, kind);
    }
    uint16_t *guess = &guesses[((uintptr_t)index >> 3) % N_GUESSES];
    if (*guess < map->alloc) {
        mp_map_elem_t *slot = &map->table[*guess];
        if (slot->key == index) {
            return slot;
        }
    }
    mp_map_elem_t *slot = upstream_mp_map_lookup(map, index, kind);
    if (slot) {
        *guess = (uint16_t)(slot - map->table);
    }
    return slot;
}

typedef enum { FOUND, MISSING, CHANGED } outcome_t;

// Searches any key in a table that is not an array: from its beginning with `size` 0, else by an
// index with places of `size` bytes. Runs __eq__.
static inline __attribute__((always_inline)) outcome_t search_by(mp_map_t *map, mp_obj_t index,
    uint32_t hash, size_t size, mp_map_elem_t **found) {
    mp_map_elem_t *table = map->table;
    size_t alloc = map->alloc;
    const index_t *places = index_of(map);
    // A qstr equals no other qstr.
    bool identity = map->all_keys_are_qstrs, word = is_word(index);
    size_t at = size ? first_place(alloc, hash) : 0;
    for (;; at = size ? next_place(alloc, at) : at + 1) {
        size_t place = size ? read_place(places, size, at) : at < alloc ? at + 1 : 0;
        if (!place) {
            return MISSING;
        }
        mp_map_elem_t *slot = &table[place - 1];
        mp_obj_t key = slot->key;
        if (key == index) {
            *found = slot;
            return FOUND;
        }
        if (identity || (word && is_word(key)) || key == MP_OBJ_NULL || key == MP_OBJ_SENTINEL) {
            continue;
        }
        bool equal = mp_obj_equal(key, index);
        if (map->table != table || map->alloc != alloc || map->all_keys_are_qstrs
            || slot->key != key) {
            return CHANGED;
        }
        if (equal) {
            *found = slot;
            return FOUND;
        }
    }
}

static outcome_t search(mp_map_t *map, mp_obj_t index, uint32_t hash, mp_map_elem_t **found) {
    if (!has_index(map)) {
        return search_by(map, index, hash, 0, found);
    }
    switch (place_size(map->alloc)) {
        case 1:
            return search_by(map, index, hash, 1, found);
        case 2:
            return search_by(map, index, hash, 2, found);
        default:
            return search_by(map, index, hash, 4, found);
    }
}

// As mp_map_lookup(), of any key in a table that is not an array.
static MP_NOINLINE mp_map_elem_t *find(mp_map_t *map, mp_obj_t index, mp_map_lookup_kind_t kind) {
    bool add = kind == MP_MAP_LOOKUP_ADD_IF_NOT_FOUND;
    if (map->all_keys_are_qstrs && mp_obj_is_exact_type(index, &mp_type_str)) {
        // A string object that is older than its equal qstr.
        size_t length;
        const char *text = mp_obj_str_get_data(index, &length);
        qstr known = qstr_find_strn(text, length);
        index = known == MP_QSTRnull ? index : MP_OBJ_NEW_QSTR(known);
    }
    bool is_qstr = mp_obj_is_qstr(index);
    if (!add && (map->alloc == 0 || (map->all_keys_are_qstrs && !is_qstr))) {
        return NULL;
    }
    uint32_t value_hash = is_qstr ? 0 : hash_of_value(index);
    for (int i = 0; i < MOST_SEARCHES; i++) {
        if (map->all_keys_are_qstrs && !is_qstr) {
            if (!add) {
                return NULL;
            }
            // The first key that is no qstr: from here on, hashes are those of values.
            map->all_keys_are_qstrs = 0;
            if (has_index(map)) {
                make_index(map);
            }
        }
        uint32_t hash = !is_qstr      ? value_hash
            : map->all_keys_are_qstrs ? hash_of_qstr(index)
                                      : hash_of_value(index);
        mp_map_elem_t *slot;
        outcome_t outcome = search(map, index, hash, &slot);
        if (outcome == FOUND) {
            if (kind == MP_MAP_LOOKUP_REMOVE_IF_FOUND) {
                map_remove(map, slot);
            }
            return slot;
        }
        if (outcome == MISSING) {
            if (!add) {
                return NULL;
            }
            if (has_room(map) || make_room(map)) {
                return append(map, index, hash);
            }
        }
    }
    mp_raise_msg(&mp_type_RuntimeError, MP_ERROR_TEXT("dict changed during look-up"));
}

static MP_NOINLINE mp_map_elem_t *add_qstr(mp_map_t *map, mp_obj_t key) {
    if (!has_room(map) && !make_room(map)) {
        return find(map, key, MP_MAP_LOOKUP_ADD_IF_NOT_FOUND);
    }
    return append(map, key, hash_of_qstr(key));
}

static MP_NOINLINE mp_map_elem_t *find_qstr_in_large(mp_map_t *map, mp_obj_t key,
    mp_map_lookup_kind_t kind) {
    mp_map_elem_t *slot = place_size(map->alloc) == 2 ? find_qstr_by_index(map, key, 2)
                                                      : find_qstr_by_index(map, key, 4);
    return slot || kind == MP_MAP_LOOKUP ? slot : add_qstr(map, key);
}

// Every call here is a tail call, so the common paths need no stack.
mp_map_elem_t *mp_map_lookup(mp_map_t *map, mp_obj_t index, mp_map_lookup_kind_t kind) {
    if (map->is_ordered) {
        return find_in_array(map, index, kind);
    }
    if (!map->all_keys_are_qstrs || !mp_obj_is_qstr(index)
        || kind == MP_MAP_LOOKUP_REMOVE_IF_FOUND) {
        return find(map, index, kind);
    }
    mp_map_elem_t *slot;
    if (!has_index(map)) {
        mp_map_elem_t *end = map->table + map->alloc;
        for (slot = map->table; slot < end; slot++) {
            if (slot->key == index) {
                return slot;
            }
        }
    } else if (place_size(map->alloc) != 1) {
        return find_qstr_in_large(map, index, kind);
    } else if ((slot = find_qstr_by_index(map, index, 1))) {
        return slot;
    }
    return kind == MP_MAP_LOOKUP ? NULL : add_qstr(map, index);
}

// The Python function `attr` of an object's class or of its Python bases, if the general search
// would find the same; MP_OBJ_NULL otherwise.
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
                bool binds =
                    (flags & MP_TYPE_FLAG_BINDS_SELF) && !(flags & MP_TYPE_FLAG_BUILTIN_FUN);
                return binds ? slot->value : MP_OBJ_NULL;
            }
        }
        const mp_obj_type_t *parent = MP_OBJ_TYPE_GET_SLOT_OR_NULL(type, parent);
        // With several bases, it is a tuple.
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
            mp_map_elem_t *slot =
                mp_map_lookup(&self->members, MP_OBJ_NEW_QSTR(attr), MP_MAP_LOOKUP);
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
