// chat.cpp: from OpenAI-shaped messages to a prompt by the model's template, and from what the
// model replies to content, reasoning and tool calls, through common/chat; see engine.h.
#include "conversation.h"

#include "call.h"
#include "checks.h"
#include "engine_job.h"
#include "log.h"
#include "random.h"
#include "tokens.h"

#include <algorithm>
#include <climits>
#include <cmath>

// What has come of a reply so far.
struct engine_reply {
    common_chat_parser_params syntax;
    std::string text;
    common_chat_msg begun; // by the client
    common_chat_msg message;
    std::vector<std::string> call_ids;
    std::string result;
};

namespace {

// common's parsers descend once per bracket, and a model can be made to print any number of them.
constexpr int max_reply_depth = 128;

std::string make_call_id() {
    static const char letters[] = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    uint8_t random[32];
    random_bytes(random, sizeof random);
    std::string id;
    for (uint8_t byte : random) {
        id += letters[byte % (sizeof letters - 1)];
    }
    return id;
}

bool get_bool(const std::string &name, const common_json &value) {
    check(value.is_boolean(), name + ": not a boolean");
    return value.get<bool>();
}

std::string get_string(const std::string &name, const common_json &value) {
    check(value.is_string(), name + ": not a string");
    return value.get<std::string>();
}

// As call() does, for what needs no engine: these handles outlive it.
template <class Body> int call_without_engine(Body &&body) noexcept {
    scoped_value<bool> catches(catching, true);
    return translated(nullptr, body);
}

// One key of a conversation; false if there is no such key.
bool set_input(common_chat_templates_inputs &inputs, engine_chat &chat, const std::string &name,
    const common_json &value) {
    if (name == "messages") {
        inputs.messages = common_chat_msgs_parse_oaicompat(value);
    } else if (name == "tools") {
        inputs.tools = common_chat_tools_parse_oaicompat(value);
    } else if (name == "tool_choice") {
        inputs.tool_choice = common_chat_tool_choice_parse_oaicompat(get_string(name, value));
    } else if (name == "parallel_tool_calls") {
        inputs.parallel_tool_calls = get_bool(name, value);
    } else if (name == "json_schema") {
        check(value.is_object(), "json_schema: not a JSON object");
        common_json schema = value;
        if (schema.empty()) {
            schema["type"] = "object"; // an empty schema means any object
        }
        inputs.json_schema = schema.dump();
    } else if (name == "add_generation_prompt") {
        inputs.add_generation_prompt = get_bool(name, value);
    } else if (name == "continue_final_message") {
        inputs.continue_final_message = common_chat_continuation_parse(value);
    } else if (name == "enable_thinking") {
        inputs.enable_thinking = get_bool(name, value);
    } else if (name == "reasoning_format") {
        inputs.reasoning_format = common_reasoning_format_from_name(get_string(name, value));
    } else if (name == "reasoning_budget_tokens") {
        check(value.is_number(), name + ": not a number");
        double budget = value.get<double>();
        check(budget >= -1 && budget <= INT_MAX && budget == std::floor(budget),
            name + ": out of range");
        chat.reasoning_budget = static_cast<int32_t>(budget);
    } else if (name == "reasoning_budget_message") {
        chat.reasoning_message = get_string(name, value);
    } else if (name == "chat_template_kwargs") {
        check(value.is_object(), "chat_template_kwargs: not a JSON object");
        for (const auto &[variable, content] : value.items()) {
            inputs.chat_template_kwargs[variable] = content.dump();
        }
    } else {
        return false;
    }
    return true;
}

void check_continuation(common_chat_templates_inputs &inputs) {
    if (inputs.continue_final_message == COMMON_CHAT_CONTINUATION_NONE) {
        return;
    }
    check(!inputs.add_generation_prompt,
        "Cannot set both add_generation_prompt and continue_final_message to true.");
    check(inputs.messages.empty() || inputs.messages.back().role != "assistant"
            || inputs.messages.back().tool_calls.empty(),
        "Cannot continue an assistant message that contains tool calls.");
}

bool depth_is_fine(const std::string &text) {
    int depth = 0;
    for (char c : text) {
        if (c == '[' || c == '{') {
            if (++depth > max_reply_depth) {
                return false;
            }
        } else if ((c == ']' || c == '}') && depth > 0) {
            --depth;
        }
    }
    return true;
}

// Whether a reply in this syntax is its own content, so that it need not be parsed piece by piece.
bool is_plain(const engine_chat &chat) {
    if (chat.has_tools || chat.params.supports_thinking) {
        return false;
    }
    const std::string probe = " Any words,\n\n and then\n ";
    try {
        std::string begun;
        if (chat.syntax.is_continuation) {
            begun = common_chat_parse("", true, chat.syntax).content;
        }
        common_chat_msg message = common_chat_parse(probe, false, chat.syntax);
        return message.content == begun + probe && message.reasoning_content.empty()
            && message.tool_calls.empty();
    } catch (const assertion &) {
        throw;
    } catch (const std::exception &) {
        return false; // a reply has a form to keep, such as a JSON schema
    }
}

void erase_prefix(std::string &text, const std::string &prefix) {
    if (text.compare(0, prefix.size(), prefix) == 0) {
        text.erase(0, prefix.size());
    }
}

common_json delta_of(const common_chat_msg_diff &diff) {
    common_json delta = common_json::object();
    if (!diff.reasoning_content_delta.empty()) {
        delta["reasoning_content"] = diff.reasoning_content_delta;
    }
    if (!diff.content_delta.empty()) {
        delta["content"] = diff.content_delta;
    }
    if (diff.tool_call_index != std::string::npos) {
        common_json call = common_json::object();
        call["index"] = diff.tool_call_index;
        const common_chat_tool_call &part = diff.tool_call_delta;
        if (!part.id.empty()) {
            call["id"] = part.id;
            call["type"] = "function";
        }
        common_json function = common_json::object();
        if (!part.name.empty()) {
            function["name"] = part.name;
        }
        if (!part.arguments.empty()) {
            function["arguments"] = part.arguments;
        }
        if (!function.empty()) {
            call["function"] = function;
        }
        delta["tool_calls"] = common_json::array({call});
    }
    return delta;
}

// Control tokens that a reply's format is made of.
std::vector<llama_token> shown_tokens(const engine *e, const common_chat_params &params) {
    std::vector<llama_token> shown;
    for (const std::string &text : params.preserved_tokens) {
        std::vector<llama_token> tokens = tokens_of(e, text);
        if (tokens.size() == 1 && llama_vocab_is_control(e->vocab, tokens[0])) {
            shown.push_back(tokens[0]);
        }
    }
    return shown;
}

void describe(const engine *e, engine_chat &chat) {
    common_json all = common_json::object();
    all["prompt"] = chat.params.prompt;
    all["stops"] = chat.params.additional_stops;
    all["plain"] = is_plain(chat);
    all["format"] = common_chat_format_name(chat.params.format);
    all["generation_prompt"] = chat.params.generation_prompt;
    all["grammar"] = chat.params.grammar;
    all["thinking"] = chat.params.supports_thinking;
    if (auto shown = shown_tokens(e, chat.params); !shown.empty()) {
        all["shown"] = shown;
    }
    chat.description = all.dump_safe();
}

} // namespace

