// checks.h: checks of what a request can influence, before llama.cpp sees it.
#ifndef CLLM_ENGINE_CHECKS_H
#define CLLM_ENGINE_CHECKS_H

#include "errors.h"
#include "state.h"

#include "chat.h" // common_json

#include <string>

// All throw bad_input.
void check(bool condition, const std::string &reason);
void check_token(const engine *e, int32_t token);
void check_seq(const engine *e, int32_t seq);

// Return the JSON of a request, nested no deeper than a stack can take; bad_input names `what`.
common_json parse_json(const char *text, size_t len, const char *what);

#endif // CLLM_ENGINE_CHECKS_H
