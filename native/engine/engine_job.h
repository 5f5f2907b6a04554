// engine_job.h: a job as the ABI hands it out.
#ifndef CLLM_ENGINE_ENGINE_JOB_H
#define CLLM_ENGINE_ENGINE_JOB_H

#include "conversation.h"
#include "cpu.h"
#include "state.h"

#include <functional>
#include <memory>
#include <vector>

// What comes of a job: one of these.
struct job_result {
    std::shared_ptr<engine_chat> chat;
    std::unique_ptr<engine_sampler> sampler;
    std::vector<int32_t> tokens;
};

// A job as the ABI hands it out. The result is the job thread's until `work` has ended.
struct engine_job {
    enum class kind { chat, sampler, tokens };

    engine *owner; // NULL after engine_close()
    enum kind kind;
    std::shared_ptr<job> work;
    std::shared_ptr<job_result> result; // NULL once it was taken
};

// Memory that one piece of work of a request may take at a time, in bytes.
// extra: more than most need.
size_t job_bytes(size_t extra = 0);

// Of a thread's stack, for what calls within().
constexpr size_t stack_margin = 64 * 1024;

// Has body() run as a job of e, for at most `ms` of processor time (0: engine_params.job_ms). It
// may use what never changes of e, and MUST NOT leave anything else changed: it may end anywhere.
void start_job(engine *e, enum engine_job::kind kind, uint32_t ms,
    std::function<void(job_result &)> body, engine_job **out);

// Waits for the job's end; then take(), if it went well, takes its result.
int finish_job(engine_job *j, enum engine_job::kind kind,
    const std::function<void(job_result &)> &take) noexcept;

#endif // CLLM_ENGINE_ENGINE_JOB_H
