// What other modules take from `_jsonio`.
#ifndef CLLM_MODJSONIO_H
#define CLLM_MODJSONIO_H

#include "py/obj.h"

// JSON text of a value, bytes: _jsonio.write() to the end. Raises as it does.
mp_obj_t jsonio_text(mp_obj_t value, bool wide);

#endif
