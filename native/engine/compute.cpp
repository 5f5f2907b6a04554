// compute.cpp: the thread that computes; see compute.h.
#include "compute.h"

#include <system_error>
#include <utility>

namespace {

// A frame may be larger than a page and its first access far down.
constexpr size_t guard_size = 256 * 1024;

} // namespace

// musl gives a thread 128 KiB. Pages of a stack are real memory in the image, so 2 MiB is the most.
pthread_t start_thread(void *(*body)(void *), void *argument, const char *what) {
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, stack_size);
    pthread_attr_setguardsize(&attributes, guard_size);
    pthread_t thread;
    const int error = pthread_create(&thread, &attributes, body, argument);
    pthread_attr_destroy(&attributes);
    if (error) {
        throw std::system_error(error, std::generic_category(), what);
    }
    return thread;
}

compute_thread::compute_thread(const engine_params &params)
    : wait(params.wait), wake(params.wake), user(params.user) {
    thread = start_thread(
        [](void *self) -> void * {
            static_cast<compute_thread *>(self)->loop();
            return nullptr;
        },
        this, "the thread that computes");
}

compute_thread::~compute_thread() {
    {
        std::lock_guard<std::mutex> lock(mutex);
        ending = true;
    }
    given.notify_one();
    pthread_join(thread, nullptr);
}

void compute_thread::start(std::function<void()> body) {
    {
        std::lock_guard<std::mutex> lock(mutex);
        work = std::move(body);
        done = false;
    }
    given.notify_one();
}

void compute_thread::finish() {
    while (!done) {
        wait(user);
    }
    pass_on();
}

void compute_thread::join() {
    {
        std::unique_lock<std::mutex> lock(mutex);
        idle.wait(lock, [this] { return done.load(); });
    }
    pass_on();
}

void compute_thread::pass_on() {
    if (thrown) {
        std::rethrow_exception(std::exchange(thrown, nullptr));
    }
}

void compute_thread::loop() {
    std::unique_lock<std::mutex> lock(mutex);
    for (;;) {
        given.wait(lock, [this] { return work || ending; });
        if (ending) {
            return;
        }
        {
            const std::function<void()> body = std::exchange(work, nullptr);
            lock.unlock();
            try {
                body();
            } catch (...) {
                thrown = std::current_exception();
            }
        }
        // From here on the caller may be gone; what is called next must be of the engine's life.
        done = true;
        wake(user);
        lock.lock();
        idle.notify_all();
    }
}
