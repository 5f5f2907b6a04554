// budget.h: bounds what llama.cpp may take for one request: processor time, memory and stack.
//
// A schema of a hundred bytes can make llama.cpp recurse without end or double its work with every
// level, and nothing in its code asks whether to go on. But all of it allocates, so operator new is
// where it is stopped: it throws, as it would without memory, and llama.cpp's own destructors clean
// up. Three ways out are left when that is not enough:
//
// * A `noexcept` function was in the way (nlohmann's JSON allocates in a destructor): std::terminate.
// * Code that catches everything goes on regardless.
// * Recursion that does not allocate runs into the guard page below the stack: SIGSEGV.
//
// Then the body is abandoned: the thread goes back to within() by longjmp, and what the body had
// allocated is freed without its destructors, so nothing leaks and the request alone fails.
#ifndef CLLM_ENGINE_BUDGET_H
#define CLLM_ENGINE_BUDGET_H

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <new>
#include <string>

#include <csetjmp>

// What a body may take; 0: no limit.
struct budget {
    uint32_t ms = 0;    // of its thread's processor time
    size_t bytes = 0;   // allocated at a time
    size_t stack = 0;   // below the caller's frame
    const std::atomic<bool> *stop = nullptr; // becomes true when nobody wants the result
};

// A body took more than its budget. A std::bad_alloc, because operator new throws it.
struct over_budget : std::bad_alloc {
    explicit over_budget(const char *reason)
        : reason(reason) {}
    const char *what() const noexcept override { return reason; }

    const char *reason;
};

// A body in progress on this thread; see within().
class budget_scope {
public:
    explicit budget_scope(const budget &b);
    ~budget_scope();
    budget_scope(const budget_scope &) = delete;
    budget_scope &operator=(const budget_scope &) = delete;

    // For operator new and delete.
    void before_new(size_t size);
    void after_new(void *memory);
    void before_delete(void *memory);

    // Leaves the body for within(), wherever it is.
    [[noreturn]] void abandon(const char *reason);

    // Whether the fault at `address` is the body's stack running over.
    bool is_overflow(const void *address) const;

    jmp_buf entry;
    const char *abandoned = nullptr; // why
    const char *refused = nullptr;   // why the last allocation was
private:
    void look();
    [[noreturn]] void refuse(const char *reason);
    void insert(void *memory);
    void grow();

    budget_scope *const outer;
    const std::atomic<bool> *const stop;
    uint64_t until_ns;
    const uint64_t hard_until_ns;
    size_t bytes;
    const uintptr_t top, floor; // of the stack
    unsigned count = 0;   // allocations
    unsigned refusals = 0;
    size_t held = 0;      // bytes of what is in the table

    // What the body has allocated and not freed: a hash table with open addressing, whose memory is
    // malloc's own because it serves operator new.
    void **table = nullptr;
    size_t capacity = 0, used = 0; // used: including deleted entries

    // Of the C++ runtime (Itanium C++ ABI 2.2.2), restored when the body is abandoned in the middle
    // of an exception.
    void *caught;
    unsigned uncaught;
};

// Suspends the budget of this thread: for code that keeps what it allocates beyond the body, such as
// the log.
class outside_budget {
public:
    outside_budget();
    ~outside_budget();
    outside_budget(const outside_budget &) = delete;
    outside_budget &operator=(const outside_budget &) = delete;
};

// Installs the handlers of SIGSEGV and std::terminate(), once.
void install_budget_handlers();

// Processor time of the calling thread.
uint64_t thread_ns();

// The budget that an abandoned body returns to; not inlined, so that its frame is there for longjmp.
template <class Body> [[gnu::noinline]] void run_within(budget_scope &scope, Body &body) {
    if (setjmp(scope.entry) == 0) {
        body();
    }
}

// Runs body(), which may take no more than `b`; else throws over_budget. Objects from outside that
// the body was changing when it was abandoned are in an unknown state: `abandoned`, if given, is
// then set, and they must be leaked, not destroyed. Budgets nest: the innermost counts.
template <class Body> void within(const budget &b, Body &&body, bool *abandoned = nullptr) {
    const char *reason;
    {
        budget_scope scope(b);
        run_within(scope, body);
        reason = scope.abandoned;
    }
    if (reason) {
        if (abandoned) {
            *abandoned = true;
        }
        throw over_budget(reason);
    }
}

#endif // CLLM_ENGINE_BUDGET_H
