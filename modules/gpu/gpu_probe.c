// probe(): what native/nvprobe finds on the PCI bus, a dict for each card.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "modgpu.h"
#include "nvprobe.h"

#define CARDS 16

static void store(mp_obj_t dict, qstr key, mp_obj_t value) {
    mp_obj_dict_store(dict, MP_OBJ_NEW_QSTR(key), value);
}

static void store_text(mp_obj_t dict, qstr key, const char *text) {
    store(dict, key, text ? mp_obj_new_str(text, strlen(text)) : mp_const_none);
}

static void store_chip(mp_obj_t dict, const struct nvprobe_finding *card) {
    char number[8];
    const char *name = card->answered ? card->chip.name : NULL;
    if (card->answered && !name) {
        snprintf(number, sizeof(number), "%03x", card->chip.id);
        name = number;
    }
    store_text(dict, MP_QSTR_chip, name);
    bool known = card->answered && card->chip.generation != NVPROBE_UNKNOWN;
    store_text(dict, MP_QSTR_generation,
        known ? nvprobe_generation_name(card->chip.generation) : NULL);
    store(dict, MP_QSTR_revision,
        card->answered ? MP_OBJ_NEW_SMALL_INT(card->chip.revision) : mp_const_none);
}

static void store_regions(mp_obj_t dict, const struct nvprobe_finding *card) {
    store(dict, MP_QSTR_bar0, mp_obj_new_int_from_ull(card->bar0));
    store(dict, MP_QSTR_bar1, mp_obj_new_int_from_ull(card->bar1));
    store(dict, MP_QSTR_bar3, mp_obj_new_int_from_ull(card->bar3));
    mp_obj_t sizes = mp_obj_new_list(0, NULL);
    for (unsigned bit = 0; bit < 44; bit++) {
        if (card->bar1_sizes >> bit & 1) {
            mp_obj_list_append(sizes, mp_obj_new_int_from_ull(UINT64_C(1) << (20 + bit)));
        }
    }
    store(dict, MP_QSTR_bar1_sizes, sizes);
}

// The video BIOS is read into memory of C, which is freed before anything of Python's is made: a
// MemoryError would leave it.
static void store_bios(mp_obj_t dict, const struct nvprobe_finding *card) {
    static struct nvprobe_vbios vbios;
    memset(&vbios, 0, sizeof(vbios));
    uint8_t *rom = card->answered ? malloc(NVPROBE_ROM_MAX) : NULL;
    if (rom) {
        size_t size = nvprobe_read_rom(card, rom, NVPROBE_ROM_MAX);
        nvprobe_vbios(rom, size, &vbios);
        free(rom);
    }
    char version[16];
    const uint8_t *v = vbios.version;
    snprintf(version, sizeof(version), "%02x.%02x.%02x.%02x.%02x", v[0], v[1], v[2], v[3], v[4]);
    store_text(dict, MP_QSTR_bios, vbios.has_version ? version : NULL);
    const struct nvprobe_ucode *fwsec = nvprobe_fwsec(&vbios);
    store(dict, MP_QSTR_fwsec, fwsec ? MP_OBJ_NEW_SMALL_INT(fwsec->version) : mp_const_none);
}

static mp_obj_t probe(void) {
    struct nvprobe_finding found[CARDS];
    size_t count = nvprobe_find(found, CARDS);
    mp_obj_t list = mp_obj_new_list(0, NULL);
    for (size_t i = 0; i < MIN(count, CARDS); i++) {
        char bdf[16];
        snprintf(bdf, sizeof(bdf), "%02x:%02x.%u", found[i].bdf >> 8, found[i].bdf >> 3 & 31,
            found[i].bdf & 7u);
        mp_obj_t dict = mp_obj_new_dict(10);
        store_text(dict, MP_QSTR_bdf, bdf);
        store(dict, MP_QSTR_device, MP_OBJ_NEW_SMALL_INT(found[i].device));
        store_chip(dict, &found[i]);
        store_regions(dict, &found[i]);
        store_bios(dict, &found[i]);
        store(dict, MP_QSTR_driver, mp_const_none);
        mp_obj_list_append(list, dict);
    }
    return list;
}
MP_DEFINE_CONST_FUN_OBJ_0(gpu_probe_obj, probe);
