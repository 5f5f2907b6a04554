// Included before py/objdict.c: renames the functions that dict_methods.c replaces. Only
// definitions and calls have a parenthesis behind the name, so upstream's tables of methods name
// the replacements. Nothing but those tables calls them.
#include "py/builtin.h"
#include "py/runtime.h"

mp_obj_t dict_popitem(mp_obj_t self);
mp_obj_t dict_update(size_t n_args, const mp_obj_t *args, mp_map_t *kwargs);
void dict_print(const mp_print_t *print, mp_obj_t self, mp_print_kind_t kind);
mp_obj_t dict_binary_op(mp_binary_op_t op, mp_obj_t left, mp_obj_t right);

mp_obj_t upstream_mp_obj_dict_copy(mp_obj_t self);
mp_obj_t upstream_mp_obj_dict_make_new(const mp_obj_type_t *type, size_t n_args, size_t n_kw,
    const mp_obj_t *args);

#define dict_popitem(self) __attribute__((unused)) upstream_dict_popitem(self)
#define dict_update(n_args, args, kwargs) upstream_dict_update(n_args, args, kwargs)
#define dict_print(print, self, kind) __attribute__((unused)) upstream_dict_print(print, self, kind)
#define dict_binary_op(op, left, right) upstream_dict_binary_op(op, left, right)
#define mp_obj_dict_copy(self) upstream_mp_obj_dict_copy(self)
#define mp_obj_dict_make_new(type, n_args, n_kw, args) \
    upstream_mp_obj_dict_make_new(type, n_args, n_kw, args)
