// Draws characters on the framebuffer that the firmware has left (UEFI's GOP, VESA). The memory is
// written only: reading it back would be slow. mm/paging.c maps it write-combining.
//
// Letters have 8 times 8 dots. Each becomes as large as 80 columns and 25 rows allow, at most twice
// as high as wide, which is the shape of VGA's.
#include "dev/framebuffer.h"

#include "boot/bootinfo.h"
#include "boot/reach.h"

#define DOTS 8
#define FIRST 32 // of console_font
#define LAST 127

static unsigned wide, high; // pixels of a dot
static uint32_t colours[16];

// A channel of 8 bits, in the pixel's place.
static uint32_t channel(unsigned i, uint32_t value) {
    const struct boot_framebuffer *f = &bootinfo.framebuffer;
    value = f->size[i] >= 8 ? value << (f->size[i] - 8) : value >> (8 - f->size[i]);
    return value << f->shift[i];
}

static void fill_colours(void) {
    for (unsigned c = 0; c < 16; c++) { // bit 0 blue, 1 green, 2 red, 3 bright
        uint32_t low = c & 8 ? 0x55 : 0, high_part = 0xAA;
        colours[c] = 0;
        for (unsigned i = 0; i < 3; i++) {
            colours[c] |= channel(i, low + (c >> (2 - i) & 1 ? high_part : 0));
        }
    }
    colours[6] = channel(0, 0xAA) | channel(1, 0x55); // VGA's dark yellow is brown
}

static bool meets_ram(uint64_t start, uint64_t end) {
    for (size_t i = 0; i < bootinfo.n_ram; i++) {
        const struct boot_range *r = &bootinfo.ram[i];
        if (r->start < end && start < r->start + r->size) {
            return true;
        }
    }
    return false;
}

static void put_pixel(volatile uint8_t *to, uint32_t colour) {
    if (bootinfo.framebuffer.bits == 32) {
        *(volatile uint32_t *)to = colour;
    } else {
        to[0] = (uint8_t)colour;
        to[1] = (uint8_t)(colour >> 8);
        to[2] = (uint8_t)(colour >> 16);
    }
}

bool framebuffer_init(void) {
    struct boot_framebuffer *f = &bootinfo.framebuffer;
    uint64_t size = (uint64_t)f->pitch * f->height;
    if (!f->address) {
        return false;
    }
    if (meets_ram(f->address, f->address + size) || !boot_reach(f->address, size)) {
        f->address = 0;
        return false;
    }
    wide = f->width / (FRAMEBUFFER_COLUMNS * DOTS);
    high = f->height / (FRAMEBUFFER_ROWS * DOTS);
    wide = wide ? wide : 1;
    high = high > 2 * wide ? 2 * wide : high ? high : 1;
    fill_colours();
    for (uint32_t y = 0; y < f->height; y++) {
        for (uint32_t x = 0; x < f->width; x++) {
            put_pixel((volatile uint8_t *)f->address + (uint64_t)y * f->pitch + x * (f->bits / 8),
                colours[0]);
        }
    }
    return true;
}

// The dots of a letter's line `y`, bit 0 leftmost. The font has a byte for each column, bit 0 on
// top.
static unsigned dots_of(uint8_t c, unsigned y) {
    const uint8_t *letter = console_font + (c < FIRST || c > LAST ? '?' - FIRST : c - FIRST) * DOTS;
    unsigned dots = 0;
    for (unsigned x = 0; x < DOTS; x++) {
        dots |= (letter[x] >> y & 1u) << x;
    }
    return dots;
}

void framebuffer_draw(unsigned row, unsigned column, uint16_t cell) {
    const struct boot_framebuffer *f = &bootinfo.framebuffer;
    unsigned bytes = f->bits / 8, left = column * DOTS * wide, top = row * DOTS * high;
    if (left + DOTS * wide > f->width || top + DOTS * high > f->height) {
        return; // a small screen shows the upper left part
    }
    uint32_t letter = colours[cell >> 8 & 15], ground = colours[cell >> 12 & 7];
    volatile uint8_t *line = (volatile uint8_t *)f->address + (uint64_t)top * f->pitch;
    for (unsigned y = 0; y < DOTS * high; y++, line += f->pitch) {
        unsigned dots = dots_of((uint8_t)cell, y / high);
        volatile uint8_t *to = line + left * bytes;
        for (unsigned x = 0; x < DOTS; x++) {
            for (unsigned i = 0; i < wide; i++, to += bytes) {
                put_pixel(to, dots >> x & 1 ? letter : ground);
            }
        }
    }
}
