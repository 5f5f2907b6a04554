// forced_tools.cpp: tool_choice "required" makes the reply a call, whatever the chat template knows
// of tools; see conversation.h.
//
// A template that describes tools has a format for calls, and common/chat makes a grammar of it
// that ends in a call. But the grammar lets the model write any text before, and a model that was
// not trained for tools never comes to an end of it: here that text is taken out of the grammar. A
// template without tools, or whose calls are not JSON by the tools' schemas, gets a format of ours:
// JSON, with the tools in the system message.
#include "conversation.h"

#include "checks.h"
#include "grammar.h"
#include "log.h"
#include "tokens.h"

#include "chat-peg-parser.h"
#include "json-schema-to-grammar.h"

#include <algorithm>
#include <cctype>
#include <map>
#include <set>
#include <unordered_map>

namespace {

// A literal of a grammar (GBNF).
std::string literal(const std::string &text) {
    std::string quoted = "\"";
    for (char c : text) {
        if (c == '"' || c == '\\') {
            quoted += '\\';
            quoted += c;
        } else if (c == '\n') {
            quoted += "\\n";
        } else if (c == '\r') {
            quoted += "\\r";
        } else {
            quoted += c;
        }
    }
    return quoted + "\"";
}

// Number of the "any text until ..." that is all of a parser's node, or
// COMMON_PEG_INVALID_PARSER_ID.
common_peg_parser_id until_of(const common_peg_arena &parser, common_peg_parser_id id) {
    for (int depth = 0; depth < 8; ++depth) {
        const common_peg_parser_variant &node = parser.get(id);
        if (std::get_if<common_peg_until_parser>(&node)) {
            return id;
        } else if (auto rule = std::get_if<common_peg_rule_parser>(&node)) {
            id = rule->child;
        } else if (auto atomic = std::get_if<common_peg_atomic_parser>(&node)) {
            id = atomic->child;
        } else if (auto ref = std::get_if<common_peg_ref_parser>(&node)) {
            id = parser.get_rule(ref->name);
        } else {
            break;
        }
    }
    return COMMON_PEG_INVALID_PARSER_ID;
}

// The rules of a grammar as common writes them, one a line.
class rules {
public:
    explicit rules(const std::string &grammar) {
        for (size_t at = 0; at < grammar.size();) {
            const size_t end = std::min(grammar.find('\n', at), grammar.size());
            const size_t sign = grammar.find(" ::= ", at);
            if (sign < end) {
                index[grammar.substr(at, sign - at)] = bodies.size();
                names.push_back(grammar.substr(at, sign - at));
                bodies.push_back(grammar.substr(sign + 5, end - sign - 5));
            } else if (!bodies.empty()) {
                bodies.back() += "\n" + grammar.substr(at, end - at);
            }
            at = end + 1;
        }
    }

    // The body of a rule, or NULL.
    std::string *body(const std::string &name) {
        auto found = index.find(name);
        return found == index.end() ? nullptr : &bodies[found->second];
    }

    void replace(const std::string &name, const std::string &text) {
        if (std::string *old = body(name)) {
            *old = text;
        }
    }

