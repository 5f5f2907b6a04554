// log.h: where all messages of llama.cpp meet, whichever of its loggers they come from.
#ifndef CLLM_ENGINE_LOG_H
#define CLLM_ENGINE_LOG_H

#include "ggml.h"

#include <string>

// Passes a message on to the callback of engine_set_log() and to the thread's capture in progress.
// It has the type of ggml_log_callback.
void engine_log(enum ggml_log_level level, const char *text, void *unused);

// The calling thread gets all messages: those that others write wait for deliver_log().
void set_log_thread();
void deliver_log();

// Collects the error lines that its thread logs or delivers during its life. Captures nest.
class log_capture {
public:
    log_capture();
    ~log_capture();
    log_capture(const log_capture &) = delete;
    log_capture &operator=(const log_capture &) = delete;

    // The reasons in one line, or `otherwise` when there was none.
    std::string reason(const char *otherwise) const;

    std::string lines;

private:
    log_capture *outer;
};

#endif // CLLM_ENGINE_LOG_H
