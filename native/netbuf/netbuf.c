// Internet checksum and copy: see netbuf.h. The checksum must give the same answer for any
// alignment and either byte order of the machine, so that it can be tested on the host.
#include "netbuf.h"

#include <string.h>

static uint32_t fold(uint64_t sum) {
    while (sum >> 16) {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    return (uint32_t)sum;
}

uint16_t netbuf_checksum(const uint8_t *data, size_t length, uint32_t initial) {
    // RFC 1071 section 2 (B) and (C): words may be summed in the machine's byte order and in
    // wider units, and the folded result swapped once. Halves of 64-bit loads go into a 64-bit
    // sum, so that no carry is lost below 2^31 loads.
    uint64_t sum = 0;
    uint64_t word;
    while (length >= sizeof(word)) {
        memcpy(&word, data, sizeof(word));
        sum += (word & 0xffffffff) + (word >> 32);
        data += sizeof(word);
        length -= sizeof(word);
    }
    // The rest, padded with zero bytes as if the message went on with them.
    word = 0;
    memcpy(&word, data, length);
    sum += (word & 0xffffffff) + (word >> 32);

    uint32_t folded = fold(sum);
    #if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    folded = (folded >> 8) | ((folded & 0xff) << 8);
    #endif
    return (uint16_t)fold((uint64_t)folded + initial);
}

void netbuf_copy(uint8_t *to, const uint8_t *from, size_t length) {
    memmove(to, from, length);
}
