// jobs.h: what a request hands to llama.cpp (templates, schemas, grammars, long texts) is
// processed on a thread of its own, one after another, each within a budget.
#ifndef CLLM_ENGINE_JOBS_H
#define CLLM_ENGINE_JOBS_H

#include "budget.h"
#include "compute.h"

#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>

// One piece of work. All but the atomics is the job thread's until `ended`.
struct job {
    std::function<void()> body; // keeps to its budget itself
    int code = ENGINE_OK;
    std::string reason;   // where the code is another
    uint64_t took_ns = 0; // processor time
    std::atomic<bool> unwanted{false};
    std::atomic<bool> ended{false};

    // On whichever thread: runs the body, whose exceptions become code and reason.
    void run() noexcept;
};

class job_thread {
public:
    explicit job_thread(const engine_params &params);
    ~job_thread(); // drops what waits, and stops what runs
    job_thread(const job_thread &) = delete;
    job_thread &operator=(const job_thread &) = delete;

    void push(std::shared_ptr<job> work);

    // Returns when the work has ended; runs wait() until then, where there is one.
    void wait_for(const job &work);

private:
    void loop();

    void (*const wait)(void *user);
    void (*const wake)(void *user);
    void *const user;

    std::mutex mutex;
    std::condition_variable given; // work, or the end
    std::condition_variable idle;  // for wait_for()
    std::deque<std::shared_ptr<job>> waiting;
    std::shared_ptr<job> running;
    bool ending = false;
    pthread_t thread;
};

#endif // CLLM_ENGINE_JOBS_H
