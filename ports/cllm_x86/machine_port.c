// Port I/O for Python: machine.inb(port) -> int, machine.outb(port, value), the same with w for 16
// and l for 32 bits. outX() writes the low bits of its value. ValueError for a port outside 0 to
// 65535.
#include "py/runtime.h"
#include "machine_port.h"

static uint16_t get_port(mp_obj_t port_in) {
    mp_int_t port = mp_obj_get_int(port_in);
    if (port < 0 || port > 0xFFFF) {
        mp_raise_ValueError(MP_ERROR_TEXT("port outside 0 to 65535"));
    }
    return (uint16_t)port;
}

#define DEFINE_PORT_IO(suffix, type) \
    static mp_obj_t machine_in##suffix(mp_obj_t port) { \
        type value; \
        __asm__ volatile("in" #suffix " %1, %0" : "=a"(value) : "Nd"(get_port(port))); \
        return MP_OBJ_NEW_SMALL_INT(value); \
    } \
    MP_DEFINE_CONST_FUN_OBJ_1(machine_in##suffix##_obj, machine_in##suffix); \
    static mp_obj_t machine_out##suffix(mp_obj_t port, mp_obj_t value) { \
        type low = (type)mp_obj_get_int_truncated(value); \
        __asm__ volatile("out" #suffix " %0, %1" ::"a"(low), "Nd"(get_port(port))); \
        return mp_const_none; \
    } \
    MP_DEFINE_CONST_FUN_OBJ_2(machine_out##suffix##_obj, machine_out##suffix)

DEFINE_PORT_IO(b, uint8_t);
DEFINE_PORT_IO(w, uint16_t);
DEFINE_PORT_IO(l, uint32_t);
