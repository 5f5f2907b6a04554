// inflate.cpp: see inflate.h. Section numbers are those of RFC 1951 unless RFC 1950 is named.
#include "inflate.h"

#include <cstdint>
#include <stdexcept>

namespace gpud {

namespace {

[[noreturn]] void bad(const char *what) {
    throw std::runtime_error(std::string("compressed text: ") + what);
}

class bit_reader {
public:
    explicit bit_reader(std::string_view from) : from(from) {}

    // Section 3.1.1: the first bit is a byte's lowest.
    uint32_t bits(unsigned count) {
        while (held < count) {
            if (at == from.size()) {
                bad("it ends too early");
            }
            hold |= (uint32_t)(uint8_t)from[at++] << held;
            held += 8;
        }
        uint32_t value = hold & ((1u << count) - 1);
        hold >>= count;
        held -= count;
        return value;
    }

    // Goes on at the next whole byte: no more than 7 bits are held.
    std::string_view bytes(size_t count) {
        hold = held = 0;
        if (count > from.size() - at) {
            bad("it ends too early");
        }
        at += count;
        return from.substr(at - count, count);
    }

private:
    std::string_view from;
    size_t at = 0;
    uint32_t hold = 0;
    unsigned held = 0;
};

constexpr unsigned most_bits = 15;

// Section 3.2.2: a code of each length is the previous one's plus 1.
class huffman {
public:
    huffman(const uint8_t *lengths, unsigned symbols) {
        for (unsigned i = 0; i < symbols; i++) {
            count[lengths[i]]++;
        }
        count[0] = 0;
        uint16_t next[most_bits + 1] = {};
        int left = 1;
        for (unsigned bits = 1; bits <= most_bits; bits++) {
            left = 2 * left - count[bits];
            if (left < 0) {
                bad("more codes than fit");
            }
            if (bits > 1) {
                next[bits] = next[bits - 1] + count[bits - 1];
            }
        }
        for (unsigned i = 0; i < symbols; i++) {
            if (lengths[i]) {
                symbol[next[lengths[i]]++] = (uint16_t)i;
            }
        }
    }

    unsigned next(bit_reader &in) const {
        unsigned code = 0, first = 0, index = 0;
        for (unsigned bits = 1; bits <= most_bits; bits++) {
            code |= in.bits(1);
            if (code < first + count[bits]) {
                return symbol[index + code - first];
            }
            index += count[bits];
            first = (first + count[bits]) * 2;
            code *= 2;
        }
        bad("a code that is none");
    }

private:
    uint16_t count[most_bits + 1] = {};
    uint16_t symbol[288] = {};
};

// Section 3.2.5.
constexpr uint16_t length_base[29] = {3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35,
    43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258};
constexpr uint8_t length_bits[29] = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4,
    4, 4, 4, 5, 5, 5, 5, 0};
constexpr uint16_t distance_base[30] = {1, 2, 3, 4, 5, 7, 9, 13, 17, 25, 33, 49, 65, 97, 129, 193,
    257, 385, 513, 769, 1025, 1537, 2049, 3073, 4097, 6145, 8193, 12289, 16385, 24577};
constexpr uint8_t distance_bits[30] = {0, 0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8,
    9, 9, 10, 10, 11, 11, 12, 12, 13, 13};

void read_block(bit_reader &in, const huffman &lengths, const huffman &distances, std::string &out,
    size_t most) {
    while (true) {
        unsigned symbol = lengths.next(in);
        if (symbol == 256) {
            return;
        }
        if (symbol < 256) {
            if (out.size() == most) {
                bad("more text than it says");
            }
            out.push_back((char)symbol);
            continue;
        }
        symbol -= 257;
        if (symbol >= 29) {
            bad("a length that is none");
        }
        size_t length = length_base[symbol] + in.bits(length_bits[symbol]);
        unsigned far = distances.next(in);
        if (far >= 30) {
            bad("a distance that is none");
        }
        size_t distance = distance_base[far] + in.bits(distance_bits[far]);
        if (distance > out.size() || length > most - out.size()) {
            bad("a copy from before the start, or past the end");
        }
        for (size_t i = 0; i < length; i++) {
            out.push_back(out[out.size() - distance]);
        }
    }
}

// Section 3.2.6.
void read_fixed(bit_reader &in, std::string &out, size_t most) {
    uint8_t lengths[288], distances[30];
    for (unsigned i = 0; i < 288; i++) {
        lengths[i] = i < 144 ? 8 : i < 256 ? 9 : i < 280 ? 7 : 8;
    }
    for (uint8_t &length : distances) {
        length = 5;
    }
    read_block(in, huffman(lengths, 288), huffman(distances, 30), out, most);
}

// Section 3.2.7.
void read_dynamic(bit_reader &in, std::string &out, size_t most) {
    static constexpr uint8_t order[19] = {16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14,
        1, 15};
    unsigned n_lengths = in.bits(5) + 257, n_distances = in.bits(5) + 1, n_codes = in.bits(4) + 4;
    if (n_lengths > 286 || n_distances > 30) {
        bad("too many codes");
    }
    uint8_t lengths[286 + 30] = {}, codes[19] = {};
    for (unsigned i = 0; i < n_codes; i++) {
        codes[order[i]] = (uint8_t)in.bits(3);
    }
    huffman code(codes, 19);
    for (unsigned i = 0; i < n_lengths + n_distances;) {
        unsigned symbol = code.next(in);
        if (symbol < 16) {
            lengths[i++] = (uint8_t)symbol;
            continue;
        }
        if (symbol == 16 && i == 0) {
            bad("a repetition of nothing");
        }
        uint8_t value = symbol == 16 ? lengths[i - 1] : 0;
        unsigned times = symbol == 16 ? 3 + in.bits(2)
            : symbol == 17            ? 3 + in.bits(3)
                                      : 11 + in.bits(7);
        if (times > n_lengths + n_distances - i) {
            bad("too many codes");
        }
        while (times--) {
            lengths[i++] = value;
        }
    }
    read_block(in, huffman(lengths, n_lengths), huffman(lengths + n_lengths, n_distances), out,
        most);
}

} // namespace

std::string inflate(std::string_view packed, size_t bytes) {
    // RFC 1950, section 2.2: method 8, no preset dictionary. The check value at the end is not
    // looked at: who calls compares a better one.
    if (packed.size() < 6 || ((uint8_t)packed[0] & 15) != 8 || ((uint8_t)packed[1] & 0x20)
        || ((uint8_t)packed[0] << 8 | (uint8_t)packed[1]) % 31 != 0) {
        bad("not a zlib stream");
    }
    bit_reader in(packed.substr(2));
    std::string out;
    out.reserve(bytes);
    bool last;
    do {
        last = in.bits(1);
        unsigned kind = in.bits(2);
        if (kind == 0) {
            // Section 3.2.4.
            std::string_view head = in.bytes(4);
            unsigned length = (uint8_t)head[0] | (uint8_t)head[1] << 8;
            unsigned inverse = (uint8_t)head[2] | (uint8_t)head[3] << 8;
            if ((length ^ inverse) != 0xffff || length > bytes - out.size()) {
                bad("a stored block's length");
            }
            out += in.bytes(length);
        } else if (kind == 1) {
            read_fixed(in, out, bytes);
        } else if (kind == 2) {
            read_dynamic(in, out, bytes);
        } else {
            bad("a block of no kind");
        }
    } while (!last);
    if (out.size() != bytes) {
        bad("less text than it says");
    }
    return out;
}

} // namespace gpud
