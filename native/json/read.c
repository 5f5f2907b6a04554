#include "json.h"

#include <math.h>
#include <stdlib.h>

#include "text.h"

// What may come next.
enum {
    VALUE,
    FIRST_VALUE, // or the end of the array
    NAME,
    FIRST_NAME, // or the end of the object
    COLON,
    COMMA, // or the end of what is open
    IN_STRING,
    IN_NAME,
    FAILED,
};

void json_read(struct json_reader *reader, const void *text, size_t size, unsigned max_depth) {
    *reader = (struct json_reader){.text = text, .size = size};
    reader->max_depth = max_depth < JSON_MAX_DEPTH ? max_depth : JSON_MAX_DEPTH;
    reader->state = VALUE;
    // RFC 8259 8.1: a byte order mark may be ignored.
    if (size >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0) {
        reader->at = 3;
    }
}

static enum json_event fail(struct json_reader *reader, size_t at, const char *error) {
    reader->state = FAILED;
    reader->error = error;
    reader->at = at;
    return JSON_ERROR;
}

static enum json_event unexpected(struct json_reader *reader) {
    bool end = reader->at == reader->size;
    return fail(reader, reader->at, end ? "unexpected end" : "unexpected character");
}

static bool in_object(const struct json_reader *reader) {
    return reader->depth && reader->objects >> (reader->depth - 1) & 1;
}

static enum json_event enter(struct json_reader *reader, bool object) {
    if (reader->depth == reader->max_depth) {
        return fail(reader, reader->at, "nested too deeply");
    }
    uint64_t bit = 1ull << reader->depth++;
    reader->objects = object ? reader->objects | bit : reader->objects & ~bit;
    reader->state = object ? FIRST_NAME : FIRST_VALUE;
    reader->at++;
    return object ? JSON_OBJECT : JSON_ARRAY;
}

static enum json_event leave(struct json_reader *reader) {
    enum json_event event = in_object(reader) ? JSON_OBJECT_END : JSON_ARRAY_END;
    reader->depth--;
    reader->state = COMMA;
    reader->at++;
    return event;
}

static enum json_event literal(struct json_reader *reader, const char *name,
    enum json_event event) {
    size_t length = strlen(name);
    for (size_t i = 0; i < length; i++, reader->at++) {
        if (reader->at == reader->size || reader->text[reader->at] != name[i]) {
            return unexpected(reader);
        }
    }
    reader->state = COMMA;
    return event;
}

static int hex4(const uint8_t *text) {
    int code = 0;
    for (int i = 0; i < 4; i++) {
        int c = text[i], digit;
        if (c >= '0' && c <= '9') {
            digit = c - '0';
        } else if ((c | 0x20) >= 'a' && (c | 0x20) <= 'f') {
            digit = (c | 0x20) - 'a' + 10;
        } else {
            return -1;
        }
        code = code << 4 | digit;
    }
    return code;
}

// The character of an escape and its length in the text; 0 if it is none.
static size_t escape(const uint8_t *text, size_t size, uint32_t *character) {
    static const char named[] = "\"\"\\\\//b\bf\fn\nr\rt\t";
    if (size < 2) {
        return 0;
    }
    if (text[1] != 'u') {
        for (const char *name = named; *name; name += 2) {
            if ((uint8_t)*name == text[1]) {
                *character = (uint8_t)name[1];
                return 2;
            }
        }
        return 0;
    }
    int code = size < 6 ? -1 : hex4(text + 2);
    if (code < 0) {
        return 0;
    }
    *character = code;
    if (code < 0xD800 || code > 0xDFFF) {
        return 6;
    }
    // RFC 8259 7: a character beyond U+FFFF is a pair. A half is no character, and no UTF-8 has it.
    int low = code > 0xDBFF || size < 12 || text[6] != '\\' || text[7] != 'u' ? -1 : hex4(text + 8);
    if (low < 0xDC00 || low > 0xDFFF) {
        return 0;
    }
    *character = 0x10000 + ((code - 0xD800u) << 10) + (low - 0xDC00);
    return 12;
}

static size_t utf8_length(uint32_t character) {
    return 1 + (character > 0x7F) + (character > 0x7FF) + (character > 0xFFFF);
}

