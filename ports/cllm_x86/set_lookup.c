// Tables of sets that replace py/map.c's. Upstream's searches go wrong where __eq__ or __hash__ of
// a member changes the set: division by zero after clear(), writes to a freed table. As in
// name_lookup.c, values read before such a call are used after it only if the table is still the
// same.
//
// The number of slots is a power of two, and a table grows when three quarters are taken, so that
// a search for something absent ends soon.
#include <string.h>

#include "py/runtime.h"

#define LEAST_ALLOC 4
#define MOST_SEARCHES 64
#define NOWHERE SIZE_MAX

static size_t hash_of(mp_obj_t item) {
    return MP_OBJ_SMALL_INT_VALUE(mp_unary_op(MP_UNARY_OP_HASH, item));
}

// Small numbers stand in order, as in CPython. A multiplication spreads all else over 32 bits:
// runs of numbers, and addresses, whose low bits are zero.
static size_t first_slot(const mp_set_t *set, size_t hash) {
    return hash < set->alloc
        ? hash
        : ((uint64_t)hash * 0x9E3779B97F4A7C15u >> 32) * (uint64_t)set->alloc >> 32;
}

static size_t next_slot(const mp_set_t *set, size_t at) {
    return at + 1 == set->alloc ? 0 : at + 1;
}

// Slots for n items.
static size_t alloc_for(size_t n) {
    size_t alloc = LEAST_ALLOC;
    while (alloc < n || (alloc > LEAST_ALLOC && alloc * 3 < n * 4)) {
        alloc *= 2;
    }
    return alloc;
}

// Callers: set.copy(), with the slots of another set, and functions with n items to add.
void mp_set_init(mp_set_t *set, size_t n) {
    if (n > UINT32_MAX) {
        m_malloc_fail(SIZE_MAX);
    }
    set->alloc = n & (n - 1) ? alloc_for(n) : n;
    set->table = m_new0(mp_obj_t, set->alloc);
    set->used = 0;
}

void mp_set_clear(mp_set_t *set) {
    m_del(mp_obj_t, set->table, set->alloc);
    set->alloc = 0;
    set->used = 0;
    set->table = NULL;
}

// Adds an item that is not in the table, which has room.
static void insert(mp_set_t *set, mp_obj_t item, size_t hash) {
    size_t at = first_slot(set, hash);
    while (mp_set_slot_is_filled(set, at)) {
        at = next_slot(set, at);
    }
    set->table[at] = item;
    set->used++;
}

static bool is_same(const mp_set_t *set, const mp_set_t *before) {
    return set->table == before->table && set->alloc == before->alloc && set->used == before->used;
}

// Makes a new table with room for one more, without removed slots. False where __hash__ of an item
// changed the set.
static bool rehash(mp_set_t *set) {
    mp_set_t old = *set, grown, items;
    mp_set_init(&grown, alloc_for(set->used + 1));
    mp_set_init(&items, old.alloc);
    if (old.alloc) {
        memcpy(items.table, old.table, old.alloc * sizeof(mp_obj_t));
    }
    for (size_t i = 0; i < items.alloc; i++) {
        if (mp_set_slot_is_filled(&items, i)) {
            insert(&grown, items.table[i], hash_of(items.table[i]));
        }
    }
    bool same = is_same(set, &old)
        && (old.alloc == 0 || memcmp(items.table, old.table, old.alloc * sizeof(mp_obj_t)) == 0);
    if (same) {
        *set = grown;
        m_del(mp_obj_t, old.table, old.alloc);
    }
    m_del(mp_obj_t, items.table, items.alloc);
    return same;
}

static void remove_at(mp_set_t *set, size_t at) {
    set->used--;
    // A search ends at an empty slot.
    set->table[at] = set->table[next_slot(set, at)] == MP_OBJ_NULL ? MP_OBJ_NULL : MP_OBJ_SENTINEL;
}

// Finds the slot of the item, NOWHERE if it is absent. False where __eq__ changed the set. `steps`
// becomes the number of slots looked at.
static bool search(mp_set_t *set, mp_obj_t item, size_t hash, size_t *found, size_t *steps) {
    mp_set_t before = *set;
    *found = NOWHERE;
    size_t at = first_slot(&before, hash);
    for (*steps = 0; *steps < before.alloc; ++*steps) {
        mp_obj_t other = set->table[at];
        if (other == MP_OBJ_NULL) {
            return true;
        }
        if (other != MP_OBJ_SENTINEL) {
            bool equal = other == item || mp_obj_equal(other, item);
            if (!is_same(set, &before) || set->table[at] != other) {
                return false;
            }
            if (equal) {
                *found = at;
                return true;
            }
        }
        at = next_slot(&before, at);
    }
    return true;
}

// `kind` is a set of bits: remove the item if it is found, add it if not.
mp_obj_t mp_set_lookup(mp_set_t *set, mp_obj_t item, mp_map_lookup_kind_t kind) {
    bool add = kind & MP_MAP_LOOKUP_ADD_IF_NOT_FOUND;
    if (set->alloc == 0 && !add) {
        return MP_OBJ_NULL;
    }
    size_t hash = hash_of(item);
    for (int i = 0; i < MOST_SEARCHES; i++) {
        size_t at, steps;
        if (!search(set, item, hash, &at, &steps)) {
            continue;
        }
        if (at != NOWHERE) {
            mp_obj_t found = set->table[at];
            if (kind & MP_MAP_LOOKUP_REMOVE_IF_FOUND) {
                remove_at(set, at);
            }
            return found;
        }
        if (!add) {
            return MP_OBJ_NULL;
        }
        // A long search in a table that has room passed removed slots.
        bool full = set->alloc <= LEAST_ALLOC
            ? set->used == set->alloc
            : (set->used + 1) * 4 > set->alloc * 3 || steps > 8 + set->alloc / 2;
        if (full && !rehash(set)) {
            continue;
        }
        insert(set, item, hash);
        return item;
    }
    mp_raise_msg(&mp_type_RuntimeError, MP_ERROR_TEXT("set changed during look-up"));
}

mp_obj_t mp_set_remove_first(mp_set_t *set) {
    for (size_t at = 0; at < set->alloc; at++) {
        if (mp_set_slot_is_filled(set, at)) {
            mp_obj_t item = set->table[at];
            remove_at(set, at);
            return item;
        }
    }
    return MP_OBJ_NULL;
}