    std::string grammar() const {
        std::string text;
        for (size_t i = 0; i < names.size(); ++i) {
            text += names[i] + " ::= " + bodies[i] + "\n";
        }
        return text;
    }

private:
    std::vector<std::string> names, bodies;
    std::unordered_map<std::string, size_t> index;
};

// common repeats some formats' calls whether parallel ones are wanted or not; these are its names
// for all of a reply's calls.
void call_once(std::string &grammar) {
    rules all(grammar);
    for (const char *name : {"tools", "tool-calls"}) {
        std::string *body = all.body(name);
        if (body && !body->empty() && body->back() == '+') {
            body->pop_back();
        }
    }
    grammar = all.grammar();
}

// The message that the reply continues, or NULL.
const common_chat_msg *continued(const common_chat_templates_inputs &inputs) {
    return inputs.continue_final_message != COMMON_CHAT_CONTINUATION_NONE ? &inputs.messages.back()
                                                                          : nullptr;
}

std::string trimmed(const std::string &text) {
    const char *space = " \t\n";
    const size_t begin = text.find_first_not_of(space);
    return begin == std::string::npos
        ? ""
        : text.substr(begin, text.find_last_not_of(space) + 1 - begin);
}

bool is_special(const engine *e, const std::string &text) {
    const std::vector<llama_token> tokens = tokens_of(e, trimmed(text));
    const int special = LLAMA_TOKEN_ATTR_CONTROL | LLAMA_TOKEN_ATTR_USER_DEFINED;
    return !tokens.empty() && (llama_vocab_get_attr(e->vocab, tokens[0]) & special);
}

// Thoughts may come before a call if their end can be forced. That takes marks which are recognized
// by their tokens, for letters can be put together in many ways.
bool may_think(const engine *e, const common_chat_params &params) {
    return !params.thinking_start_tag.empty() && !params.thinking_end_tags.empty()
        && is_special(e, params.thinking_start_tag)
        && is_special(e, params.thinking_end_tags.front());
}

// The text that is there of an answer or a thought when the model begins: by the client, or by the
// template in its generation prompt.
std::string begun_text(const std::string &tag, const common_chat_templates_inputs &inputs,
    const common_chat_params &params) {
    const common_chat_msg *begun = continued(inputs);
    if (tag == common_chat_peg_builder::CONTENT) {
        return begun ? begun->render_content() : "";
    }
    if (begun && !begun->reasoning_content.empty()) {
        return begun->reasoning_content;
    }
    const std::string start = trimmed(params.thinking_start_tag);
    size_t at = start.empty() ? std::string::npos : params.generation_prompt.rfind(start);
    if (at == std::string::npos) {
        return "";
    }
    const std::string opened = params.generation_prompt.substr(at + start.size());
    for (const std::string &end : params.thinking_end_tags) {
        if (opened.find(trimmed(end)) != std::string::npos) {
            return ""; // it is closed again
        }
    }
    at = opened.find_first_not_of(" \t\n");
    return at == std::string::npos ? "" : opened.substr(at);
}

// Takes the text around calls out of the grammar and of the parser, which would take a call for
// that text. Returns the names of the rules that were replaced, or may stay.
std::set<std::string> leave_out_text(const engine *e, const common_chat_templates_inputs &inputs,
    common_chat_params &params) {
    using tags = common_chat_peg_builder;
    const bool thinks = may_think(e, params);
    std::set<std::string> known;
    std::map<common_peg_parser_id, std::string> found; // tags of the text
    common_peg_arena parser;
    parser.load(params.parser);
    for (common_peg_parser_id id = 0; id < parser.size(); ++id) {
        auto node = std::get_if<common_peg_tag_parser>(&parser.get(id));
        if (node
            && (node->tag == tags::CONTENT || node->tag == tags::REASONING
                || node->tag == tags::TOOL_ID)) {
            found[until_of(parser, node->child)] = node->tag;
        }
    }
    found.erase(COMMON_PEG_INVALID_PARSER_ID);
    rules all(params.grammar);
    for (const auto &[until, tag] : found) {
        const std::string name = "until-" + std::to_string(until); // as peg-parser.cpp names it
        known.insert(name);
        if (tag == tags::REASONING && thinks) {
            continue;
        }
        if (tag == tags::TOOL_ID) {
            all.replace(name, "[0-9A-Za-z_.:-]{1,40}");
            continue;
        }
        const std::string begun = begun_text(tag, inputs, params);
        if (tag == tags::CONTENT || !begun.empty()) {
            all.replace(name, literal(begun));
            parser.get(until) = common_peg_literal_parser{begun};
        } else { // white space that the template may have written
            all.replace(name, "[ \\t\\n]{0,4}");
            parser.get(until) = common_peg_space_parser{};
        }
    }
    params.grammar = all.grammar();
    params.parser = parser.save();
    return known;
}

// Names of the rules that the body of a rule refers to.
std::vector<std::string> names_in(const std::string &body) {
    std::vector<std::string> names;
    for (size_t i = 0; i < body.size();) {
        const char c = body[i];
        if (c == '"' || c == '[') {
            const char end = c == '"' ? '"' : ']';
            for (++i; i < body.size() && body[i] != end; ++i) {
                i += body[i] == '\\';
            }
            ++i;
        } else if (c == '{') {
            i = std::min(body.find('}', i), body.size());
        } else if (isalnum(static_cast<unsigned char>(c)) || c == '-') {
            const size_t begin = i;
            while (i < body.size()
                && (isalnum(static_cast<unsigned char>(body[i])) || body[i] == '-')) {
                ++i;
            }
            names.push_back(body.substr(begin, i - begin));
        } else {
            if (c == '.') {
                names.push_back("."); // any character
            }
            ++i;
        }
    }
    return names;
}

// Whether a grammar has text that ends where the model likes, in a call too, but for `known` rules.
// A format that writes arguments without JSON has: it keeps to no schema either.
bool has_free_text(const std::string &grammar, const std::set<std::string> &known) {
    rules all(grammar);
    std::vector<std::string> pending = {"root"};
    std::set<std::string> seen;
    while (!pending.empty()) {
        const std::string name = pending.back();
        pending.pop_back();
        if (!seen.insert(name).second || known.count(name)) {
            continue;
        }
        if (name == "." || name.compare(0, 6, "until-") == 0 || name.compare(0, 3, "ac-") == 0) {
            return true;
        }
        if (const std::string *body = all.body(name)) {
            for (const std::string &other : names_in(*body)) {
                pending.push_back(other);
            }
        }
    }
    return false;
}

std::string call_of(const common_chat_tool_call &call) {
    common_json object = common_json::object();
    object["name"] = call.name;
    std::string text = object.dump_safe();
    text.back() = ','; // the arguments stay as they were written
    return text + "\"arguments\":" + (call.arguments.empty() ? "{}" : call.arguments) + "}";
}

void append_text(common_chat_msg &message, const std::string &text) {
    if (message.content_parts.empty()) {
        message.content += message.content.empty() ? text : "\n\n" + text;
    } else {
        message.content_parts.push_back({"text", text});
    }
}

std::string instructions(const common_chat_templates_inputs &inputs) {
    std::string text = "You call functions. Each line describes one:\n";
    for (const common_chat_tool &tool : inputs.tools) {
        common_json object = common_json::object();
        object["name"] = tool.name;
        object["description"] = tool.description;
        object["parameters"] = common_json::parse(tool.parameters);
        text += object.dump_safe() + "\n";
    }
    const std::string form = "{\"name\": the function's name, \"arguments\": {...}}";
    return text
        + (inputs.parallel_tool_calls
                ? "Answer with nothing but the calls, a JSON array: [" + form + ", ...]"
                : "Answer with nothing but one call: " + form);
}

// The conversation in words that any template has: tools, calls and results as text.
std::vector<common_chat_msg> in_words(const common_chat_templates_inputs &inputs,
    bool knows_calls) {
    std::vector<common_chat_msg> messages = inputs.messages;
    if (!knows_calls) {
        for (common_chat_msg &message : messages) {
            for (const common_chat_tool_call &call : message.tool_calls) {
                append_text(message, call_of(call));
            }
            message.tool_calls.clear();
            if (message.role == "tool") {
                message.role = "user";
                message.tool_call_id.clear();
                message.tool_name.clear();
            }
        }
    }
    common_chat_msg &first = messages.front();
    if (first.role == "system" || first.role == "developer") {
        append_text(first, instructions(inputs));
    } else {
        common_chat_msg system;
        system.role = "system";
        system.content = instructions(inputs);
        messages.insert(messages.begin(), system);
    }
    return messages;
}

// A conversation whose reply is calls in our own format.
common_chat_params own_format(const engine *e, const common_chat_templates_inputs &inputs) {
    auto caps = common_chat_templates_get_caps(e->templates.get());
    common_chat_templates_inputs plain = inputs;
    plain.messages = in_words(inputs, caps["supports_tool_calls"]);
    plain.tools.clear();
    plain.tool_choice = COMMON_CHAT_TOOL_CHOICE_NONE;
    common_chat_params params = common_chat_templates_apply(e->templates.get(), plain);

    const common_json tools = common_chat_tools_to_json_oaicompat(inputs.tools);
    const common_chat_msg *begun = continued(inputs);
    const std::string start = trimmed(params.thinking_start_tag);
    const std::string end =
        params.thinking_end_tags.empty() ? "" : trimmed(params.thinking_end_tags.front());
    common_peg_arena parser = build_chat_peg_parser([&](common_chat_peg_builder &p) {
        auto all = p.prefix(params.generation_prompt, start);
        if (!start.empty() && !end.empty()) {
            all += p.optional(p.literal(start) + p.reasoning(p.until(end)) + p.literal(end));
        }
        all += p.space();
        if (begun && !begun->render_content().empty()) {
            all += p.literal(begun->render_content()) + p.space();
        }
        all += p.standard_json_tools("", "", tools, inputs.parallel_tool_calls, true, "name",
            "arguments", inputs.parallel_tool_calls);
        return all + p.space() + p.end();
    });
    params.format = COMMON_CHAT_FORMAT_PEG_NATIVE;
    params.parser = parser.save();
    params.grammar = build_grammar(
        [&](const common_grammar_builder &builder) { parser.build_grammar(builder, false); });
    params.grammar_lazy = false;
    params.grammar_triggers.clear();
    return params;
}

// Whether arguments are written one by one, which common reads less freely than its grammar writes.
bool has_single_arguments(const common_chat_params &params) {
    common_peg_arena parser;
    parser.load(params.parser);
    for (common_peg_parser_id id = 0; id < parser.size(); ++id) {
        auto node = std::get_if<common_peg_tag_parser>(&parser.get(id));
        if (node && node->tag == common_chat_peg_builder::TOOL_ARG) {
            return true;
        }
    }
    return false;
}

// What common/chat makes of the conversation; no grammar if its calls are not what is wanted.
common_chat_params templates_format(const engine *e, const common_chat_templates_inputs &inputs) {
    common_chat_params params;
    try {
        params = common_chat_templates_apply(e->templates.get(), inputs);
    } catch (const assertion &) {
        throw;
    } catch (const std::bad_alloc &) {
        throw;
    } catch (const std::exception &) {
        return params; // the template takes no such tools
    }
    if (params.grammar_lazy || params.grammar.empty() || has_single_arguments(params)) {
        params.grammar.clear();
    } else if (has_free_text(params.grammar, leave_out_text(e, inputs, params))) {
        params.grammar.clear();
    }
    return params;
}

} // namespace

common_chat_params forced_call(const engine *e, const common_chat_templates_inputs &inputs) {
    common_chat_params params = templates_format(e, inputs);
    if (params.grammar.empty()) {
        params = own_format(e, inputs);
        leave_out_text(e, inputs, params);
    }
    if (!inputs.parallel_tool_calls) {
        call_once(params.grammar);
    }
    if (!may_think(e, params)) {
        params.thinking_end_tags.clear(); // so nothing forces the end of a thought that is none
    }
    return params;
}
