// worker.cpp: see worker.h.
#include "worker.h"

#include <chrono>
#include <cstring>
#include <thread>

#include "../ucuda/abi.h"

namespace gpud {

namespace {

// After these CUDA refuses all further work of the process.
bool is_fatal(int code) {
    return code == UCUDA_EADDRESS || code == UCUDA_ETIMEOUT || code == 710
        || (code >= 714 && code <= UCUDA_ELAUNCH);
}

// What may be asked for after a failure: to free what there is.
bool may_follow_failure(uint16_t op) {
    switch (op) {
        case UCUDA_NOP:
        case UCUDA_HELLO:
        case UCUDA_FREE:
        case UCUDA_STREAM_DESTROY:
        case UCUDA_EVENT_DESTROY:
        case UCUDA_GRAPH_FREE:
            return true;
        default:
            return false;
    }
}

} // namespace

worker::worker(const shared_memory &memory, const gpud::settings &settings, gpud::engine &engine,
    gpud::progress &progress)
    : memory(memory), settings(settings), engine(engine), progress(progress),
      commands(engine, settings, memory.heap(), memory.heap_bytes()), record(UCUDA_RECORD_MAX) {}

void worker::publish_info() {
    ucuda_info info = memory.describe();
    info.features = engine.features() | (settings.upload ? UCUDA_HAS_UPLOAD : 0)
        | (settings.windows.empty() ? 0 : UCUDA_HAS_GUEST_WINDOWS);
    info.quota = settings.quota;
    info.n_devices = engine.devices();
    info.daemon_peer = 0;
    strncpy(info.name, engine.name(), sizeof(info.name) - 1);
    for (size_t i = 0; i < settings.windows.size() && i < UCUDA_WINDOWS; i++) {
        const window &w = settings.windows[i];
        info.window[i] = {w.start, w.size, w.kind, w.flags};
    }
    memcpy(&memory.info(), &info, sizeof(info));
}

void worker::break_off(const std::string &text) {
    is_broken = true;
    memory.set_state(UCUDA_FAILED, text);
}

// Copies the record at `head` and checks its frame. False: the ring makes no sense any more.
bool worker::take(uint32_t tail) {
    uint32_t left = tail - head;
    if (left > shared_memory::sq_bytes || left % UCUDA_RECORD_ALIGN != 0) {
        break_off("the ring's tail is where it cannot be");
        return false;
    }
    uint32_t offset = head & (shared_memory::sq_bytes - 1);
    ucuda_header header;
    memcpy(&header, memory.sq() + offset, sizeof(header));
    if (header.size < UCUDA_RECORD_ALIGN || header.size > UCUDA_RECORD_MAX
        || header.size % UCUDA_RECORD_ALIGN != 0 || header.size > left
        || header.size > shared_memory::sq_bytes - offset) {
        break_off("a record's size is wrong: " + std::to_string(header.size));
        return false;
    }
    if (header.seq != seq + 1) {
        break_off("record " + std::to_string(header.seq) + " follows " + std::to_string(seq));
        return false;
    }
    // The header counts as it was when it was checked, whatever stands there by now.
    memcpy(record.data(), memory.sq() + offset, header.size);
    memcpy(record.data(), &header, sizeof(header));
    head += header.size;
    seq = header.seq;
    store(memory.host().sq_head, head);
    return true;
}

void worker::answer(uint16_t flags, uint16_t op, int code, const uint64_t ret[2],
    const waiter &sleep) {
    bool wanted = flags & UCUDA_WANT_CQE;
    bool first = code != 0 && sticky == 0 && (!wanted || is_fatal(code));
    if (code != 0 && sticky == 0) {
        memory.set_fault(commands.fault());
    }
    if (first) {
        sticky = code;
        store(memory.host().fault_seq, seq);
        store(memory.host().sticky, code);
    }
    store(memory.host().used_bytes, commands.used());
    store(memory.host().seq_done, seq);
    if (!wanted && !first) {
        return;
    }
    while (true) {
        uint32_t used = cq_tail - load(memory.guest().cq_head);
        if (used > shared_memory::cq_count) {
            return break_off("the completion ring's head is where it cannot be");
        }
        if (used < shared_memory::cq_count) {
            break;
        }
        if (!sleep(false)) {
            return;
        }
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    ucuda_completion completion = {seq, code, op, 0, {ret[0], ret[1]}};
    memcpy(&memory.cq()[cq_tail & (shared_memory::cq_count - 1)], &completion, sizeof(completion));
    store(memory.host().cq_tail, ++cq_tail);
}

bool worker::step(const waiter &sleep) {
    uint32_t tail = load(memory.guest().sq_tail);
    if (tail == head || is_broken || !take(tail)) {
        return false;
    }
    ucuda_header header;
    memcpy(&header, record.data(), sizeof(header));
    std::string doing = commands.doing(record.data());
    memset(progress.doing, 0, sizeof(progress.doing));
    memcpy(progress.doing, doing.data(), std::min(doing.size(), sizeof(progress.doing) - 1));
    progress.seq.store(seq);
    progress.busy_since.store(now_ms());
    uint64_t ret[2] = {0, 0};
    int code = sticky;
    if (header.op == UCUDA_RESET) {
        // What CUDA itself survives can be cleared; for the rest there is a new epoch.
        if (!is_fatal(sticky)) {
            sticky = code = 0;
            store(memory.host().sticky, 0);
        }
    } else if (sticky == 0 || may_follow_failure(header.op)) {
        code = commands.execute(record.data(), ret);
    }
    progress.busy_since.store(0);
    answer(header.flags, header.op, code, ret, sleep);
    return true;
}

void worker::run(const waiter &sleep) {
    publish_info();
    store(memory.host().state, (uint32_t)UCUDA_READY);
    while (!is_broken) {
        if (step(sleep) || is_broken) {
            continue;
        }
        auto until = std::chrono::steady_clock::now() + std::chrono::microseconds(settings.spin_us);
        while (settings.spin_us && load(memory.guest().sq_tail) == head
            && std::chrono::steady_clock::now() < until) {
        }
        store(memory.host().asleep, 1u);
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
        bool go_on = load(memory.guest().sq_tail) != head || sleep(true);
        store(memory.host().asleep, 0u);
        if (!go_on) {
            return;
        }
    }
}

} // namespace gpud
