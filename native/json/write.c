#include "json.h"

#include <math.h>

#include "text.h"

// Bytes at `text` that begin a character well, and in *length how many it has in all; 0 if none
// begins with the first.
static size_t begun(const uint8_t *text, size_t size, size_t *length) {
    // Unicode 15, table 3-7. The second byte's range keeps out what is too long, too large, or a
    // surrogate.
    uint8_t first = text[0], low = 0x80, high = 0xBF;
    *length = first < 0xC2 || first > 0xF4 ? 0 : first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
    if (first < 0x80 || !*length) {
        return *length = first < 0x80;
    }
    switch (first) {
        case 0xE0:
            low = 0xA0;
            break;
        case 0xED:
            high = 0x9F;
            break;
        case 0xF0:
            low = 0x90;
            break;
        case 0xF4:
            high = 0x8F;
            break;
    }
    size_t good = 1;
    while (good < *length && good < size && text[good] >= low && text[good] <= high) {
        good++;
        low = 0x80;
        high = 0xBF;
    }
    return good;
}

size_t json_character(const uint8_t *text, size_t size) {
    size_t length, good = begun(text, size, &length);
    return good == length ? length : 0;
}

size_t json_valid(const uint8_t *text, size_t size) {
    size_t at = 0;
    while (at < size) {
        uint64_t word;
        if (size - at >= 8 && (memcpy(&word, text + at, 8), !(word & EACH(0x80)))) {
            at += 8;
            continue;
        }
        size_t length = json_character(text + at, size - at);
        if (!length) {
            break;
        }
        at += length;
    }
    return at;
}

size_t json_broken(const uint8_t *text, size_t size, bool *cut) {
    size_t length, good = begun(text, size, &length);
    *cut = good == size && good < length;
    return good ? good : 1;
}

size_t json_escape(const uint8_t *text, size_t size, size_t *from, uint8_t *to, size_t room) {
    static const char hex[] = "0123456789abcdef";
    // Of the control characters these have names (RFC 8259 7).
    static const char named[] = "\b\f\n\r\t", names[] = "bfnrt";
    size_t at = *from, written = 0;
    while (at < size && room - written >= 8) {
        if (size - at >= 8 && json_plain(text + at)) {
            memcpy(to + written, text + at, 8);
            at += 8;
            written += 8;
            continue;
        }
        uint8_t c = text[at];
        if (c >= 0x80) {
            size_t length = json_character(text + at, size - at);
            if (!length) {
                *from = at;
                return SIZE_MAX;
            }
            memcpy(to + written, text + at, length);
            at += length;
            written += length;
            continue;
        }
        at++;
        if (c >= 0x20 && c != '"' && c != '\\') {
            to[written++] = c;
            continue;
        }
        to[written++] = '\\';
        const char *found = memchr(named, c, 5);
        if (c >= 0x20) {
            to[written++] = c;
        } else if (found) {
            to[written++] = (uint8_t)names[found - named];
        } else {
            memcpy(to + written, "u00", 3);
            to[written + 3] = hex[c >> 4];
            to[written + 4] = hex[c & 15];
            written += 5;
        }
    }
    *from = at;
    return written;
}

// --- numbers

struct decimal {
    char digits[20]; // without zeros at either end, 0.DIGITS * 10^point
    int length, point;
};

// The decimal of number * 10^exponent.
static void set_decimal(struct decimal *decimal, uint64_t number, int exponent) {
    while (number % 10 == 0) {
        number /= 10;
        exponent++;
    }
    decimal->length = 0;
    for (uint64_t rest = number; rest; rest /= 10) {
        decimal->length++;
    }
    decimal->point = decimal->length + exponent;
    for (int i = decimal->length; i-- > 0; number /= 10) {
        decimal->digits[i] = (char)('0' + number % 10);
    }
}

// clang-format off
static const uint64_t fives[] = {
    1u, 5u, 25u, 125u, 625u, 3125u, 15625u, 78125u, 390625u, 1953125u, 9765625u, 48828125u,
    244140625u, 1220703125u, 6103515625u, 30517578125u, 152587890625u, 762939453125u,
    3814697265625u, 19073486328125u, 95367431640625u, 476837158203125u, 2384185791015625u,
    11920928955078125u, 59604644775390625u, 298023223876953125u, 1490116119384765625u,
    7450580596923828125u,
};
// clang-format on
#define MOST_FIVES 27

