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

class compute_thread {
public:
    // wait, wake, user: see engine_params. Throws where no thread can be had.
    explicit compute_thread(const engine_params &params);
    ~compute_thread();
    compute_thread(const compute_thread &) = delete;
    compute_thread &operator=(const compute_thread &) = delete;

    // Runs the body on the thread, and wait() on the calling one until the body has ended. What the
    // body throws is thrown here.
    void run(const std::function<void()> &body);

    // Begins to run the body, which has to live until it has ended, and returns.
    void start(const std::function<void()> &body);
    bool ended() const { return done; }
    // Waits for the end of what start() began without calling wait(). Throws what the body throws.
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
    const std::function<void()> *work = nullptr;
    bool ending = false;

    std::exception_ptr thrown;
    std::atomic<bool> done{false};
    pthread_t thread;
};

#endif // CLLM_ENGINE_COMPUTE_H