void sampling_from_chat(const engine *e, common_params_sampling &sampling,
    const engine_chat &chat) {
    const common_chat_params &params = chat.params;
    sampling.generation_prompt = params.generation_prompt;
    for (const std::string &text : params.preserved_tokens) {
        std::vector<llama_token> tokens = tokens_of(e, text);
        if (tokens.size() == 1) {
            sampling.preserved_tokens.insert(tokens[0]);
        }
    }
    if (!params.grammar.empty()) {
        check(sampling.grammar.empty(), "Cannot use custom grammar constraints with tools.");
        sampling.grammar = {COMMON_GRAMMAR_TYPE_TOOL_CALLS, params.grammar};
        sampling.grammar_lazy = params.grammar_lazy;
        for (common_grammar_trigger trigger : params.grammar_triggers) {
            if (trigger.type == COMMON_GRAMMAR_TRIGGER_TYPE_WORD) {
                std::vector<llama_token> tokens = tokens_of(e, trigger.value);
                if (tokens.size() == 1 && sampling.preserved_tokens.count(tokens[0])) {
                    trigger.type = COMMON_GRAMMAR_TRIGGER_TYPE_TOKEN;
                    trigger.token = tokens[0];
                }
            }
            sampling.grammar_triggers.push_back(trigger);
        }
    }
    if (params.thinking_end_tags.empty()) {
        return;
    }
    sampling.reasoning_budget_tokens = chat.reasoning_budget;
    sampling.reasoning_budget_start = tokens_of(e, params.thinking_start_tag);
    for (const std::string &tag : params.thinking_end_tags) {
        if (!tag.empty()) {
            sampling.reasoning_budget_end.push_back(tokens_of(e, tag));
        }
    }
    if (!sampling.reasoning_budget_end.empty()) {
        std::vector<llama_token> forced = tokens_of(e, chat.reasoning_message);
        const auto &end = sampling.reasoning_budget_end.front();
        forced.insert(forced.end(), end.begin(), end.end());
        sampling.reasoning_budget_forced = std::move(forced);
    }
}

