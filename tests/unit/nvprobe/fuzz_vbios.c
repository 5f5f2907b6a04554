// Feeds native/nvprobe/vbios.c damaged copies of the ROMs named as arguments, under the sanitizers
// that the test compiles it with. Each copy lies in memory of exactly its length.
//
//   fuzz_vbios COUNT ROM...     prints how many of the copies still named firmware
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "nvprobe.h"

static uint64_t state = 0x9e3779b97f4a7c15;

static uint32_t pick(uint32_t below) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (uint32_t)(state >> 32) % below;
}

static size_t load(const char *path, uint8_t **out) {
    FILE *file = fopen(path, "rb");
    if (!file || fseek(file, 0, SEEK_END) != 0) {
        perror(path);
        exit(2);
    }
    size_t bytes = ftell(file);
    rewind(file);
    *out = malloc(bytes);
    if (fread(*out, 1, bytes, file) != bytes) {
        perror(path);
        exit(2);
    }
    fclose(file);
    return bytes;
}

// Changes up to 8 bytes near others that are not 0: ROMs are mostly empty, and there is nothing to
// be broken there.
static void damage(uint8_t *rom, size_t bytes) {
    static const uint8_t values[] = {0, 1, 2, 3, 6, 12, 0x40, 0x7f, 0x80, 0xff};
    for (uint32_t changes = 1 + pick(8); changes != 0; changes--) {
        size_t at = pick(bytes);
        while (at < bytes && rom[at] == 0) {
            at++;
        }
        at += pick(3);
        at = at < bytes ? at : pick(bytes);
        rom[at] = pick(2) ? values[pick(sizeof(values))] : (uint8_t)pick(256);
    }
}

int main(int argc, char **argv) {
    unsigned long count = argc > 2 ? strtoul(argv[1], NULL, 10) : 0, named = 0;
    for (int i = 2; i < argc; i++) {
        uint8_t *good;
        size_t bytes = load(argv[i], &good);
        for (unsigned long turn = 0; turn < count; turn++) {
            size_t kept = pick(4) ? bytes : 1 + pick(bytes);
            uint8_t *rom = malloc(kept);
            memcpy(rom, good, kept);
            damage(rom, kept);
            struct nvprobe_vbios vbios;
            nvprobe_vbios(rom, kept, &vbios);
            for (unsigned ucode = 0; ucode < vbios.n_ucodes; ucode++) {
                const struct nvprobe_ucode *what = &vbios.ucode[ucode];
                // Reads what is reported: the sanitizer looks whether it is there.
                named += rom[what->code] <= 255 && rom[what->code + what->code_bytes - 1] <= 255;
            }
            free(rom);
        }
        free(good);
    }
    printf("%lu\n", named);
    return 0;
}
