// JSON text (RFC 8259) taken apart into tokens and put together from values. No memory is
// allocated, nothing recurses, and every call does a bounded amount of work: the caller owns the
// tree, the stack and the time.
#ifndef CLLM_JSON_H
#define CLLM_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Characters of one number. A double written out in full has 309 digits before the point, or 1,074
// behind it.
#define JSON_MAX_NUMBER 1100
// Levels of arrays and objects that a reader can keep apart.
#define JSON_MAX_DEPTH 64
// Bytes that json_double() writes at most.
#define JSON_DOUBLE_SIZE 25

enum json_event {
    JSON_PAUSE, // the work allowed is done in the middle of a token: call again
    JSON_ERROR, // see `error` and `at`; every further call gives the same
    JSON_DONE,  // the text was one value
    JSON_NULL,
    JSON_FALSE,
    JSON_TRUE,
    JSON_INTEGER, // text[start..end), also `integer` if `fits`
    JSON_FLOAT,   // `number`, which is finite
    JSON_STRING,  // between quotes: text[start..end); `length` bytes when decoded
    JSON_NAME,    // the same, of a member whose value comes next
    JSON_ARRAY,
    JSON_ARRAY_END,
    JSON_OBJECT,
    JSON_OBJECT_END,
};

struct json_reader {
    const uint8_t *text;
    size_t size, at;
    const char *error;
    unsigned depth, max_depth;
    uint64_t objects; // a bit for each level: it is an object
    uint8_t state;
    // Of the last token.
    size_t start, end, length;
    bool escaped; // text[start..end) has escapes: json_decode() makes the string
    bool fits;
    int64_t integer;
    double number;
};

// Begins with `text`, which must stay where it is. max_depth: at most JSON_MAX_DEPTH.
void json_read(struct json_reader *reader, const void *text, size_t size, unsigned max_depth);

// The next token. Strings are valid UTF-8 and have whole surrogate pairs only, numbers are in the
// range of a double. work: bytes of white space or of one string to go over, about.
enum json_event json_next(struct json_reader *reader, size_t work);

// Decodes the string that was the last token from text[*from] on, which is `start` at first, and
// moves *from on by about `work` bytes; all is done when it is `end`. Returns how many bytes it
// wrote.
size_t json_decode(const struct json_reader *reader, size_t *from, uint8_t *to, size_t work);

// Writes text[*from..size) as it stands between quotes, until all is done or `room` is used up to
// the last few bytes, and moves *from on. Returns how many bytes it wrote, SIZE_MAX if the text is
// not UTF-8 at *from. room: 16 at least.
size_t json_escape(const uint8_t *text, size_t size, size_t *from, uint8_t *to, size_t room);

// Writes the shortest decimal that reads as `value` and of these the nearest, as Python's repr().
// Returns its length, 0 for what JSON has no number for (infinities, NaN).
size_t json_double(double value, char to[JSON_DOUBLE_SIZE]);

// How many bytes of the text are whole characters of UTF-8 (Unicode, table 3-7): no surrogates,
// nothing longer than it must be.
size_t json_valid(const uint8_t *text, size_t size);

// How many bytes at `text`, where json_valid() is 0, began a character well, 1 at least: what one
// U+FFFD stands for (Unicode 3.9). *cut: the character may go on behind the text. size: not 0.
size_t json_broken(const uint8_t *text, size_t size, bool *cut);

#endif
