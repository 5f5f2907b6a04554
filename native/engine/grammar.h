// grammar.h: looks at a grammar before llama.cpp does.
#ifndef CLLM_ENGINE_GRAMMAR_H
#define CLLM_ENGINE_GRAMMAR_H

#include "state.h"

#include <string>

// Throw bad_input for a grammar that
void check_grammar(const std::string &grammar); // is too large or nested too deeply
void check_grammar_size(const std::string &grammar,
    const char *what);                                         // `what` it came of: too large
void check_rules(const engine *e, const std::string &grammar); // llama.cpp would never finish

#endif // CLLM_ENGINE_GRAMMAR_H
