// Unpacks the image to where it runs: the C part of boot/packed_entry.S, 32-bit code on the bare
// machine, without paging. The image is one stream of RFC 1951 (deflate), a third of its size. QEMU
// keeps a copy of what it boots, so a smaller file takes less of the host's memory.
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cpu/io.h"
#include "dev/nic.h"

extern const uint8_t packed_begin[], packed_end[];
extern const uint32_t unpacked_begin, unpacked_size, unpacked_end;

// Multiboot 0.6.96, 3.3: the fields that point to memory of the loader's.
struct multiboot_info {
    uint32_t flags;
    uint32_t mem[2], boot_device, cmdline;
    uint32_t n_modules, modules;
};
struct multiboot_module {
    uint32_t start, end, string, reserved;
};
#define LOADER_MAGIC 0x2BADB002

#define SERIAL 0x3F8
#define SERIAL_STATUS (SERIAL + 5)
#define SERIAL_EMPTY (1 << 5)
#define SCREEN 0xB8000

// Prints on the serial line and the screen; there is nothing else yet.
static void __attribute__((noreturn)) stop(const char *why) {
    volatile uint16_t *screen = (volatile uint16_t *)SCREEN;
    for (const char *s = why; *s; s++) {
        for (unsigned wait = 1 << 20; wait && !(inb(SERIAL_STATUS) & SERIAL_EMPTY); wait--) {
        }
        outb(SERIAL, (uint8_t)*s);
        *screen++ = (uint16_t)(0x4F00 | *s);
    }
    for (;;) {
        __asm__ volatile("cli; hlt");
    }
}

static void damaged(void) {
    stop("cllm: the image is damaged\r\n");
}

// The compiler calls it for loops that clear memory.
void *memset(void *at, int c, size_t n) {
    void *to = at;
    __asm__ volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(c) : "memory");
    return at;
}

// --- The stream of bits, RFC 1951, 3.1.1 -------------------------------------------------------

static const uint8_t *in;
static uint32_t bits;
static unsigned n_bits;

// Makes at least 16 bits available. Zeros follow the end of the input, where they soon cause an
// error.
static inline void refill(void) {
    if (n_bits <= 16) {
        if (in + 2 <= packed_end) {
            bits |= (uint32_t)(in[0] | in[1] << 8) << n_bits;
        } else if (in < packed_end) {
            bits |= (uint32_t)in[0] << n_bits;
        } else if (in > packed_end + 8) {
            damaged();
        }
        in += 2;
        n_bits += 16;
    }
}

static inline void drop(unsigned n) {
    bits >>= n;
    n_bits -= n;
}

static inline unsigned take(unsigned n) { // up to 16
    refill();
    unsigned value = bits & ((1u << n) - 1);
    drop(n);
    return value;
}

// --- Huffman codes, RFC 1951, 3.2.2 ------------------------------------------------------------

#define LONGEST 15
#define FAST 10 // codes of up to this many bits are looked up in a table

struct code {
    uint16_t count[LONGEST + 1]; // codes of each length
    uint16_t symbol[288];        // in the order of their codes
    uint16_t fast[1 << FAST];    // by the next bits: symbol << 4 | length; 0: a longer code
};

static void make_code(struct code *c, const uint8_t *length, unsigned n) {
    uint16_t next[LONGEST + 2], first[LONGEST + 2];
    for (unsigned i = 0; i <= LONGEST; i++) {
        c->count[i] = 0;
    }
    for (unsigned i = 0; i < n; i++) {
        c->count[length[i]]++;
    }
    c->count[0] = 0;
    next[1] = first[1] = 0;
    for (unsigned i = 1; i <= LONGEST; i++) {
        next[i + 1] = next[i] + c->count[i];
        first[i + 1] = (uint16_t)((first[i] + c->count[i]) << 1);
        if (first[i] + c->count[i] > 1u << i) {
            damaged(); // more codes than this length has
        }
    }
    for (unsigned i = 0; i < 1 << FAST; i++) {
        c->fast[i] = 0;
    }
    for (unsigned i = 0; i < n; i++) {
        unsigned l = length[i];
        if (!l) {
            continue;
        }
        c->symbol[next[l]++] = (uint16_t)i;
        unsigned value = first[l]++, reversed = 0; // the first bit of a code is its highest
        for (unsigned b = 0; b < l; b++) {
            reversed |= (value >> b & 1) << (l - 1 - b);
        }
        for (unsigned at = reversed; l <= FAST && at < 1 << FAST; at += 1u << l) {
            c->fast[at] = (uint16_t)(i << 4 | l);
        }
    }
}

static inline unsigned decode(const struct code *c) {
    refill();
    unsigned entry = c->fast[bits & ((1 << FAST) - 1)];
    if (entry) {
        drop(entry & 15);
        return entry >> 4;
    }
    unsigned value = 0, first = 0, index = 0;
    for (unsigned l = 1; l <= LONGEST; l++) {
        value |= bits >> (l - 1) & 1;
        unsigned count = c->count[l];
        if (value < first + count) {
            drop(l);
            return c->symbol[index + value - first];
        }
        index += count;
        first = (first + count) << 1;
        value <<= 1;
    }
    damaged();
    return 0;
}

// --- Blocks, RFC 1951, 3.2.3 to 3.2.7 ----------------------------------------------------------

