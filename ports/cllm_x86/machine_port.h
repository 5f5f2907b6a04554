// machine.inb() and the other port functions, as entries of the machine module's table.
#ifndef CLLM_MACHINE_PORT_H
#define CLLM_MACHINE_PORT_H

#include "py/obj.h"

extern const mp_obj_fun_builtin_fixed_t machine_inb_obj, machine_inw_obj, machine_inl_obj,
    machine_outb_obj, machine_outw_obj, machine_outl_obj;

#define MACHINE_PORT_GLOBALS \
    {MP_ROM_QSTR(MP_QSTR_inb), MP_ROM_PTR(&machine_inb_obj)}, \
        {MP_ROM_QSTR(MP_QSTR_inw), MP_ROM_PTR(&machine_inw_obj)}, \
        {MP_ROM_QSTR(MP_QSTR_inl), MP_ROM_PTR(&machine_inl_obj)}, \
        {MP_ROM_QSTR(MP_QSTR_outb), MP_ROM_PTR(&machine_outb_obj)}, \
        {MP_ROM_QSTR(MP_QSTR_outw), MP_ROM_PTR(&machine_outw_obj)}, \
        {MP_ROM_QSTR(MP_QSTR_outl), MP_ROM_PTR(&machine_outl_obj)},

#endif