static enum json_event string(struct json_reader *reader, size_t work) {
    const uint8_t *text = reader->text;
    size_t at = reader->at, size = reader->size, stop = size - at > work ? at + work : size;
    while (at < stop) {
        if (size - at >= 8 && json_plain(text + at)) {
            at += 8;
            reader->length += 8;
            continue;
        }
        size_t length = 1;
        if (text[at] == '"') {
            reader->end = at;
            reader->at = at + 1;
            bool name = reader->state == IN_NAME;
            reader->state = name ? COLON : COMMA;
            return name ? JSON_NAME : JSON_STRING;
        }
        if (text[at] == '\\') {
            uint32_t character;
            size_t raw = escape(text + at, size - at, &character);
            if (!raw) {
                return fail(reader, at, "invalid escape");
            }
            at += raw;
            reader->escaped = true;
            reader->length += utf8_length(character);
            continue;
        }
        if (text[at] < 0x20) {
            return fail(reader, at, "control character in a string");
        }
        if (text[at] >= 0x80 && !(length = json_character(text + at, size - at))) {
            return fail(reader, at, "no UTF-8");
        }
        at += length;
        reader->length += length;
    }
    reader->at = at;
    return at < size ? JSON_PAUSE : unexpected(reader);
}

static enum json_event begin_string(struct json_reader *reader, bool name, size_t work) {
    reader->state = name ? IN_NAME : IN_STRING;
    reader->at++;
    reader->start = reader->at;
    reader->length = 0;
    reader->escaped = false;
    return string(reader, work);
}

static size_t digits(const struct json_reader *reader, size_t at) {
    while (at < reader->size && reader->text[at] >= '0' && reader->text[at] <= '9') {
        at++;
    }
    return at;
}

// The double that is nearest to text[start..end).
static double to_double(const uint8_t *text, size_t start, size_t end) {
    // Up to 2^53 and 10^22 are doubles, so that one operation rounds once (Clinger 1990).
    // clang-format off
    static const double powers[] = {
        1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16,
        1e17, 1e18, 1e19, 1e20, 1e21, 1e22,
    };
    // clang-format on
    uint64_t mantissa = 0;
    int exponent = 0;
    bool fraction = false, plain = true;
    size_t at = start + (text[start] == '-');
    for (; at < end && (text[at] | 0x20) != 'e'; at++) {
        if (text[at] == '.') {
            fraction = true;
            continue;
        }
        mantissa = mantissa * 10 + text[at] - '0';
        exponent -= fraction;
        if (mantissa >= 1ull << 53) {
            plain = false;
            break;
        }
    }
    if (plain && at < end) {
        bool negative = text[++at] == '-';
        int given = 0;
        for (at += text[at] == '-' || text[at] == '+'; at < end && given < 1000; at++) {
            given = given * 10 + text[at] - '0';
        }
        exponent += negative ? -given : given;
    }
    if (plain && exponent >= -22 && exponent <= 22) {
        double value = (double)mantissa;
        value = exponent < 0 ? value / powers[-exponent] : value * powers[exponent];
        return text[start] == '-' ? -value : value;
    }
    char copy[JSON_MAX_NUMBER + 1];
    memcpy(copy, text + start, end - start);
    copy[end - start] = 0;
    return strtod(copy, NULL);
}

// RFC 8259 6: [ "-" ] ( "0" / digit1-9 *DIGIT ) [ "." 1*DIGIT ] [ "e" [ "+" / "-" ] 1*DIGIT ]
static enum json_event number(struct json_reader *reader) {
    const uint8_t *text = reader->text;
    size_t start = reader->at, size = reader->size, at = start + (text[start] == '-');
    size_t first = at;
    at = digits(reader, at);
    bool malformed = at == first || (at - first > 1 && text[first] == '0'), real = false;
    size_t whole = at;
    if (at < size && text[at] == '.') {
        size_t from = at + 1;
        at = digits(reader, from);
        malformed |= at == from;
        real = true;
    }
    if (at < size && (text[at] | 0x20) == 'e') {
        size_t from = at + 1;
        from += from < size && (text[from] == '+' || text[from] == '-');
        at = digits(reader, from);
        malformed |= at == from;
        real = true;
    }
    if (malformed) {
        return fail(reader, start, "malformed number");
    }
    if (at - start > JSON_MAX_NUMBER) {
        return fail(reader, start, "too long a number");
    }
    reader->start = start;
    reader->end = at;
    reader->state = COMMA;
    reader->at = at;
    if (real) {
        reader->number = to_double(text, start, at);
        return isinf(reader->number) ? fail(reader, start, "number out of range") : JSON_FLOAT;
    }
    reader->fits = whole - first <= 18;
    if (reader->fits) {
        int64_t value = 0;
        for (size_t i = first; i < whole; i++) {
            value = value * 10 + text[i] - '0';
        }
        reader->integer = first > start ? -value : value;
    }
    return JSON_INTEGER;
}

