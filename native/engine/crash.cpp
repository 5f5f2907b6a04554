// crash.cpp: ways to die in C++ on purpose, so that tests can see what the machine says of them.
#include "state.h"

#include "ggml.h"

#include <cstring>
#include <stdexcept>

// Not to be inlined or dropped: the test looks for their names in the backtrace.
namespace death {

[[gnu::noinline]] void fail_assertion(int answer) {
    GGML_ASSERT(answer == 42);
}

[[gnu::noinline]] void throw_uncaught(const char *what) {
    throw std::runtime_error(what);
}

void by(const char *kind) {
    if (strcmp(kind, "assert") == 0) {
        fail_assertion(static_cast<int>(strlen(kind)));
    } else if (strcmp(kind, "throw") == 0) {
        throw_uncaught("thrown on purpose");
    }
}

} // namespace death

void engine_crash(struct engine *e, const char *kind) {
    if (e && e->computer) {
        e->computer->start([kind]() noexcept { death::by(kind); });
        e->computer->finish();
    } else {
        death::by(kind);
    }
}