// For numbers around 1, exactly and in integers: `value` times 10^scale, of 17 digits, lies among
// the integers that read as `value`; a multiple of the largest power of ten among them is the
// shortest decimal (Steele and White 1990). False where that needs more than 128 bits.
static bool shortest_near_one(double value, struct decimal *decimal) {
    int exponent;
    uint64_t mantissa = (uint64_t)ldexp(frexp(value, &exponent), 53);
    exponent -= 53;
    // log10(2) is 1233/4096 nearly: the number of digits, or one less.
    int scale = 16 - ((exponent + 52) * 1233 >> 12);
    if (scale < 0 || scale > MOST_FIVES) {
        return false;
    }
    // In quarters of the last place: half a place to each side, a quarter below a power of two,
    // whose neighbour there is nearer.
    unsigned __int128 quarter = fives[scale];
    unsigned __int128 middle = mantissa * 4 * quarter;
    unsigned __int128 above = middle + 2 * quarter;
    unsigned __int128 below = middle - (mantissa == 1ull << 52 ? 1 : 2) * quarter;
    int shift = 2 - exponent - scale;
    if (shift < 1 || shift > 120) {
        return false;
    }
    unsigned __int128 mask = ((unsigned __int128)1 << shift) - 1;
    // What lies just between two doubles reads as the even one.
    bool even = !(mantissa & 1);
    uint64_t least = (uint64_t)(below >> shift) + ((below & mask) || !even);
    uint64_t most = (uint64_t)(above >> shift) - (!(above & mask) && !even);
    uint64_t whole = (uint64_t)(middle >> shift), power = 1;
    unsigned __int128 rest = middle & mask;
    while (most / (power * 10) * (power * 10) >= least) {
        power *= 10;
    }
    uint64_t over = whole % power, down = whole - over;
    bool up;
    if (power == 1) {
        unsigned __int128 half = (unsigned __int128)1 << (shift - 1);
        up = rest > half || (rest == half && down & 1);
    } else {
        up = over * 2 > power || (over * 2 == power && (rest || (down / power) & 1));
    }
    if (down < least) {
        up = true;
    } else if (down + power > most) {
        up = false;
    }
    set_decimal(decimal, up ? down + power : down, -scale);
    return true;
}

// Numbers of up to 1,280 bits: 2^1074 and 10^324 are among them.
struct big {
    uint32_t word[40]; // the least first
    int size;
};

static void set(struct big *big, uint64_t value, int shift) {
    memset(big->word, 0, sizeof big->word);
    int at = shift / 32, bits = shift % 32;
    unsigned __int128 shifted = (unsigned __int128)value << bits;
    for (int i = 0; i < 3; i++, shifted >>= 32) {
        big->word[at + i] = (uint32_t)shifted;
    }
    for (big->size = at + 3; big->size && !big->word[big->size - 1]; big->size--) {
    }
}

static void multiply(struct big *big, uint32_t factor) {
    uint64_t carry = 0;
    for (int i = 0; i < big->size; i++) {
        carry += (uint64_t)big->word[i] * factor;
        big->word[i] = (uint32_t)carry;
        carry >>= 32;
    }
    if (carry) {
        big->word[big->size++] = (uint32_t)carry;
    }
}

static void multiply_by_power(struct big *big, int power) {
    for (; power >= 9; power -= 9) {
        multiply(big, 1000000000);
    }
    for (; power > 0; power--) {
        multiply(big, 10);
    }
}

static int compare(const struct big *a, const struct big *b) {
    if (a->size != b->size) {
        return a->size < b->size ? -1 : 1;
    }
    for (int i = a->size; i-- > 0;) {
        if (a->word[i] != b->word[i]) {
            return a->word[i] < b->word[i] ? -1 : 1;
        }
    }
    return 0;
}

static void add(struct big *sum, const struct big *a, const struct big *b) {
    uint64_t carry = 0;
    int size = a->size > b->size ? a->size : b->size;
    // Words above the size are zero in all of them.
    for (int i = 0; i <= size; i++) {
        carry += (uint64_t)a->word[i] + b->word[i];
        sum->word[i] = (uint32_t)carry;
        carry >>= 32;
    }
    for (sum->size = size + 1; sum->size && !sum->word[sum->size - 1]; sum->size--) {
    }
}

