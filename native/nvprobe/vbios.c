// Takes a video BIOS apart: see nvprobe.h. Every read is checked against the ROM's length, because
// a ROM may be damaged and tests feed garbage.
//
// Layouts: PCI Firmware Specification 3.0, section 5.1 (images); NVIDIA's BIOS Information Table;
// open-gpu-kernel-modules, kernel_gsp_fwsec.c (falcon data).
#include "nvprobe.h"

#include <string.h>

enum {
    BLOCK = 512, // images are multiples of it

    SIGNATURE_PC = 0xaa55,
    SIGNATURE_FWSEC = 0x4e56,
    SIGNATURE_OTHER = 0xbb77,
    PCIR_POINTER = 0x18,
    PCIR_BYTES = 0x18,
    NPDE_BYTES = 0x0b,
    CODE_NBSI = 0x70, // nothing follows it

    BIT_ID = 0xb8ff,
    BIT_HEADER = 12,
    TOKEN_BYTES = 6,
    TOKEN_BIOSDATA = 'B',
    TOKEN_FALCON = 'p',

    TABLE_HEADER = 6,
    TABLE_ENTRY = 6,
    DESCRIPTOR_2 = 60,
    DESCRIPTOR_3 = 44,
    SIGNATURE_BYTES = 384,

    FWSEC_DEBUG = 0x45,
    FWSEC = 0x85,
};

struct rom {
    const uint8_t *at;
    size_t bytes;
};

static bool holds(const struct rom *rom, uint64_t start, uint64_t bytes) {
    return start <= rom->bytes && bytes <= rom->bytes - start;
}

static uint32_t get8(const struct rom *rom, uint64_t at) {
    return holds(rom, at, 1) ? rom->at[at] : 0;
}

static uint32_t get16(const struct rom *rom, uint64_t at) {
    return get8(rom, at) | get8(rom, at + 1) << 8;
}

static uint32_t get32(const struct rom *rom, uint64_t at) {
    return get16(rom, at) | get16(rom, at + 2) << 16;
}

static bool matches(const struct rom *rom, uint64_t at, const char text[4]) {
    return holds(rom, at, 4) && memcmp(rom->at + at, text, 4) == 0;
}

// Reads the headers of the image at `start`. False: there is none.
static bool read_image(const struct rom *rom, uint64_t start, struct nvprobe_image *out) {
    uint32_t signature = get16(rom, start);
    uint64_t pcir = start + get16(rom, start + PCIR_POINTER);
    if ((signature != SIGNATURE_PC && signature != SIGNATURE_FWSEC && signature != SIGNATURE_OTHER)
        || !holds(rom, start, PCIR_POINTER + 2) || !holds(rom, pcir, PCIR_BYTES)
        || (!matches(rom, pcir, "PCIR") && !matches(rom, pcir, "NPDS"))) {
        return false;
    }
    *out = (struct nvprobe_image){
        .start = start,
        .bytes = get16(rom, pcir + 0x10) * BLOCK,
        .vendor = get16(rom, pcir + 4),
        .device = get16(rom, pcir + 6),
        .code = get8(rom, pcir + 0x14),
        .last = get8(rom, pcir + 0x15) & 0x80,
    };
    // NVIDIA's extension follows at the next multiple of 16 from the image's start. It counts: the
    // standard's fields describe what the system firmware is to see, which is less.
    uint64_t extension = start + ((pcir - start + get16(rom, pcir + 0x0a) + 15) & ~UINT64_C(15));
    if (out->code != CODE_NBSI && matches(rom, extension, "NPDE")
        && holds(rom, extension, NPDE_BYTES) && get16(rom, extension + 8) != 0) {
        out->npde = true;
        out->bytes = get16(rom, extension + 8) * BLOCK;
        out->last = get8(rom, extension + 0x0a) & 0x80;
    }
    if (out->code == CODE_NBSI) {
        out->last = true;
    }
    return out->bytes != 0 && holds(rom, start, out->bytes);
}

static void read_images(const struct rom *rom, struct nvprobe_vbios *out) {
    // What the card's own start-up reads may come before the first image.
    uint64_t start = 0;
    while (start < rom->bytes && !read_image(rom, start, &out->image[0])) {
        start += BLOCK;
    }
    while (out->n_images < NVPROBE_IMAGES && read_image(rom, start, &out->image[out->n_images])) {
        const struct nvprobe_image *image = &out->image[out->n_images++];
        start = image->start + image->bytes;
        if (image->last) {
            return;
        }
    }
}

static const struct nvprobe_image *image_of(const struct nvprobe_vbios *vbios, uint8_t code) {
    for (unsigned i = 0; i < vbios->n_images; i++) {
        if (vbios->image[i].code == code) {
            return &vbios->image[i];
        }
    }
    return NULL;
}

// The place in the ROM of a pointer from the falcon data. Such pointers count on from the PC image
// into the FWSEC images as if nothing lay between them; in fact the EFI image does.
static uint64_t place_of(const struct nvprobe_vbios *vbios, uint32_t pointer) {
    const struct nvprobe_image *pc = image_of(vbios, NVPROBE_IMAGE_PC);
    const struct nvprobe_image *fwsec = image_of(vbios, NVPROBE_IMAGE_FWSEC);
    if (pointer < pc->bytes || !fwsec) {
        return (uint64_t)pc->start + pointer;
    }
    return (uint64_t)fwsec->start + (pointer - pc->bytes);
}

