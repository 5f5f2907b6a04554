// Names for addresses, in a fault handler: reads the table that host/cllm/symbols.py puts into the
// image after linking. Functions are in order of address, in groups of GROUP. An index entry gives
// a group's first address and where its names start. There, each function is
//   varint  bytes since the function before (0 for the first of a group)
//   byte    bytes its name shares with the name before
//   byte    further bytes of the name, which follow
#include "symbols.h"

#include "bytes.h"
#include "print.h"

#define GROUP 16
#define NAME_MAX 255

struct header {
    char magic[4];
    uint32_t count; // functions
    uint32_t end;   // address behind the last one
    struct {
        uint32_t address, names; // names: offset from the header
    } index[];
};

extern const struct header __symbols_start;
extern char __symbols_end[];

bool symbol_find(uint64_t pc, char *name, size_t size, uint64_t *offset) {
    const struct header *h = &__symbols_start;
    if (!h->count || pc < h->index[0].address || pc >= h->end) {
        return false;
    }
    uint32_t low = 0, high = (h->count + GROUP - 1) / GROUP;
    while (high - low > 1) {
        uint32_t middle = (low + high) / 2;
        if (h->index[middle].address <= pc) {
            low = middle;
        } else {
            high = middle;
        }
    }
    const uint8_t *p = (const uint8_t *)h + h->index[low].names;
    uint64_t address = h->index[low].address;
    char found[NAME_MAX + 1], current[NAME_MAX + 1];
    *offset = 0;
    found[0] = 0;
    for (uint32_t i = low * GROUP; i < h->count && i < (low + 1) * GROUP; i++) {
        uint64_t delta = 0;
        for (unsigned shift = 0;; shift += 7) {
            delta |= (uint64_t)(*p & 0x7F) << shift;
            if (!(*p++ & 0x80)) {
                break;
            }
        }
        address += delta;
        if (address > pc) {
            break;
        }
        uint8_t shared = *p++, more = *p++;
        kmemcpy(current + shared, p, more);
        p += more;
        current[shared + more] = 0;
        kmemcpy(found, current, sizeof(found));
        *offset = pc - address;
    }
    ksnprintf(name, size, "%s", found);
    return true;
}
