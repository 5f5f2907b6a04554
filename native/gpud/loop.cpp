// loop.cpp: see loop.h. Two threads: the worker, and its supervisor, which beats and starts another
// worker for a new epoch, as server.cpp does for workers that are processes.
#include "loop.h"

#include <sys/eventfd.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <memory>
#include <poll.h>
#include <stdexcept>
#include <string>
#include <thread>
#include <unistd.h>

#include "engine.h"
#include "pack_file.h"
#include "shared.h"
#include "waiting.h"
#include "worker.h"

using namespace gpud;

namespace {

struct free_mapping {
    size_t bytes;
    void operator()(void *at) const { munmap(at, bytes); }
};

} // namespace

struct gpud_loop {
    gpud_loop(const gpud_loop_options &options)
        : mapping(map(options.shared_bytes), {options.shared_bytes}),
          memory(mapping.get(), options.shared_bytes), engine_name(options.engine),
          devices(options.devices), major(options.major), minor(options.minor),
          doorbell(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {
        settings.quota = options.quota;
        settings.upload = options.upload;
        if (options.pack) {
            pack = std::make_unique<gpud::pack>(
                std::string_view((const char *)options.pack, options.pack_bytes));
            settings.pack = pack.get();
        }
        for (uint32_t i = 0; i < options.n_windows; i++) {
            const gpud_window &w = options.windows[i];
            settings.windows.push_back({w.start, w.size, w.kind, w.flags, (uint8_t *)w.at});
        }
        begin(0);
        supervisor = std::thread([this] { supervise(); });
    }

    ~gpud_loop() {
        stop = true;
        ring();
        supervisor.join();
        close(doorbell);
    }

    void ring() {
        uint64_t one = 1;
        (void)!write(doorbell, &one, sizeof(one));
    }

    free_mapping unmap;
    std::unique_ptr<void, free_mapping> mapping;
    shared_memory memory;

private:
    static void *map(size_t bytes) {
        void *at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        if (at == MAP_FAILED) {
            throw std::runtime_error("no memory for the loop");
        }
        return at;
    }

    std::unique_ptr<gpud::engine> make_engine() const {
        if (engine_name == "ptx") {
            return make_ptx_engine(settings.quota, devices, major, minor);
        }
        if (engine_name == "cuda") {
            return make_cuda_engine();
        }
        throw std::runtime_error("no engine of the name " + engine_name);
    }

    void begin(uint32_t number) {
        epoch = number;
        memory.begin_epoch(number);
        engine = make_engine();
    }

    void supervise() {
        start_worker();
        while (!stop) {
            store(memory.host().beat, load(memory.host().beat) + 1);
            if (load(memory.guest().epoch) != epoch) {
                end_worker();
                try {
                    begin(load(memory.guest().epoch));
                    start_worker();
                } catch (const std::exception &error) {
                    memory.set_state(UCUDA_FAILED, error.what());
                }
            }
            std::this_thread::sleep_for(std::chrono::milliseconds(5));
        }
        end_worker();
    }

    void start_worker() {
        worker_stop = false;
        thread = std::thread([this] {
            worker w(memory, settings, *engine, progress);
            w.run([this](bool wait) {
                if (wait && !worker_stop) {
                    wait_for_doorbell(doorbell);
                }
                return !worker_stop;
            });
        });
    }

    void end_worker() {
        worker_stop = true;
        ring();
        if (thread.joinable()) {
            thread.join();
        }
    }

    std::string engine_name;
    unsigned devices, major, minor;
    int doorbell;
    gpud::settings settings;
    std::unique_ptr<gpud::pack> pack;
    std::unique_ptr<gpud::engine> engine;
    gpud::progress progress = {};
    std::atomic<bool> stop{false}, worker_stop{false};
    uint32_t epoch = 0;
    std::thread supervisor, thread;
};

static void ring_loop(void *user) {
    ((gpud_loop *)user)->ring();
}

struct gpud_loop *gpud_loop_open(const struct gpud_loop_options *options,
    struct ucuda_transport *transport, char *why, size_t room) {
    try {
        gpud_loop *loop = new gpud_loop(*options);
        *transport = {};
        transport->memory = loop->mapping.get();
        transport->bytes = options->shared_bytes;
        transport->ring = ring_loop;
        transport->pause = pause_a_little;
        transport->now_ms = transport_now_ms;
        transport->user = loop;
        return loop;
    } catch (const std::exception &error) {
        snprintf(why, room, "%s", error.what());
        return nullptr;
    }
}

void gpud_loop_close(struct gpud_loop *loop) {
    delete loop;
}

size_t gpud_slice(const void *pack, size_t pack_bytes, uint32_t file, uint32_t kernel, char *out,
    size_t room) {
    try {
        gpud::pack all(std::string_view((const char *)pack, pack_bytes));
        const pack_file &from = all.all().at(file);
        from.kernels.at(kernel);
        std::string text = slice(from, from.text(), kernel);
        memcpy(out, text.data(), std::min(text.size(), room));
        return text.size();
    } catch (const std::exception &error) {
        snprintf(out, room, "%s", error.what());
        return 0;
    }
}
