// jobs.cpp: the thread that processes what requests hand to llama.cpp; see jobs.h.
#include "jobs.h"

#include "call.h"
#include "checks.h"
#include "cpu.h"
#include "engine_job.h"
#include "errors.h"
#include "log.h"

#include <algorithm>
#include <cstdio>
#include <utility>

#include <sys/sysinfo.h>

void job::run() noexcept {
    scoped_value<bool> catches(catching, true);
    const log_capture outermost; // for a body that is abandoned within a capture of its own
    const uint64_t began = thread_ns();
    code = translated(nullptr, [this] {
        try {
            body();
        } catch (const assertion &x) {
            // A client cannot do anything with llama.cpp's source line.
            engine_log(GGML_LOG_LEVEL_WARN, x.what(), nullptr);
            throw bad_input("llama.cpp cannot process this request");
        }
        return static_cast<int>(ENGINE_OK);
    });
    if (code != ENGINE_OK) {
        try {
            reason = engine_error();
        } catch (...) { // it stays empty
        }
    }
    took_ns = thread_ns() - began;
}

job_thread::job_thread(const engine_params &params)
    : wait(params.wait), wake(params.wake), user(params.user) {
    thread = start_thread(
        [](void *self) -> void * {
            static_cast<job_thread *>(self)->loop();
            return nullptr;
        },
        this, "the thread for jobs");
}

job_thread::~job_thread() {
    {
        std::lock_guard<std::mutex> lock(mutex);
        ending = true;
        waiting.clear();
        if (running) {
            running->unwanted = true;
        }
    }
    given.notify_one();
    pthread_join(thread, nullptr);
}

void job_thread::push(std::shared_ptr<job> work) {
    {
        std::lock_guard<std::mutex> lock(mutex);
        waiting.push_back(std::move(work));
    }
    given.notify_one();
}

void job_thread::wait_for(const job &work) {
    while (wait && !work.ended) {
        wait(user);
    }
    std::unique_lock<std::mutex> lock(mutex);
    idle.wait(lock, [&] { return work.ended.load(); });
}

void job_thread::loop() {
    std::unique_lock<std::mutex> lock(mutex);
    for (;;) {
        given.wait(lock, [this] { return !waiting.empty() || ending; });
        if (ending) {
            return;
        }
        running = std::move(waiting.front());
        waiting.pop_front();
        lock.unlock();
        if (!running->unwanted) {
            running->run();
        }
        running->ended = true;
        if (wake) {
            wake(user);
        }
        lock.lock();
        running.reset();
        idle.notify_all();
    }
}

// Bytes that the machine could give out now.
static uint64_t available_bytes(uint64_t enough) {
    struct sysinfo info;
    if (sysinfo(&info) != 0) {
        return enough;
    }
    uint64_t bytes = uint64_t(info.freeram) * info.mem_unit;
    if (bytes >= enough) {
        return bytes;
    }
    // Linux fills free memory with copies of files, which it gives up when asked (proc(5),
    // MemAvailable). The machine has neither them nor this file.
    if (FILE *file = fopen("/proc/meminfo", "re")) {
        char line[128];
        unsigned long long kib;
        while (fgets(line, sizeof line, file)) {
            if (sscanf(line, "MemAvailable: %llu kB", &kib) == 1) {
                bytes = std::max<uint64_t>(bytes, kib * 1024);
            }
        }
        fclose(file);
    }
    return bytes;
}

size_t job_bytes(size_t extra) {
    constexpr size_t least = 4 * 1024 * 1024;
    const size_t most = 64 * 1024 * 1024 + extra;
    // The other half is for what the rest of the machine does meanwhile.
    return std::clamp<uint64_t>(available_bytes(2 * most) / 2, least, most);
}

void start_job(engine *e, enum engine_job::kind kind, uint32_t ms,
    std::function<void(job_result &)> body, engine_job **out) {
    auto j = std::make_unique<engine_job>();
    j->owner = e;
    j->kind = kind;
    j->result = std::make_shared<job_result>();
    j->work = std::make_shared<job>();
    job &work = *j->work;
    const budget allowance{fair_ms(ms ? ms : e->params.job_ms), job_bytes(),
        stack_size - stack_margin, &work.unwanted};
    work.body = [body = std::move(body), result = j->result, allowance] {
        *result = made_within(allowance, [&body] {
            job_result made;
            body(made);
            return made;
        });
    };
    if (!e->job_worker) {
        e->job_worker = std::make_unique<job_thread>(e->params);
    }
    e->job_worker->push(j->work);
    e->jobs.push_back(j.get());
    *out = j.release();
}

static const char *subject_of(enum engine_job::kind kind) {
    switch (kind) {
        case engine_job::kind::chat:
            return "The conversation with its tools and schema: ";
        case engine_job::kind::sampler:
            return "The grammar or schema: ";
        default:
            return "The text: ";
    }
}

int finish_job(engine_job *j, enum engine_job::kind kind,
    const std::function<void(job_result &)> &take) noexcept {
    if (!j->owner) {
        return fail(ENGINE_EINVAL, "the engine of this job is closed");
    }
    return call(j->owner, KNOWS, [&] {
        check(j->kind == kind && j->result, "this job has no such result");
        j->owner->job_worker->wait_for(*j->work);
        deliver_log();
        const std::shared_ptr<job_result> result = std::exchange(j->result, nullptr);
        const job &work = *j->work;
        if (work.code == ENGINE_LIMIT) {
            return fail(work.code, (subject_of(kind) + work.reason).c_str());
        }
        if (work.code != ENGINE_OK) {
            return fail(work.code, work.reason.c_str());
        }
        take(*result);
        return static_cast<int>(ENGINE_OK);
    });
}

bool engine_job_ended(const struct engine_job *j) {
    return j->work->ended;
}

uint32_t engine_job_ms(const struct engine_job *j) {
    return j->work->ended ? static_cast<uint32_t>(j->work->took_ns / fair_ms(1'000'000)) : 0;
}

void engine_job_close(struct engine_job *j) {
    if (!j) {
        return;
    }
    j->work->unwanted = true;
    if (j->owner) {
        auto &all = j->owner->jobs;
        all.erase(std::find(all.begin(), all.end(), j));
    }
    delete j;
}
