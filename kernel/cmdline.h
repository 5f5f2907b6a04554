// Words of the boot loader's command line: one lookup for everybody who takes an option from it.
#ifndef CLLM_CMDLINE_H
#define CLLM_CMDLINE_H

#include <stdbool.h>

// Whether `word` is one of the words.
bool cmdline_has(const char *word);
// Finds words that begin with `key`, which ends in "=": returns the value, behind the "=", of the
// next one after the value `last`, or of the first one if that is NULL. NULL after the last one.
const char *cmdline_next(const char *key, const char *last);
// Whether the value, up to a blank or the end, is `word`.
bool cmdline_is(const char *value, const char *word);

#endif
