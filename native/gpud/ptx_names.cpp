// ptx_names.cpp: see ptx_names.h.
#include "ptx_names.h"

#include <algorithm>
#include <cctype>

#include "../ucuda/abi.h"

namespace gpud {

namespace {

void add(std::map<uint64_t, std::string> &to, std::string_view name) {
    if (!name.empty()) {
        std::string kept(name);
        to[ucuda_name_hash(kept.c_str())] = kept;
    }
}

size_t skip_space(std::string_view text, size_t at) {
    while (at < text.size() && isspace((unsigned char)text[at])) {
        at++;
    }
    return at;
}

bool ends_with_line(std::string_view statement) {
    for (std::string_view word : {".version", ".target", ".address_size", "//"}) {
        if (statement.substr(0, word.size()) == word) {
            return true;
        }
    }
    return false;
}

} // namespace

bool ptx_is_word(char c) {
    return isalnum((unsigned char)c) || c == '_' || c == '$' || c == '%';
}

std::string_view ptx_global_name(std::string_view statement) {
    if (statement.find(".global") == statement.npos && statement.find(".const") == statement.npos
        && statement.find(".shared") == statement.npos) {
        return {};
    }
    size_t end = statement.find_first_of("[=;{(");
    if (end == statement.npos || statement[end] == '(' || statement[end] == '{') {
        return {};
    }
    while (end > 0 && !ptx_is_word(statement[end - 1])) {
        end--;
    }
    size_t begin = end;
    while (begin > 0 && ptx_is_word(statement[begin - 1])) {
        begin--;
    }
    return statement.substr(begin, end - begin);
}

std::map<uint64_t, std::string> ptx_kernel_names(std::string_view text) {
    std::map<uint64_t, std::string> names;
    constexpr std::string_view entry = ".entry";
    for (size_t at = 0; (at = text.find(entry, at)) != text.npos;) {
        at += entry.size();
        size_t begin = skip_space(text, at);
        size_t end = begin;
        while (end < text.size() && ptx_is_word(text[end])) {
            end++;
        }
        if (begin != at) {
            add(names, text.substr(begin, end - begin));
        }
    }
    return names;
}

std::map<uint64_t, std::string> ptx_global_names(std::string_view text) {
    std::map<uint64_t, std::string> names;
    for (std::string_view statement : ptx_statements(text)) {
        add(names, ptx_global_name(statement));
    }
    return names;
}

std::vector<std::string_view> ptx_statements(std::string_view text) {
    std::vector<std::string_view> out;
    size_t begin = 0;
    int depth = 0;
    for (size_t i = 0; i < text.size(); i++) {
        if (text.substr(i, 2) == "//") {
            i = std::min(text.find('\n', i), text.size() - 1);
        }
        depth += text[i] == '{' ? 1 : text[i] == '}' ? -1 : 0;
        bool ends = false;
        if (depth == 0 && text[i] == '}') {
            // Of a body, or of a list of values, which a semicolon follows.
            ends = text.substr(skip_space(text, i + 1), 1) != ";";
        } else if (depth == 0 && text[i] == ';') {
            ends = true;
        } else if (depth == 0 && text[i] == '\n') {
            ends = ends_with_line(text.substr(skip_space(text, begin)));
        }
        if (ends) {
            out.push_back(text.substr(begin, i + 1 - begin));
            begin = i + 1;
        }
    }
    out.push_back(text.substr(begin));
    return out;
}

} // namespace gpud
