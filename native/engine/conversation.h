// conversation.h: a conversation as the model's chat template renders it.
#ifndef CLLM_ENGINE_CONVERSATION_H
#define CLLM_ENGINE_CONVERSATION_H

#include "state.h"

#include <memory>
#include <string>

// A rendered conversation, see engine_chat_open().
struct engine_chat {
    std::shared_ptr<engine_chat> self; // until engine_chat_close(); jobs may hold it longer
    uint64_t owner;                    // its engine's serial number; the engine may be closed
    common_chat_params params;
    common_chat_parser_params syntax;
    bool has_tools = false;
    int32_t reasoning_budget = -1;
    std::string reasoning_message;
    std::string description; // of engine_chat_describe()
};

// Adds the grammar and the reasoning budget of a conversation to the parameters of a sampler.
void sampling_from_chat(const engine *e, common_params_sampling &sampling, const engine_chat &chat);

// Like common_chat_templates_apply(), for a reply that must be a call of one of the tools of
// `inputs` and nothing else.
common_chat_params forced_call(const engine *e, const common_chat_templates_inputs &inputs);

#endif // CLLM_ENGINE_CONVERSATION_H
