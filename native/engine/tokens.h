// tokens.h: text to tokens and back.
#ifndef CLLM_ENGINE_TOKENS_H
#define CLLM_ENGINE_TOKENS_H

#include "state.h"

#include <string>
#include <vector>

// Adds the text of a token. special: of control tokens too.
void append_piece(const engine *e, int32_t token, bool special, std::string &text);

// Return the token ids of a text, control tokens parsed, nothing added. Throws bad_input.
std::vector<llama_token> tokens_of(const engine *e, const std::string &text);

#endif // CLLM_ENGINE_TOKENS_H
