// budget.cpp: operator new and delete, which keep to the budget; see budget.h.
#include "budget.h"

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <exception>

#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid // glibc has no name for it
#endif

namespace {

// Allocations between two looks at the clock: about 0.1 ms, and large ones each.
constexpr unsigned stride = 64;
constexpr size_t large = 16 * 1024;

// Processor time between two ticks: what a body that does not allocate may overrun by, twice.
constexpr long tick_ns = 25'000'000;

// What cleaning up and reporting may take once the budget is used up.
constexpr uint64_t grace_ns = 20'000'000;
constexpr size_t grace_bytes = 256 * 1024;
// A body that goes on after this many refusals, or for this long, is abandoned.
constexpr unsigned most_refusals = 1000;
constexpr uint64_t patience_ns = 500'000'000;

// Of the stack, for malloc(), the unwinder and destructors.
constexpr size_t stack_reserve = 96 * 1024;
// Of that, what only free() uses: it must not reach the guard page, because it has a lock.
constexpr size_t free_reserve = 32 * 1024;

// A fault this far below what a body may use is its stack running over: threads that the engine did
// not start have larger stacks.
constexpr uintptr_t overflow_reach = 16 * 1024 * 1024;

constexpr const char *too_long = "it takes too long to process";
constexpr const char *too_large = "it takes too much memory to process";
constexpr const char *too_deep = "it is nested too deeply to process";
constexpr const char *unwanted = "it was given up";

void *const deleted = reinterpret_cast<void *>(1);

// volatile: signal handlers read them, and a compiler may know that malloc() does not.
thread_local budget_scope *volatile innermost;
thread_local volatile unsigned outside; // depth of code that is no part of any budget
std::terminate_handler outer_terminate;
struct sigaction outer_segv, outer_xcpu;

// Itanium C++ ABI 2.2.2, __cxa_eh_globals.
struct eh_globals {
    void *caught;
    unsigned uncaught;
};
extern "C" eh_globals *__cxa_get_globals();

budget_scope *current() {
    return outside ? nullptr : innermost;
}

[[gnu::noinline]] uintptr_t stack_pointer() {
    return reinterpret_cast<uintptr_t>(__builtin_frame_address(0));
}

size_t slot_of(const void *memory, size_t capacity) {
    const uint64_t hash = reinterpret_cast<uintptr_t>(memory) / 16 * UINT64_C(0x9E3779B97F4A7C15);
    return hash >> 32 & (capacity - 1);
}

uint64_t sum(uint64_t a, uint64_t b) {
    return a > UINT64_MAX - b ? UINT64_MAX : a + b;
}

void on_terminate() {
    if (budget_scope *scope = current()) {
        scope->abandon(scope->refused ? scope->refused : too_long);
    }
    outer_terminate();
    abort();
}

void on_segv(int, siginfo_t *info, void *) {
    budget_scope *scope = current();
    if (scope && scope->is_overflow(info->si_addr)) {
        scope->abandon(too_deep);
    }
    // Not ours: the same access faults again, for whoever was there before.
    sigaction(SIGSEGV, &outer_segv, nullptr);
}

void on_xcpu(int, siginfo_t *info, void *) {
    const int error = errno;
    if (info->si_code != SI_TIMER) { // somebody else's limit (RLIMIT_CPU)
        sigaction(SIGXCPU, &outer_xcpu, nullptr);
        raise(SIGXCPU);
    } else if (budget_scope *scope = current()) {
        scope->tick();
    }
    errno = error;
}

// A thread's stack for its signal handlers, and the timer that ticks while it runs a body.
class thread_signals {
public:
    thread_signals() {
        stack_t stack{};
        stack.ss_sp = memory = malloc(stack_size);
        stack.ss_size = stack_size;
        if (memory) {
            sigaltstack(&stack, nullptr);
        }
        struct sigevent event{};
        event.sigev_notify = SIGEV_THREAD_ID;
        event.sigev_signo = SIGXCPU;
        event.sigev_notify_thread_id = static_cast<pid_t>(syscall(SYS_gettid));
        // Without a timer, as on a system that has none of this kind, nothing ticks.
        has_timer = memory && timer_create(CLOCK_THREAD_CPUTIME_ID, &event, &timer) == 0;
    }

    ~thread_signals() {
        if (has_timer) {
            timer_delete(timer);
        }
        stack_t none{};
        none.ss_flags = SS_DISABLE;
        sigaltstack(&none, nullptr);
        free(memory);
    }