static void render(const engine *e, const common_json &json, engine_chat &chat) {
    common_chat_templates *templates = e->templates.get();
    common_chat_templates_inputs inputs;
    inputs.reasoning_format = COMMON_REASONING_FORMAT_AUTO;
    auto caps = common_chat_templates_get_caps(templates);
    inputs.parallel_tool_calls = caps["supports_parallel_tool_calls"];
    for (const auto &[name, value] : json.items()) {
        check(set_input(inputs, chat, name, value), name + ": no such option");
    }
    check(!inputs.messages.empty(), "'messages' must not be empty");
    check_continuation(inputs);
    chat.has_tools = !inputs.tools.empty() && inputs.tool_choice != COMMON_CHAT_TOOL_CHOICE_NONE;
    if (chat.has_tools && inputs.tool_choice == COMMON_CHAT_TOOL_CHOICE_REQUIRED) {
        chat.params = forced_call(e, inputs);
        if (chat.reasoning_budget < 0) {
            chat.reasoning_budget = static_cast<int32_t>(e->info.n_ctx / 2);
        }
    } else {
        chat.params = common_chat_templates_apply(templates, inputs);
    }
    chat.syntax = common_chat_parser_params(chat.params);
    chat.syntax.reasoning_format = inputs.reasoning_format;
    chat.syntax.parse_tool_calls = chat.has_tools;
    chat.syntax.is_continuation = inputs.continue_final_message != COMMON_CHAT_CONTINUATION_NONE;
    if (!chat.params.parser.empty()) {
        chat.syntax.parser.load(chat.params.parser);
    }
    describe(e, chat);
}

int engine_chat_start(struct engine *e, const char *request, size_t len, uint32_t ms,
    struct engine_job **out) {
    *out = nullptr;
    return call(e, KNOWS, [&] {
        if (!e->templates) {
            throw std::runtime_error(e->template_error);
        }
        auto body = [text = std::string(request, len), e](job_result &result) {
            common_json json = parse_json(text.data(), text.size(), "conversation");
            check(json.is_object() && json.contains("messages"), "conversation: no messages");
            auto chat = std::make_shared<engine_chat>();
            chat->owner = e->serial;
            log_capture capture;
            with_input([&] { render(e, json, *chat); });
            result.chat = std::move(chat);
        };
        start_job(e, engine_job::kind::chat, ms, std::move(body), out);
    });
}

int engine_chat_finish(struct engine_job *j, struct engine_chat **out) {
    *out = nullptr;
    return finish_job(j, engine_job::kind::chat, [&](job_result &result) {
        *out = result.chat.get();
        (*out)->self = std::move(result.chat);
    });
}

int engine_chat_open(struct engine *e, const char *request, size_t len, struct engine_chat **out) {
    *out = nullptr;
    engine_job *j;
    int code = engine_chat_start(e, request, len, 0, &j);
    if (code == ENGINE_OK) {
        code = engine_chat_finish(j, out);
        engine_job_close(j);
    }
    return code;
}

int engine_chat_describe(const struct engine_chat *chat, const char **json, size_t *len) {
    *json = chat->description.data();
    *len = chat->description.size();
    return ENGINE_OK;
}

void engine_chat_close(struct engine_chat *chat) {
    if (chat) {
        // The last reference goes when this one does, out here.
        const std::shared_ptr<engine_chat> self = std::move(chat->self);
    }
}

int engine_reply_open(const struct engine_chat *chat, struct engine_reply **out) {
    *out = nullptr;
    return call_without_engine([&] {
        auto reply = std::make_unique<engine_reply>();
        reply->syntax = chat->syntax;
        if (reply->syntax.is_continuation) {
            // What the client wrote itself is no news.
            reply->begun = common_chat_parse("", true, reply->syntax);
            reply->message = reply->begun;
        }
        *out = reply.release();
    });
}

int engine_reply_push(struct engine_reply *reply, const char *text, size_t len, bool final,
    const char **json, size_t *json_len) {
    return call_without_engine([&] {
        reply->text.append(text, len);
        if (!depth_is_fine(reply->text)) {
            throw std::runtime_error("The model's output is nested too deeply to be parsed");
        }
        common_json result = common_json::object();
        result["deltas"] = common_json::array({});
        common_chat_msg message = common_chat_parse(reply->text, !final, reply->syntax);
        if (!message.empty()) {
            message.set_tool_call_ids(reply->call_ids, make_call_id);
            for (const auto &diff : common_chat_msg_diff::compute_diffs(reply->message, message)) {
                result["deltas"].push_back(delta_of(diff));
            }
            reply->message = message;
        }
        if (final) {
            common_chat_msg whole = reply->message;
            whole.role = "assistant";
            erase_prefix(whole.content, reply->begun.content);
            erase_prefix(whole.reasoning_content, reply->begun.reasoning_content);
            result["message"] = whole.to_json_oaicompat();
        }
        reply->result = result.dump_safe();
        *json = reply->result.data();
        *json_len = reply->result.size();
    });
}

void engine_reply_close(struct engine_reply *reply) {
    delete reply;
}
