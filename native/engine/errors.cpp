// errors.cpp: error codes and their reasons; see errors.h.
#include "errors.h"

#include "chat.h" // common_json
#include "ggml.h"

#include <algorithm>
#include <cstring>
#include <new>

thread_local bool catching = false;
thread_local bool catching_gpu = false;

namespace {

thread_local char last_error[1024]; // a model may be loading on another thread
void (*abort_handler)(const char *message);

bool is_continuation(char c) {
    return (c & 0xC0) == 0x80;
}

void on_ggml_abort(const char *message) {
    if ((catching || catching_gpu) && gpu_is_failure(message)) {
        gpu_throw();
    }
    if (catching) {
        throw assertion(message);
    }
    if (abort_handler) {
        abort_handler(message);
    }
}

} // namespace

void catch_assertions() {
    ggml_set_abort_callback(on_ggml_abort);
}

// Keeps the reason, cut to the buffer at a character and flattened to one line. Reasons quote the
// input, so bytes that are not UTF-8 are possible: they become U+FFFD.
int fail(int code, const char *reason) noexcept {
    try {
        std::string quoted = common_json::make(common_json_value(reason)).dump_safe();
        std::string line = common_json::parse(quoted).get<std::string>();
        for (char &c : line) {
            if (static_cast<unsigned char>(c) < 0x20) {
                c = ' ';
            }
        }
        size_t len = std::min(line.size(), sizeof last_error - 1);
        while (len > 0 && len < line.size() && is_continuation(line[len])) {
            --len;
        }
        memcpy(last_error, line.data(), len);
        last_error[len] = '\0';
    } catch (...) {
        strcpy(last_error, "out of memory");
        if (code == ENGINE_EFAIL || code == ENGINE_EASSERT) {
            return ENGINE_ENOMEM;
        }
    }
    return code;
}

int fail_busy() noexcept {
    return fail(ENGINE_EINVAL, "the engine is busy: this is a call from its own callback");
}

void clear_error() noexcept {
    last_error[0] = '\0';
}

bool lacks_memory(const char *reason) noexcept {
    const auto says = [&](const char *words) { return strstr(reason, words) != nullptr; };
    // ggml_aligned_malloc() has the first words, others the rest.
    return says("insufficient memory") || says("out of memory")
        || (says("allocate") && says("buffer"));
}

void throw_failure(const std::string &reason) {
    if (lacks_memory(reason.c_str())) {
        throw std::bad_alloc();
    }
    throw std::runtime_error(reason);
}

const char *engine_error(void) {
    return last_error;
}

void engine_set_abort_handler(void (*fn)(const char *message)) {
    abort_handler = fn;
}