    // ns: between two ticks, 0 for none.
    void tick_every(long ns) {
        if (has_timer) {
            const itimerspec period{{0, ns}, {0, ns}};
            timer_settime(timer, 0, &period, nullptr);
        }
    }

private:
    static constexpr size_t stack_size = 32 * 1024;
    void *memory;
    timer_t timer;
    bool has_timer;
};

thread_signals &signals() {
    static thread_local thread_signals of_thread;
    return of_thread;
}

} // namespace

uint64_t thread_ns() {
    timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return static_cast<uint64_t>(t.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(t.tv_nsec);
}

void install_budget_handlers() {
    static const bool installed = [] {
        outer_terminate = std::set_terminate(on_terminate);
        struct sigaction action{};
        action.sa_sigaction = on_segv;
        // Left by longjmp: the signal must not stay blocked.
        action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
        sigaction(SIGSEGV, &action, &outer_segv);
        action.sa_sigaction = on_xcpu;
        action.sa_flags |= SA_RESTART;
        sigaction(SIGXCPU, &action, &outer_xcpu);
        return true;
    }();
    (void)installed;
}

budget_scope::budget_scope(const budget &b)
    : outer(innermost), stop(b.stop),
      until_ns(b.ms ? thread_ns() + b.ms * UINT64_C(1'000'000) : UINT64_MAX),
      hard_until_ns(sum(until_ns, patience_ns)), bytes(b.bytes ? b.bytes : SIZE_MAX),
      top(stack_pointer()), floor(b.stack ? top - b.stack + stack_reserve : 0) {
    thread_signals &own = signals();
    const eh_globals *globals = __cxa_get_globals();
    caught = globals->caught;
    uncaught = globals->uncaught;
    __asm__("fnstcw %0" : "=m"(x87_control));
    __asm__("stmxcsr %0" : "=m"(sse_control));
    innermost = this;
    if (!outer) {
        own.tick_every(tick_ns);
    }
}

budget_scope::~budget_scope() {
    innermost = outer;
    if (!outer) {
        signals().tick_every(0);
    }
    const outside_budget memory_is_mallocs;
    for (size_t i = 0; abandoned && i < capacity; ++i) {
        if (table[i] && table[i] != deleted) {
            free(table[i]);
        }
    }
    free(table);
}

void budget_scope::before_new(size_t size) {
    calls = calls + 1;
    // While an exception unwinds the stack another one would end the machine.
    if (std::uncaught_exceptions() > static_cast<int>(uncaught)) {
        return;
    }
    if (stack_pointer() < floor) {
        refuse(too_deep);
    }
    if (size > bytes || held > bytes - size) {
        bytes = sum(std::max(bytes, held), grace_bytes);
        refuse(too_large);
    }
    if (hurry || size >= large || ++count % stride == 0) {
        hurry = false;
        look();
    }
}

// Why the body may not go on, or NULL.
const char *budget_scope::excess() const {
    if (stop && *stop) {
        return unwanted;
    }
    return until_ns != UINT64_MAX && thread_ns() > until_ns ? too_long : nullptr;
}

void budget_scope::look() {
    if (const char *reason = excess()) {
        if (reason == too_long) {
            const uint64_t now = thread_ns();
            if (now > hard_until_ns) {
                abandon(reason);
            }
            until_ns = now + grace_ns;
        }
        refuse(reason);
    }
}

void budget_scope::tick() {
    const bool moved = calls != seen;
    seen = calls;
    if (const char *reason = excess()) {
        if (moved || !in_body || std::uncaught_exceptions() > static_cast<int>(uncaught)) {
            hurry = true;
        } else {
            abandon(reason);
        }
    }
}

void budget_scope::refuse(const char *reason) {
    refused = reason;
    if (++refusals > most_refusals) {
        abandon(reason);
    }
    throw over_budget(reason);
}

void budget_scope::after_new(void *memory) {
    held += malloc_usable_size(memory);
    if (used * 4 >= capacity * 3) {
        grow();
    }
    insert(memory);
}

void budget_scope::insert(void *memory) {
    if (!capacity) {
        return; // no memory for the table: an abandoned body leaks
    }
    size_t at = slot_of(memory, capacity);
    while (table[at] && table[at] != deleted) {
        at = (at + 1) & (capacity - 1);
    }
    used += !table[at];
    table[at] = memory;
}

// A table of twice the size of what lives.
void budget_scope::grow() {
    void **old = table;
    const size_t old_capacity = capacity;
    size_t live = 0;
    for (size_t i = 0; i < old_capacity; ++i) {
        live += old[i] && old[i] != deleted;
    }
    size_t size = 256;
    while (size < live * 4) {
        size *= 2;
    }
    void **fresh = static_cast<void **>(calloc(size, sizeof *fresh));
    if (!fresh) {
        free(table);
        table = nullptr;
        capacity = used = 0;
        return;
    }
    table = fresh;
    capacity = size;
    used = 0;
    for (size_t i = 0; i < old_capacity; ++i) {
        if (old[i] && old[i] != deleted) {
            insert(old[i]);
        }
    }
    free(old);
}

void budget_scope::before_delete() {
    calls = calls + 1;
    if (!outside && stack_pointer() + stack_reserve - free_reserve < floor) {
        abandon(too_deep);
    }
}

void budget_scope::forget(void *memory) {
    if (!capacity) {
        return;
    }
    size_t at = slot_of(memory, capacity);
    while (table[at]) {
        if (table[at] == memory) {
            table[at] = deleted;
            held -= std::min(held, malloc_usable_size(memory));
            return;
        }
        at = (at + 1) & (capacity - 1);
    }
}

void budget_scope::abandon(const char *reason) {
    innermost = nullptr; // what follows is not the body's
    abandoned = reason;
    eh_globals *globals = __cxa_get_globals();
    globals->caught = caught;
    globals->uncaught = uncaught;
    __asm__ volatile("fninit; fldcw %0; ldmxcsr %1" ::"m"(x87_control), "m"(sse_control));
    longjmp(entry, 1);
}

bool budget_scope::is_overflow(const void *address) const {
    const uintptr_t at = reinterpret_cast<uintptr_t>(address);
    return floor && at < floor && at + overflow_reach > floor - stack_reserve;
}

outside_budget::outside_budget() {
    outside = outside + 1;
}

outside_budget::~outside_budget() {
    outside = outside - 1;
}

// Replace the library's, as C++ allows ([replacement.functions]); its other forms call these.
void *operator new(size_t size) {
    budget_scope *scope = current();
    if (scope) {
        scope->before_new(size);
    }
    void *memory;
    {
        const outside_budget no_tick;
        memory = malloc(size ? size : 1);
        if (memory && scope) {
            scope->after_new(memory);
        }
    }
    if (!memory) {
        throw std::bad_alloc();
    }
    return memory;
}

void operator delete(void *memory) noexcept {
    if (!memory) {
        return;
    }
    budget_scope *scope = innermost;
    if (scope) {
        scope->before_delete();
    }
    const outside_budget no_tick;
    if (scope) {
        scope->forget(memory);
    }
    free(memory);
}

// A function-local static outlives the body that came by first, so it is no part of any budget.
// These functions stand in for the C++ runtime's (Itanium C++ ABI 3.3.3): one recursive lock for
// all, held while a static is initialized.
namespace {

pthread_mutex_t *guard_mutex() {
    static pthread_mutex_t mutex;
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, [] {
        pthread_mutexattr_t attributes;
        pthread_mutexattr_init(&attributes);
        pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_RECURSIVE);
        pthread_mutex_init(&mutex, &attributes);
        pthread_mutexattr_destroy(&attributes);
    });
    return &mutex;
}

void enter_guard() {
    outside = outside + 1; // first: nobody may be stopped between the lock and this
    pthread_mutex_lock(guard_mutex());
}

void leave_guard() {
    pthread_mutex_unlock(guard_mutex());
    outside = outside - 1;
}

} // namespace

extern "C" int __cxa_guard_acquire(uint64_t *guard) {
    uint8_t *done = reinterpret_cast<uint8_t *>(guard);
    if (__atomic_load_n(done, __ATOMIC_ACQUIRE)) {
        return 0;
    }
    enter_guard();
    if (__atomic_load_n(done, __ATOMIC_ACQUIRE)) {
        leave_guard();
        return 0;
    }
    return 1;
}

extern "C" void __cxa_guard_release(uint64_t *guard) {
    __atomic_store_n(reinterpret_cast<uint8_t *>(guard), 1, __ATOMIC_RELEASE);
    leave_guard();
}

extern "C" void __cxa_guard_abort(uint64_t *) {
    leave_guard();
}
