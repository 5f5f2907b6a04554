// Tables of the image's dictionaries (name_lookup.c), for the methods of `dict` (dict_methods.c).
#ifndef NAME_LOOKUP_H
#define NAME_LOOKUP_H

#include "py/obj.h"

// The entry that was added last, NULL for none. The table must not be fixed.
mp_map_elem_t *map_last(mp_map_t *map);

// Deletes the entry at `slot`; its value stays there for the caller.
void map_remove(mp_map_t *map, mp_map_elem_t *slot);

// Makes `to` a table of its own with the entries of `from`. Runs no Python.
void map_copy(mp_map_t *to, const mp_map_t *from);

#endif
