// The two operations on packet bytes that are too slow in bytecode: sum and copy.
// Neither checks bounds: modules/netbuf does, once, with the buffers' real sizes.
#ifndef CLLM_NETBUF_H
#define CLLM_NETBUF_H

#include <stddef.h>
#include <stdint.h>

// The ones' complement sum (RFC 1071) of `length` bytes read as big-endian 16-bit words, an odd
// last byte padded with zero, added to `initial` and folded to 16 bits. Not inverted.
uint16_t netbuf_checksum(const uint8_t *data, size_t length, uint32_t initial);

// Copies `length` bytes; the ranges may overlap.
void netbuf_copy(uint8_t *to, const uint8_t *from, size_t length);

#endif
