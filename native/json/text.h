// What reading and writing strings have in common.
#ifndef CLLM_JSON_TEXT_H
#define CLLM_JSON_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define EACH(byte) ((byte) * 0x0101010101010101u)

// Whether eight bytes are ASCII and stand for themselves in a string. A borrow only starts at a
// byte that is one of those looked for, so it finds none where there is none.
static inline bool json_plain(const uint8_t *text) {
    uint64_t word;
    memcpy(&word, text, sizeof word);
    uint64_t quote = word ^ EACH('"'), back = word ^ EACH('\\');
    uint64_t found = (word - EACH(0x20)) | (quote - EACH(1)) | (back - EACH(1)) | word;
    return !(found & EACH(0x80));
}

// Bytes of the character at `text`, which is not ASCII; 0 if it is not UTF-8.
size_t json_character(const uint8_t *text, size_t size);

#endif
