// log.cpp: collects the messages of llama.cpp, so that a failed call can say why, and stands in for
// common/log.cpp, whose logger is a thread that prints to stderr.
#include "log.h"

#include "budget.h"

#include "engine.h"
#include "gpu.h"

// common/log.h names its own levels and the functions defined at the end of this file.
#include "json.h"
#include "../common/log.h"

#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <mutex>
#include <utility>
#include <vector>

#include <pthread.h>

namespace {

void (*sink)(void *user, int level, const char *text);
void *sink_user;
thread_local log_capture *innermost;

// The sink, which may be Python, is not for other threads than the one that calls.
pthread_t log_thread;
struct message {
    enum ggml_log_level level;
    std::string text;
    bool captured; // by the thread that wrote it
};
std::mutex kept_mutex; // guards what other threads wrote meanwhile
std::vector<message> kept;
constexpr size_t kept_most = 256;

// "llama_model_load: error loading model: x" is about x, not about the function that noticed.
std::string without_prefix(const std::string &line) {
    size_t at = 0;
    for (;;) {
        size_t colon = line.find(": ", at);
        if (colon == std::string::npos) {
            return line.substr(at);
        }
        std::string prefix = line.substr(at, colon - at);
        bool is_name = prefix.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789_:~")
            == std::string::npos;
        if (!is_name && prefix != "error loading model") {
            return line.substr(at);
        }
        at = colon + 2;
    }
}

} // namespace

void set_log_thread() {
    log_thread = pthread_self();
}

static bool capture(enum ggml_log_level level, const char *text) {
    if (innermost && level == GGML_LOG_LEVEL_ERROR) {
        innermost->lines += text;
        return true;
    }
    return false;
}

void deliver_log() {
    std::vector<message> messages;
    {
        std::lock_guard<std::mutex> lock(kept_mutex);
        messages.swap(kept);
    }
    for (const message &m : messages) {
        if (!m.captured) {
            capture(m.level, m.text.c_str());
        }
        if (sink) {
            sink(sink_user, m.level, m.text.c_str());
        }
    }
}

void engine_log(enum ggml_log_level level, const char *text, void *) {
    const outside_budget outside; // what is written stays when the body that wrote it is gone
    gpu_note(text);
    const bool captured = capture(level, text);
    if (!pthread_equal(log_thread, pthread_self())) {
        std::lock_guard<std::mutex> lock(kept_mutex);
        if (kept.size() < kept_most) {
            kept.push_back({level, text, captured});
        }
        return;
    }
    if (sink) {
        sink(sink_user, level, text);
    }
}

void engine_set_log(void (*fn)(void *user, int level, const char *text), void *user) {
    sink = fn;
    sink_user = user;
}

log_capture::log_capture() : outer(innermost) {
    innermost = this;
}

log_capture::~log_capture() {
    innermost = outer;
}

std::string log_capture::reason(const char *otherwise) const {
    std::string result;
    size_t at = 0;
    while (at < lines.size()) {
        size_t end = std::min(lines.find('\n', at), lines.size());
        std::string line = without_prefix(lines.substr(at, end - at));
        at = end + 1;
        // llama.cpp reports upwards: the lines after the first only repeat that it failed.
        if (line.empty() || line.compare(0, 20, "failed to load model") == 0
            || result.find(line) != std::string::npos) {
            continue;
        }
        if (!result.empty()) {
            result += "; ";
        }
        result += line;
    }
    return result.empty() ? otherwise : result;
}

// In place of fprintf() in llama.cpp's grammars: the first line, without the name of the function.
extern "C" int engine_grammar_printf(FILE *, const char *format, ...) {
    char text[512];
    va_list args;
    va_start(args, format);
    const int length = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    std::string line(text, strcspn(text, "\n"));
    if (line.compare(0, 7, "parse: ") == 0) {
        line.erase(0, 7);
    }
    engine_log(GGML_LOG_LEVEL_ERROR, (line + "\n").c_str(), nullptr);
    return length;
}

// The functions of common/log.h that the rest of common calls.

int common_log_get_verbosity_thold() {
    return LOG_LEVEL_WARN;
}

bool common_log_get_jsonl() {
    return false;
}

common_log *common_log_main() {
    return nullptr;
}

void common_log_add(common_log *, enum ggml_log_level level, const char *fmt, ...) {
    va_list args, again;
    va_start(args, fmt);
    va_copy(again, args);
    std::vector<char> text(std::max(0, vsnprintf(nullptr, 0, fmt, args)) + 1);
    vsnprintf(text.data(), text.size(), fmt, again);
    va_end(again);
    va_end(args);
    engine_log(level, text.data(), nullptr);
}

void common_log_add_json(common_log *, const char *, const common_json &) {}

void common_log_default_callback(enum ggml_log_level level, const char *text, void *) {
    engine_log(level, text, nullptr);
}

void common_log_set_prefix(common_log *, bool) {}

void common_log_set_timestamps(common_log *, bool) {}
