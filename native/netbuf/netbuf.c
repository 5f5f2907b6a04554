// Checksum, copy, plain TCP segments: see netbuf.h. The checksum must give the same answer for any
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

#define ETHERNET 14
#define IPV4 20
#define TCP_AT (ETHERNET + IPV4)
#define TCP 20
#define TIMESTAMPS 12
#define TIMESTAMPS_WORD 0x0101080A // NOP, NOP, kind 8, length 10

#define TAG 4
#define MAX_TAGS 2

#define ACK 0x10
#define PSH 0x08

static uint32_t get16(const uint8_t *p) {
    return (uint32_t)p[0] << 8 | p[1];
}

static uint32_t get32(const uint8_t *p) {
    return get16(p) << 16 | get16(p + 2);
}

static void put16(uint8_t *p, uint32_t value) {
    p[0] = (uint8_t)(value >> 8);
    p[1] = (uint8_t)value;
}

static void put32(uint8_t *p, uint32_t value) {
    put16(p, value >> 16);
    put16(p + 2, value);
}

// Parses all but the hardware addresses.
static bool parse(const uint8_t *frame, size_t length, bool verify, struct netbuf_segment *out) {
    if (length < TCP_AT + TCP) {
        return false;
    }
    const uint8_t *ip = frame + ETHERNET;
    const uint8_t *tcp = frame + TCP_AT;
    // RFC 791 3.1: version 4, five words, no flag but DF, offset 0, protocol 6.
    if (get16(frame + 12) != 0x0800 || ip[0] != 0x45 || (get16(ip + 6) & 0x3FFF) || ip[9] != 6) {
        return false;
    }
    size_t total = get16(ip + 2);
    size_t header = (size_t)(tcp[12] >> 4) * 4;
    if (total > length - ETHERNET || total < IPV4 + header
        || (header != TCP && header != TCP + TIMESTAMPS)) {
        return false;
    }
    out->timestamps = header != TCP;
    if (out->timestamps && get32(tcp + TCP) != TIMESTAMPS_WORD) {
        return false;
    }
    out->flags = tcp[13];
    if ((out->flags & ~PSH) != ACK || ip[12] == 0 || ip[12] == 127 || ip[12] >= 224) {
        return false;
    }
    out->source = get32(ip + 12);
    out->destination = get32(ip + 16);
    if (verify) {
        uint32_t text = (uint32_t)total - IPV4;
        uint32_t pseudo =
            get16(ip + 12) + get16(ip + 14) + get16(ip + 16) + get16(ip + 18) + 6 + text;
        if (netbuf_checksum(ip, IPV4, 0) != 0xffff
            || netbuf_checksum(tcp, text, pseudo) != 0xffff) {
            return false;
        }
    }
    out->source_port = (uint16_t)get16(tcp);
    out->port = (uint16_t)get16(tcp + 2);
    out->seq = get32(tcp + 4);
    out->ack = get32(tcp + 8);
    out->window = (uint16_t)get16(tcp + 14);
    out->start = (uint16_t)(TCP_AT + header);
    out->end = (uint16_t)(ETHERNET + total);
    out->value = out->timestamps ? get32(tcp + TCP + 4) : 0;
    out->echo = out->timestamps ? get32(tcp + TCP + 8) : 0;
    return true;
}

// RFC 1122 3.3.6: what a group's hardware address gets asks nobody alone.
static bool is_for_group(const uint8_t *frame, size_t length) {
    return length && (frame[0] & 1);
}

bool netbuf_parse(const uint8_t *frame, size_t length, bool verify, struct netbuf_segment *out) {
    return !is_for_group(frame, length) && parse(frame, length, verify, out);
}

// IEEE 802.1Q 9.6: how many bytes of priority tags, with VLAN 0, stand before a frame's type.
static size_t priority_tags(const uint8_t *frame, size_t size) {
    size_t tags = 0;
    while (tags < MAX_TAGS * TAG && size >= ETHERNET + tags + TAG) {
        uint32_t type = get16(frame + 12 + tags);
        if ((type != 0x8100 && type != 0x88A8) || get16(frame + 14 + tags) & 0x0fff) {
            break;
        }
        tags += TAG;
    }
    return tags;
}

size_t netbuf_merge(uint8_t *packet, size_t length, size_t room, const uint8_t *frame,
    size_t size) {
    struct netbuf_segment new, old;
    // Behind the tags all is where it is in a frame without them, but for the hardware addresses.
    const uint8_t *addresses = frame;
    size_t tags = priority_tags(frame, size);
    frame += tags;
    if (is_for_group(addresses, size) || !parse(frame, size - tags, true, &new)) {
        return 0;
    }
    if (!length) {
        if (new.end > room) {
            return 0;
        }
        memcpy(packet, addresses, 12);
        memcpy(packet + 12, frame + 12, new.end - 12u);
        return new.end;
    }
    if (!parse(packet, length, false, &old) || new.source != old.source
        || new.destination != old.destination || new.source_port != old.source_port
        || new.port != old.port || new.start != old.start || (int32_t)(new.ack - old.ack) < 0
        || (int32_t)(new.value - old.value) < 0) {
        return 0;
    }
    size_t text = (size_t)(new.end - new.start), before = (size_t)(old.end - old.start);
    if (new.seq != old.seq + before
        || !text != !before
        // The same acknowledgement again means something to TCP: RFC 5681 2.
        || (!text && new.ack == old.ack) || old.end + text > room
        || old.end + text - ETHERNET > 0xffff) {
        return 0;
    }
    memcpy(packet + old.end, frame + new.start, text);
    put16(packet + ETHERNET + 2, (uint32_t)(old.end + text - ETHERNET));
    uint8_t *tcp = packet + TCP_AT;
    memcpy(tcp + 8, frame + TCP_AT + 8, 4); // the acknowledgement
    tcp[13] |= new.flags;
    memcpy(tcp + 14, frame + TCP_AT + 14, 2); // the window
    if (new.timestamps) {
        size_t from = text ? 8 : 4;
        memcpy(tcp + TCP + from, frame + TCP_AT + TCP + from, TIMESTAMPS - from);
    }
    return old.end + text;
}

size_t netbuf_emit(uint8_t *frame, const uint8_t *header, size_t header_length,
    const struct netbuf_fields *fields, const uint8_t *text, size_t length, const uint8_t *more,
    size_t more_length) {
    uint8_t *ip = frame + ETHERNET, *tcp = frame + TCP_AT;
    memcpy(ip, header, header_length);
    memcpy(ip + header_length, text, length);
    memcpy(ip + header_length + length, more, more_length);
    size_t total = header_length + length + more_length;
    put16(ip + 2, (uint32_t)total);
    put16(ip + 10, ~(uint32_t)netbuf_checksum(ip, IPV4, 0));
    put32(tcp + 4, fields->seq);
    put32(tcp + 8, fields->ack);
    tcp[13] = fields->flags;
    put16(tcp + 14, fields->window);
    if (header_length == NETBUF_HEADER_TIMESTAMPS) {
        put32(tcp + TCP + 4, fields->value);
        put32(tcp + TCP + 8, fields->echo);
    }
    uint32_t segment = (uint32_t)total - IPV4;
    uint32_t pseudo =
        get16(ip + 12) + get16(ip + 14) + get16(ip + 16) + get16(ip + 18) + 6 + segment;
    put16(tcp + 16, ~(uint32_t)netbuf_checksum(tcp, segment, pseudo));
    return ETHERNET + total;
}
