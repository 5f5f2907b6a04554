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
#define IPV6 40
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

// Sums the pseudo header of a TCP segment of `length` bytes (RFC 9293 3.1, RFC 8200 8.1).
static uint32_t pseudo_sum(const uint8_t *ip, size_t header, size_t length) {
    if (header == IPV6) {
        return netbuf_checksum(ip + 8, 32, 6 + (uint32_t)length);
    }
    return get16(ip + 12) + get16(ip + 14) + get16(ip + 16) + get16(ip + 18) + 6 + (uint32_t)length;
}

// Returns the length of the IP header in front of a TCP segment, and that of the packet in
// `total`; 0 for any other packet.
static size_t parse_ip(const uint8_t *frame, size_t length, size_t *total) {
    const uint8_t *ip = frame + ETHERNET;
    uint32_t type = get16(frame + 12);
    if (type == 0x0800) {
        // RFC 791 3.1: version 4, five words, no flag but DF, offset 0, protocol 6; from an address
        // that a host can have.
        if (ip[0] != 0x45 || (get16(ip + 6) & 0x3FFF) || ip[9] != 6 || ip[12] == 0 || ip[12] == 127
            || ip[12] >= 224) {
            return 0;
        }
        *total = get16(ip + 2);
        return IPV4;
    }
    // RFC 8200 3: version 6, next header 6. RFC 4291 2.4: no host's address is a group's or begins
    // with 16 zeros, as the unspecified, the loopback and the mapped ones do.
    if (type == 0x86DD && length >= ETHERNET + IPV6 + TCP && ip[0] >> 4 == 6 && ip[6] == 6
        && ip[8] != 0xff && get16(ip + 8)) {
        *total = IPV6 + get16(ip + 4);
        return IPV6;
    }
    return 0;
}

// Parses all but the hardware addresses.
static bool parse(const uint8_t *frame, size_t length, bool verify, struct netbuf_segment *out) {
    if (length < ETHERNET + IPV4 + TCP) {
        return false;
    }
    const uint8_t *ip = frame + ETHERNET;
    size_t total;
    size_t size = parse_ip(frame, length, &total);
    if (!size) {
        return false;
    }
    const uint8_t *tcp = ip + size;
    size_t header = (size_t)(tcp[12] >> 4) * 4;
    if (total > length - ETHERNET || total < size + header
        || (header != TCP && header != TCP + TIMESTAMPS)) {
        return false;
    }
    out->timestamps = header != TCP;
    if (out->timestamps && get32(tcp + TCP) != TIMESTAMPS_WORD) {
        return false;
    }
    out->flags = tcp[13];
    if ((out->flags & ~PSH) != ACK) {
        return false;
    }
    out->ip = (uint8_t)size;
    out->addresses = ip + (size == IPV6 ? 8 : 12);
    if (verify) {
        size_t text = total - size;
        if ((size == IPV4 && netbuf_checksum(ip, IPV4, 0) != 0xffff)
            || netbuf_checksum(tcp, text, pseudo_sum(ip, size, text)) != 0xffff) {
            return false;
        }
    }
    out->source_port = (uint16_t)get16(tcp);
    out->port = (uint16_t)get16(tcp + 2);
    out->seq = get32(tcp + 4);
    out->ack = get32(tcp + 8);
    out->window = (uint16_t)get16(tcp + 14);
    out->start = (uint16_t)(ETHERNET + size + header);
    out->end = (uint32_t)(ETHERNET + total);
    out->value = out->timestamps ? get32(tcp + TCP + 4) : 0;
    out->echo = out->timestamps ? get32(tcp + TCP + 8) : 0;
    return true;
}

// Writes the length of a packet into its header of `size` bytes. IPv6's leaves the header out.
static void put_length(uint8_t *ip, size_t size, size_t total) {
    if (size == IPV6) {
        put16(ip + 4, (uint32_t)(total - IPV6));
    } else {
        put16(ip + 2, (uint32_t)total);
    }
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
    if (!parse(packet, length, false, &old) || new.ip != old.ip
        || memcmp(new.addresses, old.addresses, new.ip == IPV6 ? 32 : 8)
        || new.source_port != old.source_port || new.port != old.port || new.start != old.start
        || (int32_t)(new.ack - old.ack) < 0 || (int32_t)(new.value - old.value) < 0) {
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
    put_length(packet + ETHERNET, new.ip, old.end + text - ETHERNET);
    uint8_t *tcp = packet + ETHERNET + new.ip;
    const uint8_t *from_tcp = frame + ETHERNET + new.ip;
    memcpy(tcp + 8, from_tcp + 8, 4); // the acknowledgement
    tcp[13] |= new.flags;
    memcpy(tcp + 14, from_tcp + 14, 2); // the window
    if (new.timestamps) {
        size_t from = text ? 8 : 4;
        memcpy(tcp + TCP + from, from_tcp + TCP + from, TIMESTAMPS - from);
    }
    return old.end + text;
}

size_t netbuf_emit(uint8_t *frame, const uint8_t *header, size_t header_length,
    const struct netbuf_fields *fields, const uint8_t *text, size_t length, const uint8_t *more,
    size_t more_length) {
    size_t size = header[0] >> 4 == 6 ? IPV6 : IPV4;
    uint8_t *ip = frame + ETHERNET, *tcp = ip + size;
    memcpy(ip, header, header_length);
    memcpy(ip + header_length, text, length);
    memcpy(ip + header_length + length, more, more_length);
    size_t total = header_length + length + more_length;
    put_length(ip, size, total);
    if (size == IPV4) {
        put16(ip + 10, ~(uint32_t)netbuf_checksum(ip, IPV4, 0));
    }
    put32(tcp + 4, fields->seq);
    put32(tcp + 8, fields->ack);
    tcp[13] = fields->flags;
    put16(tcp + 14, fields->window);
    if (header_length == size + TCP + TIMESTAMPS) {
        put32(tcp + TCP + 4, fields->value);
        put32(tcp + TCP + 8, fields->echo);
    }
    size_t segment = total - size;
    put16(tcp + 16, ~(uint32_t)netbuf_checksum(tcp, segment, pseudo_sum(ip, size, segment)));
    return ETHERNET + total;
}
