// Lookups in hash tables, in place of py/map.c's (MICROPY_WRAP_MP_MAP_LOOKUP): every name, attribute
// and method that Python mentions is one. Upstream's tables fill up completely before they grow, by a
// quarter or so, which saves the memory of a microcontroller; but a method's name is looked for in
// vain among the object's attributes first, and in a full table that is a search of all of it. A third
// of the instructions of an HTTP request went there. Here tables grow at three quarters, to powers of
// two, names remember where they were found last, each for itself, and what was deleted does not
// lengthen searches for ever. A small table is searched from its beginning, so its order is that of
// insertion, which upstream's tests of select expect.
#include <string.h>

#include "py/runtime.h"

// map.c's own, for tables that are arrays in order: modules and types in C, keyword arguments,
// collections.OrderedDict.
mp_map_elem_t *upstream_mp_map_lookup(mp_map_t *map, mp_obj_t index, mp_map_lookup_kind_t kind);

// Where an index was found last in whatever map: a guess, checked by comparing keys. qstrs are numbers
// from 0 up, so that most have a place for themselves.
#define N_GUESSES 8192
static uint16_t guesses[N_GUESSES];

#define GUESS(index) (guesses[((uintptr_t)(index) >> 3) % N_GUESSES])

#define LEAST_ALLOC 4

static size_t hash_of(mp_obj_t index) {
    size_t hash = mp_obj_is_qstr(index) ? qstr_hash(MP_OBJ_QSTR_VALUE(index))
        : mp_obj_is_small_int(index) ? (size_t)MP_OBJ_SMALL_INT_VALUE(index)
        : (size_t)MP_OBJ_SMALL_INT_VALUE(mp_unary_op(MP_UNARY_OP_HASH, index));
    // Addresses have no low bits, and addresses of hosts no high ones. The same for all kinds: 1 is equal
    // to 1.0, and a text may be a qstr or not.
    return hash * 0x9E3779B97F4A7C15u >> 32;
}

// mp_map_init() and is_fixed tables have any size, tables that grew a power of two: a division is a
// slow thing in an emulator.
static inline size_t wrapped(const mp_map_t *map, size_t n) {
    size_t alloc = map->alloc;
    return alloc & (alloc - 1) ? n % alloc : n & (alloc - 1);
}

// Where a search begins.
static inline size_t start(const mp_map_t *map, size_t hash) {
    return map->alloc <= LEAST_ALLOC ? 0 : wrapped(map, hash);
}

// mp_map_init() makes tables of the size that is asked for, to be filled up; those that grew keep room.
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
            size_t at = start(map, hash_of(old.table[i].key));
            while (table[at].key != MP_OBJ_NULL) {
                at = wrapped(map, at + 1);
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
    if (map->table[wrapped(map, at + 1)].key == MP_OBJ_NULL) {
        // No search goes on behind here, so none has to come this far.
        while (map->table[at].key == MP_OBJ_SENTINEL) {
            map->table[at].key = MP_OBJ_NULL;
            at = wrapped(map, at + map->alloc - 1);
        }
    }
}

mp_map_elem_t *mp_map_lookup(mp_map_t *map, mp_obj_t index, mp_map_lookup_kind_t kind) {
    uint16_t *guess = &GUESS(index);
    if (*guess < map->alloc && kind != MP_MAP_LOOKUP_REMOVE_IF_FOUND) {
        mp_map_elem_t *slot = &map->table[*guess];
        if (slot->key == index) {
            return slot;
        }
    }
    if (map->is_ordered) {
        mp_map_elem_t *slot = upstream_mp_map_lookup(map, index, kind);
        if (slot && kind != MP_MAP_LOOKUP_REMOVE_IF_FOUND) {
            *guess = (uint16_t)(slot - map->table);
        }
        return slot;
    }

    // Among qstrs, a qstr is equal to itself only.
    bool identity = map->all_keys_are_qstrs;
    if (identity && !mp_obj_is_qstr(index)) {
        if (mp_obj_is_exact_type(index, &mp_type_str)) {
            identity = false;
        } else if (kind != MP_MAP_LOOKUP_ADD_IF_NOT_FOUND) {
            return NULL;
        }
    }
    if (map->alloc == 0 && kind != MP_MAP_LOOKUP_ADD_IF_NOT_FOUND) {
        return NULL;
    }
    size_t hash = hash_of(index);
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
                } else {
                    *guess = (uint16_t)at;
                }
                return slot;
            }
            at = wrapped(map, at + 1);
        }
        if (kind != MP_MAP_LOOKUP_ADD_IF_NOT_FOUND) {
            return NULL;
        }
        // A long search in a table that has room went over what was deleted.
        bool good = has_room(map) && (steps <= 2 * LEAST_ALLOC || steps * 2 <= map->alloc);
        if (room && (good || !again || !rehash(map))) {
            map->used++;
            room->key = index;
            room->value = MP_OBJ_NULL;
            if (!mp_obj_is_qstr(index)) {
                map->all_keys_are_qstrs = 0;
            }
            return room;
        }
        if (!room && !rehash(map)) {
            m_malloc_fail(map->alloc * sizeof(mp_map_elem_t));
        }
    }
}