// Version 2: code that is not signed as a whole, with a loader. Version 3: signed for the falcon's
// boot ROM. False: it does not lie in the ROM, or contradicts itself.
static bool read_descriptor(const struct rom *rom, uint64_t at, struct nvprobe_ucode *out) {
    uint32_t header = get32(rom, at);
    uint64_t bytes = header >> 16;
    out->descriptor = at;
    out->version = header >> 8;
    if (!(header & 1) || !holds(rom, at, bytes)) {
        return false;
    }
    if (out->version == 2 && bytes >= DESCRIPTOR_2) {
        out->interface = get32(rom, at + 16);
        out->code_base = get32(rom, at + 20);
        out->code_bytes = get32(rom, at + 24);
        out->data = get32(rom, at + 40);
        out->data_base = get32(rom, at + 44);
        out->data_bytes = get32(rom, at + 48);
    } else if (out->version == 3 && bytes >= DESCRIPTOR_3) {
        out->signature_place = get32(rom, at + 8);
        out->interface = get32(rom, at + 12);
        out->code_base = get32(rom, at + 16);
        out->code_bytes = get32(rom, at + 20);
        out->data_base = get32(rom, at + 28);
        out->data_bytes = get32(rom, at + 32);
        out->engines = get16(rom, at + 36);
        out->fuse = get8(rom, at + 38);
        out->signatures = get8(rom, at + 39);
        out->signature_versions = get16(rom, at + 40);
        out->data = out->code_bytes;
        if (DESCRIPTOR_3 + (uint64_t)out->signatures * SIGNATURE_BYTES > bytes
            || (uint64_t)out->signature_place + SIGNATURE_BYTES > out->data_bytes) {
            return false;
        }
    } else {
        return false;
    }
    uint64_t code = at + bytes, data = code + out->data;
    out->code = code;
    out->data = data;
    return out->code_bytes != 0 && out->interface < out->data_bytes
        && holds(rom, code, out->code_bytes) && holds(rom, data, out->data_bytes);
}

static void read_ucodes(const struct rom *rom, uint64_t table, struct nvprobe_vbios *out) {
    unsigned header = get8(rom, table + 1), entry = get8(rom, table + 2);
    unsigned count = get8(rom, table + 3);
    if (get8(rom, table) != 1 || header < TABLE_HEADER || entry < TABLE_ENTRY) {
        return;
    }
    for (unsigned i = 0; i < count && out->n_ucodes < NVPROBE_UCODES; i++) {
        uint64_t at = table + header + (uint64_t)i * entry;
        struct nvprobe_ucode *ucode = &out->ucode[out->n_ucodes];
        *ucode = (struct nvprobe_ucode){
            .application = get8(rom, at),
            .target = get8(rom, at + 1),
        };
        if (holds(rom, at, TABLE_ENTRY)
            && read_descriptor(rom, place_of(out, get32(rom, at + 2)), ucode)) {
            out->n_ucodes++;
        }
    }
}

static void read_token(const struct rom *rom, uint64_t at, struct nvprobe_vbios *out) {
    const struct nvprobe_image *pc = image_of(out, NVPROBE_IMAGE_PC);
    unsigned id = get8(rom, at), version = get8(rom, at + 1), bytes = get16(rom, at + 2);
    uint64_t data = pc->start + get16(rom, at + 4);
    if (!holds(rom, data, bytes)) {
        return;
    }
    if (id == TOKEN_BIOSDATA && bytes >= 5 && !out->has_version) {
        out->has_version = true;
        for (unsigned i = 0; i < 4; i++) {
            out->version[i] = get8(rom, data + 3 - i);
        }
        out->version[4] = get8(rom, data + 4);
    } else if (id == TOKEN_FALCON && version == 2 && bytes >= 4) {
        read_ucodes(rom, place_of(out, get32(rom, data)), out);
    }
}

// The BIOS Information Table lies anywhere in the PC image; its header's bytes add up to 0.
static bool is_table(const struct rom *rom, uint64_t at) {
    unsigned bytes = get8(rom, at + 8), sum = 0;
    if (get16(rom, at) != BIT_ID || !matches(rom, at + 2, "BIT\0") || bytes < BIT_HEADER
        || !holds(rom, at, bytes)) {
        return false;
    }
    for (unsigned i = 0; i < bytes; i++) {
        sum += rom->at[at + i];
    }
    return (sum & 0xff) == 0;
}

static void read_table(const struct rom *rom, struct nvprobe_vbios *out) {
    const struct nvprobe_image *pc = image_of(out, NVPROBE_IMAGE_PC);
    for (uint64_t at = pc->start; at < (uint64_t)pc->start + pc->bytes; at++) {
        unsigned token = get8(rom, at + 9);
        if (!is_table(rom, at) || token < TOKEN_BYTES) {
            continue;
        }
        out->has_bit = true;
        for (unsigned i = 0; i < get8(rom, at + 10); i++) {
            uint64_t place = at + get8(rom, at + 8) + (uint64_t)i * token;
            if (holds(rom, place, TOKEN_BYTES)) {
                read_token(rom, place, out);
            }
        }
        return;
    }
}

bool nvprobe_vbios(const uint8_t *bytes, size_t length, struct nvprobe_vbios *out) {
    struct rom rom = {bytes, length < NVPROBE_ROM_MAX ? length : NVPROBE_ROM_MAX};
    memset(out, 0, sizeof(*out));
    read_images(&rom, out);
    if (image_of(out, NVPROBE_IMAGE_PC)) {
        read_table(&rom, out);
    }
    return out->n_images != 0;
}

const struct nvprobe_ucode *nvprobe_fwsec(const struct nvprobe_vbios *vbios) {
    static const uint8_t wanted[] = {FWSEC, FWSEC_DEBUG};
    for (size_t kind = 0; kind < sizeof(wanted); kind++) {
        for (unsigned i = 0; i < vbios->n_ucodes; i++) {
            if (vbios->ucode[i].application == wanted[kind]) {
                return &vbios->ucode[i];
            }
        }
    }
    return NULL;
}