static struct code literals, distances;
static uint8_t *out, *out_end;

static void stored(void) {
    drop(n_bits & 7);
    unsigned length = take(16);
    if ((take(16) ^ length) != 0xFFFF) {
        damaged();
    }
    while (length--) {
        if (out >= out_end) {
            damaged();
        }
        *out++ = (uint8_t)take(8);
    }
}

static void fixed_codes(void) {
    uint8_t length[288];
    for (unsigned i = 0; i < 288; i++) {
        length[i] = i < 144 ? 8 : i < 256 ? 9 : i < 280 ? 7 : 8;
    }
    make_code(&literals, length, 288);
    for (unsigned i = 0; i < 30; i++) {
        length[i] = 5;
    }
    make_code(&distances, length, 30);
}

static void dynamic_codes(void) {
    // clang-format off
    static const uint8_t order[19] = {
        16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15,
    };
    // clang-format on
    uint8_t length[288 + 32] = {0};
    unsigned n_literals = take(5) + 257, n_distances = take(5) + 1, n = take(4) + 4;
    if (n_literals > 286 || n_distances > 30) {
        damaged();
    }
    for (unsigned i = 0; i < n; i++) {
        length[order[i]] = (uint8_t)take(3);
    }
    make_code(&literals, length, 19);
    for (unsigned i = 0; i < n_literals + n_distances;) {
        unsigned symbol = decode(&literals), repeat = 1, value = symbol;
        if (symbol == 16) {
            if (!i) {
                damaged();
            }
            value = length[i - 1];
            repeat = 3 + take(2);
        } else if (symbol > 16) {
            value = 0;
            repeat = symbol == 17 ? 3 + take(3) : 11 + take(7);
        }
        if (i + repeat > n_literals + n_distances) {
            damaged();
        }
        while (repeat--) {
            length[i++] = (uint8_t)value;
        }
    }
    uint8_t distance[32];
    for (unsigned i = 0; i < n_distances; i++) {
        distance[i] = length[n_literals + i];
    }
    make_code(&literals, length, n_literals);
    make_code(&distances, distance, n_distances);
}

static void compressed(void) {
    // clang-format off
    static const uint16_t length_base[29] = {
        3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35, 43, 51, 59, 67, 83, 99, 115,
        131, 163, 195, 227, 258,
    };
    static const uint8_t length_extra[29] = {
        0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0,
    };
    static const uint16_t distance_base[30] = {
        1, 2, 3, 4, 5, 7, 9, 13, 17, 25, 33, 49, 65, 97, 129, 193, 257, 385, 513, 769, 1025, 1537,
        2049, 3073, 4097, 6145, 8193, 12289, 16385, 24577,
    };
    // clang-format on
    for (;;) {
        unsigned symbol = decode(&literals);
        if (symbol < 256) {
            if (out >= out_end) {
                damaged();
            }
            *out++ = (uint8_t)symbol;
            continue;
        }
        if (symbol == 256) {
            return;
        }
        symbol -= 257;
        if (symbol >= 29) {
            damaged();
        }
        unsigned length = length_base[symbol] + take(length_extra[symbol]);
        symbol = decode(&distances);
        if (symbol >= 30) {
            damaged();
        }
        unsigned back = distance_base[symbol] + take(symbol < 2 ? 0 : symbol / 2 - 1);
        const uint8_t *from = out - back;
        if (back > (size_t)(out - (uint8_t *)unpacked_begin) || length > (size_t)(out_end - out)) {
            damaged();
        }
        uint8_t *end = out + length;
        for (; back >= 4 && end - out >= 4; out += 4, from += 4) {
            __builtin_memcpy(out, from, 4);
        }
        while (out < end) {
            *out++ = *from++;
        }
    }
}

static bool meets(uint32_t start, uint32_t end) {
    return start < unpacked_end && end > unpacked_begin;
}

// Stops if unpacking would overwrite something that the loader left behind.
static void check_room(uint32_t address) {
    const struct multiboot_info *info = (const struct multiboot_info *)address;
    bool wrong = meets(address, address + 128);
    if (info->flags & 1 << 2) {
        wrong |= meets(info->cmdline, info->cmdline + 1);
    }
    const struct multiboot_module *module = (const struct multiboot_module *)info->modules;
    for (uint32_t i = 0; info->flags & 1 << 3 && i < info->n_modules; i++) {
        wrong |= meets((uint32_t)&module[i], (uint32_t)&module[i + 1])
            || meets(module[i].start, module[i].end)
            || meets(module[i].string, module[i].string + 1);
    }
    if (wrong) {
        stop("cllm: the loader has put something where the image goes: boot cllm.unpacked.elf\r\n");
    }
}

void unpack(uint32_t magic, uint32_t info) {
    nic_head_start(); // first: unpacking takes time
    if (magic == LOADER_MAGIC) {
        check_room(info);
    }
    in = packed_begin;
    out = (uint8_t *)unpacked_begin;
    out_end = out + unpacked_size;
    bool last;
    do {
        last = take(1);
        switch (take(2)) {
            case 0:
                stored();
                break;
            case 1:
                fixed_codes();
                compressed();
                break;
            case 2:
                dynamic_codes();
                compressed();
                break;
            default:
                damaged();
        }
    } while (!last);
    if (out != out_end) {
        damaged();
    }
}
