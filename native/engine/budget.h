// budget.h: bounds what llama.cpp may take for one request: processor time, memory and stack.
//
// A schema of a hundred bytes can make llama.cpp recurse without end or double its work with
// every level, and nothing in its code asks whether to go on. But nearly all of it allocates, so
// operator new is where it is stopped: it throws, as it would without memory, and llama.cpp's own
// destructors clean up. Four ways out are left when that is not enough:
//
// * A `noexcept` function was in the way (nlohmann's JSON allocates in a destructor):
//   std::terminate.
// * Code that catches everything goes on regardless.
// * Recursion that does not allocate runs into the guard page below the stack: SIGSEGV.
// * A loop that does not allocate (jinja's `replace`) never comes by: SIGXCPU, see below.
//
// Then the body is abandoned: the thread goes back to within() by longjmp, and what the body had
// allocated is freed without its destructors, so nothing leaks and the request alone fails.
//
// SIGXCPU comes from a timer of the thread's own processor time (timer_create(2)), which ticks
// while a body runs. The thread interrupts itself: no other thread watches it, wall time plays no
// part, and once the timer is stopped no signal is on its way. So a tick cannot reach the next body
// or the code between two.
//
// A tick may come at any instruction, and abandons the body only where that is safe:
//
// * not in operator new or delete: malloc() holds a lock and the table of blocks is changing;
// * not in code outside of any budget: the log, and what initializes static local variables;
// * not while an exception is in flight: the unwinder has locks;
// * not if the body has called operator new or delete since the last tick. What else has locks
//   (malloc() for an exception, stdio, time zones) is called between allocations, and never runs
//   for a whole tick.
//
// Elsewhere jobs hold no lock: llama.cpp's code for them has none. Where a tick comes too early,
// the next operator new looks at the clock at once, or the next tick finds the body in a better
// place.
#ifndef CLLM_ENGINE_BUDGET_H
#define CLLM_ENGINE_BUDGET_H

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <new>
#include <optional>
#include <string>
#include <utility>

#include <csetjmp>

// What a body may take; 0: no limit.
struct budget {
    uint32_t ms = 0;                         // of its thread's processor time
    size_t bytes = 0;                        // allocated at a time
    size_t stack = 0;                        // below the caller's frame
    const std::atomic<bool> *stop = nullptr; // becomes true when nobody wants the result
};

// A body took more than its budget. A std::bad_alloc, because operator new throws it.
struct over_budget : std::bad_alloc {
    explicit over_budget(const char *reason) : reason(reason) {}
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
    void before_delete();
    void forget(void *memory); // it is freed

    // For the handler of SIGXCPU.
    void tick();

    // Leaves the body for within(), wherever it is.
    [[noreturn]] void abandon(const char *reason);

    // Whether the fault at `address` is the body's stack running over.
    bool is_overflow(const void *address) const;

    jmp_buf entry;
    volatile bool in_body = false;   // `entry` may be used by a tick
    const char *abandoned = nullptr; // why
    const char *refused = nullptr;   // why the last allocation was
private:
    const char *excess() const;
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
    unsigned count = 0;         // allocations

    // What operator new and delete share with the handler of SIGXCPU.
    volatile unsigned calls = 0; // of either
    volatile bool hurry = false; // the next operator new looks at the clock
    unsigned seen = UINT32_MAX;  // calls at the last tick

    unsigned refusals = 0;
    size_t held = 0; // bytes of what is in the table

    // What the body has allocated and not freed: a hash table with open addressing, whose memory is
    // malloc's own because it serves operator new.
    void **table = nullptr;
    size_t capacity = 0, used = 0; // used: including deleted entries

    // Of the C++ runtime (Itanium C++ ABI 2.2.2), restored when the body is abandoned in the middle
    // of an exception.
    void *caught;
    unsigned uncaught;

    // Control words of the x87 and SSE units, restored likewise (System V ABI AMD64 3.2.1).
    uint16_t x87_control;
    uint32_t sse_control;
};

// Suspends the budget of this thread: for code that keeps what it allocates beyond the body, such
// as the log, and for code that must not be left in the middle.
class outside_budget {
public:
    outside_budget();
    ~outside_budget();
    outside_budget(const outside_budget &) = delete;
    outside_budget &operator=(const outside_budget &) = delete;
};

// Installs the handlers of SIGSEGV, SIGXCPU and std::terminate(), once.
void install_budget_handlers();

// Processor time of the calling thread.
uint64_t thread_ns();

// The budget that an abandoned body returns to; not inlined, so that its frame is there for
// longjmp.
template <class Body> [[gnu::noinline]] void run_within(budget_scope &scope, Body &body) {
    if (setjmp(scope.entry) == 0) {
        scope.in_body = true;
        body();
        scope.in_body = false;
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

// Returns what make() does, which may take no more than `b`; else throws over_budget. When make()
// is abandoned, what it made so far has gone with all else that it allocated.
template <class Make> auto made_within(const budget &b, Make &&make) -> decltype(make()) {
    std::optional<decltype(make())> made;
    bool abandoned = false;
    try {
        within(b, [&] { made.emplace(make()); }, &abandoned);
    } catch (const over_budget &) {
        if (abandoned) {
            new (&made) decltype(made)(); // its destructor would free again what is free
        }
        throw;
    }
    return std::move(*made);
}

#endif // CLLM_ENGINE_BUDGET_H
