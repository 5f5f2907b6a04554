// os.urandom() and the release of os.uname() for this port; extmod/modos.c includes this file.
#include <string.h> // os.uname() of extmod/modos.c needs it

#include "py/objstr.h"

static const char *mp_os_uname_release(void) {
    return CLLM_VERSION; // as upstream documents it: the version of the underlying system
}

static mp_obj_t mp_os_urandom(mp_obj_t num) {
    mp_int_t n = mp_obj_get_int(num);
    if (n < 0) {
        mp_raise_ValueError(NULL);
    }
    vstr_t vstr;
    vstr_init_len(&vstr, n);
    cpu_random(vstr.buf, n);
    return mp_obj_new_bytes_from_vstr(&vstr);
}
static MP_DEFINE_CONST_FUN_OBJ_1(mp_os_urandom_obj, mp_os_urandom);
