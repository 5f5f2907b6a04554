// The `pci` module: argument conversion around native/pci.
//
//   devices() -> [(bdf, vendor, device, class24), ...]
//   read(bdf, offset, size) -> int       configuration space; size is 1, 2 or 4, offset below 4096
//   write(bdf, offset, size, value)
//   bar(bdf, n) -> (address, size, is_io), size 0 where the function has no such region
//   enable(bdf)                          memory, ports and bus mastering
//
// `bdf` is bus << 8 | device << 3 | function. Arguments out of range raise ValueError.
#include "py/runtime.h"

#include "pci.h"

static uint16_t get_bdf(mp_obj_t bdf_in) {
    mp_int_t bdf = mp_obj_get_int(bdf_in);
    if (bdf < 0 || bdf > 0xffff) {
        mp_raise_ValueError(MP_ERROR_TEXT("bdf outside 16 bits"));
    }
    return bdf;
}

static void check_access(mp_int_t offset, mp_int_t size) {
    if ((size != 1 && size != 2 && size != 4) || offset < 0 || offset > 4095 || offset % size) {
        mp_raise_ValueError(MP_ERROR_TEXT("no such configuration register"));
    }
}

static mp_obj_t pci_devices_py(void) {
    struct pci_function found[64];
    size_t count = pci_scan(found, MP_ARRAY_SIZE(found));
    mp_obj_t list = mp_obj_new_list(0, NULL);
    for (size_t i = 0; i < MIN(count, MP_ARRAY_SIZE(found)); i++) {
        mp_obj_t item[] = {
            MP_OBJ_NEW_SMALL_INT(found[i].bdf),
            MP_OBJ_NEW_SMALL_INT(found[i].vendor),
            MP_OBJ_NEW_SMALL_INT(found[i].device),
            MP_OBJ_NEW_SMALL_INT(found[i].class24),
        };
        mp_obj_list_append(list, mp_obj_new_tuple(MP_ARRAY_SIZE(item), item));
    }
    return list;
}
static MP_DEFINE_CONST_FUN_OBJ_0(pci_devices_obj, pci_devices_py);

static mp_obj_t pci_read_py(mp_obj_t bdf, mp_obj_t offset_in, mp_obj_t size_in) {
    mp_int_t offset = mp_obj_get_int(offset_in);
    mp_int_t size = mp_obj_get_int(size_in);
    check_access(offset, size);
    return mp_obj_new_int_from_uint(pci_read(get_bdf(bdf), offset, size));
}
static MP_DEFINE_CONST_FUN_OBJ_3(pci_read_obj, pci_read_py);

static mp_obj_t pci_write_py(size_t n_args, const mp_obj_t *args) {
    (void)n_args;
    mp_int_t offset = mp_obj_get_int(args[1]);
    mp_int_t size = mp_obj_get_int(args[2]);
    check_access(offset, size);
    pci_write(get_bdf(args[0]), offset, size, mp_obj_get_int_truncated(args[3]));
    return mp_const_none;
}
static MP_DEFINE_CONST_FUN_OBJ_VAR_BETWEEN(pci_write_obj, 4, 4, pci_write_py);

static mp_obj_t pci_bar_py(mp_obj_t bdf, mp_obj_t index_in) {
    mp_int_t index = mp_obj_get_int(index_in);
    if (index < 0 || index > 5) {
        mp_raise_ValueError(MP_ERROR_TEXT("region outside 0 to 5"));
    }
    struct pci_bar bar = {0};
    if (!pci_bar(get_bdf(bdf), index, &bar)) {
        bar = (struct pci_bar){0};
    }
    mp_obj_t item[] = {
        mp_obj_new_int_from_ull(bar.address),
        mp_obj_new_int_from_ull(bar.size),
        mp_obj_new_bool(bar.is_io),
    };
    return mp_obj_new_tuple(MP_ARRAY_SIZE(item), item);
}
static MP_DEFINE_CONST_FUN_OBJ_2(pci_bar_obj, pci_bar_py);

static mp_obj_t pci_enable_py(mp_obj_t bdf) {
    pci_enable(get_bdf(bdf));
    return mp_const_none;
}
static MP_DEFINE_CONST_FUN_OBJ_1(pci_enable_obj, pci_enable_py);

static const mp_rom_map_elem_t pci_globals_table[] = {
    {MP_ROM_QSTR(MP_QSTR___name__), MP_ROM_QSTR(MP_QSTR_pci)},
    {MP_ROM_QSTR(MP_QSTR_devices), MP_ROM_PTR(&pci_devices_obj)},
    {MP_ROM_QSTR(MP_QSTR_read), MP_ROM_PTR(&pci_read_obj)},
    {MP_ROM_QSTR(MP_QSTR_write), MP_ROM_PTR(&pci_write_obj)},
    {MP_ROM_QSTR(MP_QSTR_bar), MP_ROM_PTR(&pci_bar_obj)},
    {MP_ROM_QSTR(MP_QSTR_enable), MP_ROM_PTR(&pci_enable_obj)},
};
static MP_DEFINE_CONST_DICT(pci_globals, pci_globals_table);

const mp_obj_module_t pci_module = {
    .base = {&mp_type_module},
    .globals = (mp_obj_dict_t *)&pci_globals,
};

MP_REGISTER_MODULE(MP_QSTR_pci, pci_module);
