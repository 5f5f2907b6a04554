// worker.h: takes a guest's records from the ring, has them done, and answers.
#ifndef CLLM_GPUD_WORKER_H
#define CLLM_GPUD_WORKER_H

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "commands.h"
#include "engine.h"
#include "shared.h"

namespace gpud {

// What the worker says of itself to its supervisor, in memory that no guest sees.
struct progress {
    std::atomic<uint64_t> busy_since; // now_ms() when the current command began, 0 for none
    std::atomic<uint64_t> seq;
    char doing[160]; // written before busy_since; ends with NUL
};

// True: go on. Waits for the doorbell first if `wait` says so.
using waiter = std::function<bool(bool wait)>;

class worker {
public:
    worker(const shared_memory &memory, const gpud::settings &settings, gpud::engine &engine,
        gpud::progress &progress);

    // Fills page 0, turns the state to ready, and works until `sleep` returns false or the guest
    // breaks the ring's rules; then the state is UCUDA_FAILED.
    void run(const waiter &sleep);

    // One record; false: there is none. For tests without run().
    bool step(const waiter &sleep);
    bool broken() const { return is_broken; }

private:
    bool take(uint32_t tail);
    void answer(uint16_t flags, uint16_t op, int code, const uint64_t ret[2], const waiter &sleep);
    void break_off(const std::string &text);
    void publish_info();

    shared_memory memory;
    const gpud::settings &settings;
    gpud::engine &engine;
    gpud::progress &progress;
    gpud::commands commands;

    uint32_t head = 0, cq_tail = 0;
    uint64_t seq = 0;
    int sticky = 0;
    bool is_broken = false;
    std::vector<uint8_t> record; // a private copy
};

} // namespace gpud

#endif