static void subtract(struct big *from, const struct big *what) {
    int64_t carry = 0;
    for (int i = 0; i < from->size; i++) {
        carry += (int64_t)from->word[i] - what->word[i];
        from->word[i] = (uint32_t)carry;
        carry >>= 32;
    }
    for (; from->size && !from->word[from->size - 1]; from->size--) {
    }
}

// The same for all others, digit by digit (Steele and White 1990, FPP2): value = rest / scale, and
// what lies up to below / scale under it or above / scale over it reads as `value`.
static void shortest(double value, struct decimal *decimal) {
    int exponent;
    bool power_of_two = frexp(value, &exponent) == 0.5 && value > 0x1p-1022;
    exponent = exponent < -1021 ? -1074 : exponent - 53;
    uint64_t mantissa = (uint64_t)ldexp(value, -exponent);
    bool even = !(mantissa & 1);
    int up = exponent > 0 ? exponent : 0, down = exponent < 0 ? -exponent : 0;
    struct big rest, scale, below, above = {{0}, 0}, sum = {{0}, 0};
    // In halves of the distance to the next double below.
    set(&rest, mantissa, up + 1 + power_of_two);
    set(&scale, 1, down + 1 + power_of_two);
    set(&below, 1, up);
    set(&above, 1, up + power_of_two);
    int point = (int)ceil(log10(value)); // or one more or less
    multiply_by_power(&scale, point);
    multiply_by_power(&rest, -point);
    multiply_by_power(&below, -point);
    multiply_by_power(&above, -point);
    for (;;) {
        add(&sum, &rest, &above);
        if (compare(&sum, &scale) < !even) {
            break;
        }
        multiply(&scale, 10);
        point++;
    }
    for (;;) {
        // Below 1: the first digit behind the point may be zero.
        multiply(&rest, 10);
        multiply(&below, 10);
        multiply(&above, 10);
        add(&sum, &rest, &above);
        if (compare(&sum, &scale) >= !even) {
            break;
        }
        point--;
    }
    decimal->point = point;
    decimal->length = 0;
    for (;;) {
        char digit = '0';
        while (compare(&rest, &scale) >= 0) {
            subtract(&rest, &scale);
            digit++;
        }
        add(&sum, &rest, &above);
        bool low = compare(&rest, &below) < even, high = compare(&sum, &scale) >= !even;
        if (low || high) {
            add(&sum, &rest, &rest);
            int half = compare(&sum, &scale);
            bool nearer_above = half > 0 || (half == 0 && digit & 1);
            decimal->digits[decimal->length++] = digit + (high && (!low || nearer_above));
            return;
        }
        decimal->digits[decimal->length++] = digit;
        multiply(&rest, 10);
        multiply(&below, 10);
        multiply(&above, 10);
    }
}

size_t json_double(double value, char to[JSON_DOUBLE_SIZE]) {
    char *out = to;
    if (!isfinite(value)) {
        return 0;
    }
    if (signbit(value)) {
        *out++ = '-';
        value = -value;
    }
    if (value == 0) {
        memcpy(out, "0.0", 3);
        return (size_t)(out + 3 - to);
    }
    struct decimal decimal = {{0}, 0, 0};
    if (!shortest_near_one(value, &decimal)) {
        shortest(value, &decimal);
    }
    const char *digits = decimal.digits;
    int length = decimal.length, point = decimal.point;
    if (point <= -4 || point > 16) {
        *out++ = digits[0];
        if (length > 1) {
            *out++ = '.';
            memcpy(out, digits + 1, (size_t)length - 1);
            out += length - 1;
        }
        int power = point > 0 ? point - 1 : 1 - point;
        *out++ = 'e';
        *out++ = point > 0 ? '+' : '-';
        if (power >= 100) {
            *out++ = (char)('0' + power / 100);
        }
        *out++ = (char)('0' + power / 10 % 10);
        *out++ = (char)('0' + power % 10);
    } else if (point <= 0) {
        memcpy(out, "0.000", 5);
        out += 2 - point;
        memcpy(out, digits, (size_t)length);
        out += length;
    } else {
        for (int i = 0; i < point || i < length; i++) {
            if (i == point) {
                *out++ = '.';
            }
            *out++ = i < length ? digits[i] : '0';
        }
        if (length <= point) {
            *out++ = '.';
            *out++ = '0';
        }
    }
    return (size_t)(out - to);
}