static enum json_event value(struct json_reader *reader, size_t work) {
    switch (reader->text[reader->at]) {
        case '"':
            return begin_string(reader, false, work);
        case '{':
            return enter(reader, true);
        case '[':
            return enter(reader, false);
        case 'n':
            return literal(reader, "null", JSON_NULL);
        case 't':
            return literal(reader, "true", JSON_TRUE);
        case 'f':
            return literal(reader, "false", JSON_FALSE);
        case '-':
        case '0':
        case '1':
        case '2':
        case '3':
        case '4':
        case '5':
        case '6':
        case '7':
        case '8':
        case '9':
            return number(reader);
        default:
            return unexpected(reader);
    }
}

static bool is_space(uint8_t c) {
    return c == ' ' || c == '\n' || c == '\r' || c == '\t';
}

// Goes over white space; returns whether the work allowed sufficed.
static bool skip(struct json_reader *reader, size_t work) {
    const uint8_t *text = reader->text;
    size_t at = reader->at, stop = reader->size - at > work ? at + work : reader->size;
    while (at < stop && is_space(text[at])) {
        at++;
    }
    reader->at = at;
    return at < stop || at == reader->size;
}

enum json_event json_next(struct json_reader *reader, size_t work) {
    if (reader->state == FAILED) {
        return JSON_ERROR;
    }
    if (reader->state == IN_STRING || reader->state == IN_NAME) {
        return string(reader, work);
    }
    for (;;) {
        if (!skip(reader, work)) {
            return JSON_PAUSE;
        }
        if (reader->at == reader->size) {
            bool done = reader->state == COMMA && reader->depth == 0;
            return done ? JSON_DONE : unexpected(reader);
        }
        uint8_t c = reader->text[reader->at];
        switch (reader->state) {
            case FIRST_VALUE:
                if (c == ']') {
                    return leave(reader);
                }
                return value(reader, work);
            case VALUE:
                return value(reader, work);
            case FIRST_NAME:
                if (c == '}') {
                    return leave(reader);
                }
                // Falls through.
            case NAME:
                return c == '"' ? begin_string(reader, true, work) : unexpected(reader);
            case COLON:
                if (c != ':') {
                    return unexpected(reader);
                }
                reader->state = VALUE;
                break;
            default:
                if (reader->depth && c == (in_object(reader) ? '}' : ']')) {
                    return leave(reader);
                }
                if (!reader->depth || c != ',') {
                    return unexpected(reader);
                }
                reader->state = in_object(reader) ? NAME : VALUE;
        }
        reader->at++;
    }
}

static size_t put(uint8_t *to, uint32_t character) {
    size_t length = utf8_length(character);
    if (length == 1) {
        to[0] = (uint8_t)character;
        return 1;
    }
    for (size_t i = length; i-- > 1; character >>= 6) {
        to[i] = 0x80 | (character & 0x3F);
    }
    to[0] = (uint8_t)(0xF00 >> length | character);
    return length;
}

size_t json_decode(const struct json_reader *reader, size_t *from, uint8_t *to, size_t work) {
    const uint8_t *text = reader->text;
    size_t at = *from, end = reader->end, stop = end - at > work ? at + work : end, written = 0;
    while (at < stop) {
        if (end - at >= 8 && json_plain(text + at)) {
            memcpy(to + written, text + at, 8);
            at += 8;
            written += 8;
        } else if (text[at] == '\\') {
            uint32_t character;
            at += escape(text + at, end - at, &character);
            written += put(to + written, character);
        } else {
            to[written++] = text[at++];
        }
    }
    *from = at;
    return written;
}
