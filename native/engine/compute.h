// compute.h: a thread that computes while the calling thread sees to other things.
#ifndef CLLM_ENGINE_COMPUTE_H
#define CLLM_ENGINE_COMPUTE_H

#include "engine.h"

#include <atomic>
#include <condition_variable>
#include <exception>
#include <functional>
#include <mutex>

#include <pthread.h>

// Starts a thread with a stack of `stack_size` bytes, a guard below it that becomes over_budget in
// within(), and room for C++ that was written for 8 MiB. Throws std::system_error.
constexpr size_t stack_size = 2 * 1024 * 1024;
pthread_t start_thread(void *(*body)(void *), void *argument, const char *what);

class compute_thread {
public:
    // wait, wake, user: see engine_params. Throws where no thread can be had.
    explicit compute_thread(const engine_params &params);
    ~compute_thread();
    compute_thread(const compute_thread &) = delete;
    compute_thread &operator=(const compute_thread &) = delete;

    // Runs the body on the thread; finish() or join() MUST follow before the next one.
    void start(std::function<void()> body);

    // Whether the body has ended.
    bool ended() const { return done; }

    // Runs wait() on the calling thread until the body has ended. What the body threw is thrown
    // here.
    void finish();

    // The same without wait().
    void join();

private:
    void loop();
    void pass_on();

    void (*const wait)(void *user);
    void (*const wake)(void *user);
    void *const user;

    std::mutex mutex;
    std::condition_variable given; // work, or the end
    std::condition_variable idle;  // for join()
    std::function<void()> work;
    bool ending = false;

    std::exception_ptr thrown;
    std::atomic<bool> done{false};
    pthread_t thread;
};

#endif // CLLM_ENGINE_COMPUTE_H
