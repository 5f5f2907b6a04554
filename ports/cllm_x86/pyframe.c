// The Python line that a running bytecode interpreter is at, for backtraces. Runs in fault
// handlers: no libc, general registers only, and every pointer is looked up before it is followed,
// because the heap may be what is broken.
#include "py/bc.h"
#include "py/objfun.h"
#include "py/objgenerator.h"
#include "py/qstr.h"
#include "py/runtime.h"
#include "pyframe.h"

static bool readable(const void *p, size_t n) {
    return memory_readable((uint64_t)p, n);
}

static const char *name(qstr q, size_t *len) {
    if (q >= QSTR_TOTAL()) {
        return NULL;
    }
    const char *s = (const char *)qstr_data(q, len);
    return readable(s, *len + 1) ? s : NULL;
}

static bool describe(uint64_t address, char *line, size_t size) {
    const mp_code_state_t *state = (const mp_code_state_t *)address;
    if ((address & 7) || !readable(state, sizeof(*state))) {
        return false;
    }
    const mp_obj_fun_bc_t *fun = state->fun_bc;
    if (((uint64_t)fun & 7) || !readable(fun, sizeof(*fun))
        || !readable(fun->context, sizeof(*fun->context)) || !readable(fun->bytecode, 16)) {
        return false;
    }
    const byte *ip = fun->bytecode;
    MP_BC_PRELUDE_SIG_DECODE(ip);
    MP_BC_PRELUDE_SIZE_DECODE(ip);
    const byte *line_info_top = ip + n_info;
    const byte *code = line_info_top + n_cell;
    if (n_info > 0x10000 || n_cell > 0x10000 || !readable(ip, n_info + n_cell + 1)
        || state->ip < code) {
        return false;
    }
    qstr function = mp_decode_uint_value(ip);
    for (size_t i = 0; i < 1 + n_pos_args + n_kwonly_args && ip < line_info_top; i++) {
        ip = mp_decode_uint_skip(ip);
    }
    const qstr_short_t *table = fun->context->constants.qstr_table;
    if (!readable(table, (function + 1) * sizeof(*table))) {
        return false;
    }
    size_t len;
    const char *file_name = name(table[0], &len), *function_name = name(table[function], &len);
    if (!file_name || !function_name) {
        return false;
    }
    size_t number = mp_bytecode_get_source_line(ip, line_info_top, (size_t)(state->ip - code));
    ksnprintf(line, size, "python %s:%lu in %s", file_name, number, function_name);
    return true;
}

bool pyframe_describe(uint64_t frame_pointer, char *line, size_t size) {
    const uint64_t *code_state = (const uint64_t *)frame_pointer - 1; // vm_entry.S puts it there
    if (readable(code_state, sizeof(*code_state)) && describe(*code_state, line, size)) {
        return true;
    }
    ksnprintf(line, size, "python ?");
    return false;
}
