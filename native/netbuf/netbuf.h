// The operations on packet bytes that are too slow in bytecode: sum, copy, and the parsing and
// merging of plain TCP segments. None checks the bounds of a buffer: modules/netbuf does, once,
// with the buffers' real sizes; lengths inside packets are checked here.
#ifndef CLLM_NETBUF_H
#define CLLM_NETBUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// The ones' complement sum (RFC 1071) of `length` bytes read as big-endian 16-bit words, an odd
// last byte padded with zero, added to `initial` and folded to 16 bits. Not inverted.
uint16_t netbuf_checksum(const uint8_t *data, size_t length, uint32_t initial);

// Copies `length` bytes; the ranges may overlap.
void netbuf_copy(uint8_t *to, const uint8_t *from, size_t length);

// What a plain TCP segment says: one in an Ethernet frame with an IPv4 header of 20 bytes or an
// IPv6 header alone, no fragment, flags ACK and perhaps PSH, and no options or timestamps alone
// (RFC 7323 appendix A), not sent to a group's hardware address.
struct netbuf_segment {
    uint8_t ip;               // length of the IP header: 20 or 40
    const uint8_t *addresses; // the source and then the destination, in the frame
    uint16_t source_port, port;
    uint32_t seq, ack;
    uint8_t flags;
    uint16_t window;
    uint16_t start; // the payload, as offsets in the frame
    uint32_t end;
    bool timestamps;
    uint32_t value, echo; // TSval, TSecr
};

// Parses a frame of `length` bytes. False where it is no plain segment, is malformed, comes from an
// address that no host has (RFC 1122 3.2.1.3), or, with `verify`, has a wrong checksum.
bool netbuf_parse(const uint8_t *frame, size_t length, bool verify, struct netbuf_segment *out);

// Large receive offload: makes `frame` part of `packet`, a frame of `length` bytes (0: none yet)
// in a buffer of `room` bytes. Returns the packet's new length, or 0 where `frame` is no plain
// segment or does not continue the packet, which stays as it is. Priority tags of `frame` (IEEE
// 802.1Q 6.9: VLAN 0) are left out.
//
// A segment continues a packet of the same connection whose text it follows, or, without text,
// where it acknowledges more. The packet then holds all the text, the newest acknowledgement and
// window, and the timestamp that RFC 7323 4.2 wants echoed: the first text's. Checksums of what is
// merged are verified; those of the packet are not kept right.
size_t netbuf_merge(uint8_t *packet, size_t length, size_t room, const uint8_t *frame, size_t size);

// Writes a TCP segment of an Ethernet frame from its IP header on, with the checksums; returns the
// frame's length. `header` is what all segments of a connection share: addresses, ports and the
// like, and zeros for what varies. Its first byte says which IP it is of. It has NETBUF_HEADER
// bytes, NETBUF_MORE_IPV6 more for IPv6, and NETBUF_TIMESTAMPS more with room for timestamps as
// RFC 7323 appendix A lays them out. The text comes in two pieces, as it lies in a ring.
#define NETBUF_HEADER 40
#define NETBUF_MORE_IPV6 20
#define NETBUF_TIMESTAMPS 12

struct netbuf_fields {
    uint32_t seq, ack;
    uint8_t flags;
    uint16_t window;
    uint32_t value, echo; // of a header with timestamps
};

size_t netbuf_emit(uint8_t *frame, const uint8_t *header, size_t header_length,
    const struct netbuf_fields *fields, const uint8_t *text, size_t length, const uint8_t *more,
    size_t more_length);

#endif
