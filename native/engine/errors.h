// errors.h: how a failure leaves the engine: as an error code with a reason.
//
// Two ideas carry the error handling. First, every argument that a request can influence is
// checked (checks.h) before llama.cpp sees it, because llama.cpp answers a wrong one with an
// assertion, and an assertion ends the machine. Second, an assertion that fails all the same (a
// corrupted model file knows many) leaves ggml_abort() as a C++ exception, which unwinds to the
// ABI and becomes an error code.
#ifndef CLLM_ENGINE_ERRORS_H
#define CLLM_ENGINE_ERRORS_H

#include "budget.h"
#include "engine.h"
#include "gpu.h"

#include <stdexcept>
#include <string>
#include <type_traits>

// The caller passed something wrong: ENGINE_EINVAL.
struct bad_input : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// An assertion of ggml or llama.cpp failed.
struct assertion : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// True while an assertion on this thread can be turned into an exception. Compute threads have
// their own flag, which stays false.
extern thread_local bool catching;

// The same for failed calls of CUDA, which other compute threads do not wait for.
extern thread_local bool catching_gpu;

// Makes failed assertions of ggml exceptions where `catching` is true. Call it once.
void catch_assertions();

// Keeps the reason for engine_error() and returns the code.
int fail(int code, const char *reason) noexcept;
int fail_busy() noexcept;
void clear_error() noexcept;

// Returns whether llama.cpp's reason for a failure is a lack of memory, for which it has no code.
bool lacks_memory(const char *reason) noexcept;

// Throws std::bad_alloc if lacks_memory(reason), else the reason.
[[noreturn]] void throw_failure(const std::string &reason);

template <class T> class scoped_value {
public:
    scoped_value(T &variable, T value) : variable(variable), before(variable) { variable = value; }
    ~scoped_value() { variable = before; }

private:
    T &variable;
    T before;
};

// Runs the body of an ABI function. A body that returns nothing ends in ENGINE_OK.
template <class Body, class... Arguments> int code_of(Body &&body, Arguments &&...arguments) {
    if constexpr (std::is_void_v<std::invoke_result_t<Body, Arguments...>>) {
        body(arguments...);
        return ENGINE_OK;
    } else {
        return body(arguments...);
    }
}

// The same, and turns whatever the body throws into an error code.
// broken: set when an assertion failed, NULL where that changes nothing.
template <class Body> int translated(bool *broken, Body &&body) noexcept {
    try {
        clear_error();
        return code_of(body);
    } catch (const bad_input &x) {
        return fail(ENGINE_EINVAL, x.what());
    } catch (const assertion &x) {
        if (broken) {
            *broken = true;
            return fail(ENGINE_EBROKEN, x.what());
        }
        return fail(lacks_memory(x.what()) ? ENGINE_ENOMEM : ENGINE_EASSERT, x.what());
    } catch (const std::out_of_range &x) {
        // By at(), stoi() and the like, whose names say nothing to a client.
        return fail(ENGINE_EASSERT, x.what());
    } catch (const gpu_lost &x) {
        return fail(ENGINE_ELOST, x.what());
    } catch (const gpu_memory &x) {
        return fail(ENGINE_ENOMEM, x.what());
    } catch (const over_budget &x) {
        return fail(ENGINE_LIMIT, x.what());
    } catch (const std::bad_alloc &) {
        return fail(ENGINE_ENOMEM, "out of memory");
    } catch (const std::exception &x) {
        return fail(lacks_memory(x.what()) ? ENGINE_ENOMEM : ENGINE_EFAIL, x.what());
    } catch (...) {
        return fail(ENGINE_EFAIL, "an exception without a reason");
    }
}

// Runs body, whose failures all stem from what the caller passed.
template <class Body> void with_input(Body &&body) {
    try {
        body();
    } catch (const assertion &) {
        throw;
    } catch (const std::out_of_range &) {
        throw;
    } catch (const std::bad_alloc &) {
        throw;
    } catch (const std::exception &x) {
        throw bad_input(x.what());
    }
}

#endif // CLLM_ENGINE_ERRORS_H
