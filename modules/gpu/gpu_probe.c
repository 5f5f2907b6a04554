// probe(): what native/nvprobe finds on the PCI bus, one line a card.
#include <stdio.h>

#include "modgpu.h"
#include "nvprobe.h"

#define CARDS 16

// Writes one line about a card into `line`.
static void describe(const struct nvprobe_finding *card, char *line, size_t size) {
    char chip[64] = "a chip that does not answer";
    if (card->answered && card->chip.name) {
        snprintf(chip, sizeof(chip), "%s (%s, revision %02x)", card->chip.name,
            nvprobe_generation_name(card->chip.generation), card->chip.revision);
    } else if (card->answered) {
        snprintf(chip, sizeof(chip), "an unknown chip (%03x)", card->chip.id);
    }
    snprintf(line, size, "%02x:%02x.%u 10de:%04x: %s, BAR1 %llu MiB; no driver for bare metal",
        card->bdf >> 8, card->bdf >> 3 & 31, card->bdf & 7u, card->device, chip,
        (unsigned long long)(card->bar1 >> 20));
}

static mp_obj_t probe(void) {
    struct nvprobe_finding found[CARDS];
    size_t count = nvprobe_find(found, CARDS);
    vstr_t text;
    vstr_init(&text, 64);
    if (!count) {
        vstr_add_str(&text, "no card of NVIDIA's on the PCI bus");
    }
    for (size_t i = 0; i < MIN(count, CARDS); i++) {
        char line[160];
        describe(&found[i], line, sizeof(line));
        if (i) {
            vstr_add_byte(&text, '\n');
        }
        vstr_add_str(&text, line);
    }
    return mp_obj_new_str_from_vstr(&text);
}
MP_DEFINE_CONST_FUN_OBJ_0(gpu_probe_obj, probe);
