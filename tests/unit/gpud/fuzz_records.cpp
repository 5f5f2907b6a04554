// fuzz_records.cpp: random and mutated records against gpud's worker, under sanitizers.
//
//   fuzz_records COUNT SEED [hostile]
//
// COUNT random records, whose fields are now and then right, and COUNT right ones with some bytes
// changed. With `hostile` a thread changes the shared memory meanwhile. Ends with 1 when memory of
// another guest, or of the host beside the windows, has changed; sanitizers end it otherwise. With
// FUZZ_REAL_PTX it is linked with native/ptx, else with fake_ptx.cpp.
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "../../../native/gpud/worker.h"

using namespace gpud;

namespace {

constexpr size_t shared_bytes = shared_memory::least_bytes, window_bytes = 64 << 10;
constexpr uint64_t quota = 8 << 20, ram_start = 0x100000, file_start = 0x40000000;
#ifdef FUZZ_REAL_PTX
const char module_text[] = R"(.version 7.0
.target sm_61
.address_size 64
.global .align 8 .b8 table[64];
.visible .entry fill(.param .u64 p, .param .u32 n, .param .u32 v) {
    .reg .b64 %rd<4>; .reg .b32 %r<6>; .reg .pred %p<2>;
    ld.param.u64 %rd1, [p]; ld.param.u32 %r1, [n]; ld.param.u32 %r2, [v];
    mov.u32 %r3, %tid.x; setp.ge.u32 %p1, %r3, %r1; @%p1 bra DONE;
    cvt.u64.u32 %rd2, %r3; add.s64 %rd3, %rd1, %rd2; st.global.u8 [%rd3], %r2;
DONE: ret;
})";
#else
const char module_text[] = "any text";
#endif

std::mt19937_64 random_bits;

uint64_t below(uint64_t n) {
    return n ? random_bits() % n : 0;
}

template <typename T> T one_of(const std::vector<T> &from) {
    return from[below(from.size())];
}

// Held while a worker is set up, which the hostile thread does not disturb.
std::mutex calm;

// A guest with its memory, of which a record may name anything.
struct guest {
    guest() : base((uint8_t *)aligned_alloc(4096, shared_bytes)), memory(base, shared_bytes) {
        memset(base, 0, shared_bytes);
        ram.assign(window_bytes, 0x11);
        file.assign(window_bytes, 0x22);
        settings.quota = quota;
        settings.upload = true;
        settings.windows = {{ram_start, window_bytes, UCUDA_WINDOW_RAM, 1, ram.data()},
            {file_start, window_bytes, UCUDA_WINDOW_FILE, 0, file.data()}};
        begin();
    }
    ~guest() {
        w.reset();
        engine.reset();
        free(base);
    }

    void begin() {
        std::lock_guard<std::mutex> hold(calm);
        w.reset();
        engine = make_ptx_engine(quota, 2, 6, 1);
        memory.begin_epoch(0);
        store(memory.guest().sq_tail, 0u);
        store(memory.guest().cq_head, 0u);
        tail = cq_head = 0;
        seq = 0;
        addresses = {0, ~0ull};
        w = std::make_unique<worker>(memory, settings, *engine, progress);
        memcpy(memory.heap(), module_text, sizeof(module_text));
        call(UCUDA_MODULE, 0, 0, 0, sizeof(module_text) - 1);
        call(UCUDA_KERNEL, 1, ucuda_name_hash("fill"), 4096);
        call(UCUDA_GLOBAL, 1, ucuda_name_hash("table"));
        addresses.push_back(result.ret[0]);
        for (uint64_t bytes : {256, 4096, 100000}) {
            call(UCUDA_ALLOC, bytes);
            addresses.push_back(result.ret[0]);
        }
        call(UCUDA_STREAM_CREATE);
        call(UCUDA_EVENT_CREATE);
    }

    void call(uint16_t op, uint64_t a0 = 0, uint64_t a1 = 0, uint64_t a2 = 0, uint64_t a3 = 0) {
        ucuda_call record = {{sizeof(ucuda_call), op, UCUDA_WANT_CQE, seq + 1, 0, 0},
            {a0, a1, a2, a3, 0}};
        put((const uint8_t *)&record, sizeof(record));
        if (result.result != 0) {
            fprintf(stderr, "set up: op %u: %d %s\n", op, result.result, memory.host().fault_text);
            exit(1);
        }
    }

    // Writes a record whose size may be anything, and has the worker take it.
    void put(const uint8_t *record, size_t bytes) {
        uint32_t at = tail & (shared_memory::sq_bytes - 1);
        if (bytes > shared_memory::sq_bytes - at) {
            ucuda_header nop = {shared_memory::sq_bytes - at, UCUDA_NOP, 0, ++seq, 0, 0};
            memcpy(memory.sq() + at, &nop, sizeof(nop));
            tail += nop.size;
            at = 0;
            std::vector<uint8_t> again(record, record + bytes);
            ucuda_header header;
            memcpy(&header, record, sizeof(header));
            if (header.seq == seq) {
                header.seq++;
                memcpy(again.data(), &header, sizeof(header));
            }
            memcpy(memory.sq() + at, again.data(), bytes);
        } else {
            memcpy(memory.sq() + at, record, bytes);
        }
        seq++;
        tail += (uint32_t)((bytes + 63) / 64 * 64);
        store(memory.guest().sq_tail, tail);
        while (w->step([](bool) { return false; })) {
        }
        while (load(memory.host().cq_tail) != cq_head) {
            memcpy(&result, &memory.cq()[cq_head++ % shared_memory::cq_count], sizeof(result));
            store(memory.guest().cq_head, cq_head);
            if (result.op == UCUDA_ALLOC && result.result == 0 && addresses.size() < 64) {
                addresses.push_back(result.ret[0]);
            }
        }
        if (w->broken() || load(memory.host().sticky) != 0) {
            broken += w->broken();
            failed++;
            begin();
        }
    }

    uint8_t *base;
    shared_memory memory;
    std::vector<uint8_t> ram, file;
    gpud::settings settings;
    gpud::progress progress = {};
    std::unique_ptr<gpud::engine> engine;
    std::unique_ptr<worker> w;
    uint32_t tail = 0, cq_head = 0;
    uint64_t seq = 0;
    ucuda_completion result = {};
    std::vector<uint64_t> addresses;
    unsigned broken = 0, failed = 0;
};

uint64_t number(guest &g) {
    switch (below(8)) {
        case 0:
            return random_bits();
        case 1:
            return one_of(g.addresses) + below(512) - 256;
        case 2:
            return one_of(g.addresses);
        case 3:
            return ram_start + below(2 * window_bytes) - window_bytes / 2;
        case 4:
            return file_start + below(2 * window_bytes) - window_bytes / 2;
        case 5:
            return UINT64_C(1) << below(64);
        default:
            return below(8);
    }
}

ucuda_header header(guest &g, uint16_t op, size_t bytes) {
    uint32_t stream = below(4) ? 0 : (uint32_t)below(6);
    return {(uint32_t)((bytes + 63) / 64 * 64), op, (uint16_t)(below(4) != 0), g.seq + 1, stream,
        (uint32_t)below(2)};
}

// A record of the right form, with fields that are now and then right.
std::vector<uint8_t> likely(guest &g) {
    std::vector<uint8_t> out;
    uint16_t op = (uint16_t)below(UCUDA_OPS + 2);
    switch (below(4)) {
        case 0:
            op = UCUDA_COPY;
            break;
        case 1:
            op = one_of<uint16_t>({UCUDA_LAUNCH, UCUDA_SET, UCUDA_ALLOC, UCUDA_FREE});
    }
    if (op == UCUDA_COPY) {
        size_t data = below(2) ? below(4096) : 0;
        ucuda_copy copy = {header(g, op, sizeof(copy) + data), one_of(g.addresses) + below(64),
            below(2) ? below(70000) : number(g), below(4) ? below(4096) : number(g),
            (uint32_t)below(8), (uint32_t)(below(3) ? 1 : below(100)), (uint32_t)below(5000),
            (uint32_t)below(5000)};
        out.resize(copy.header.size);
        memcpy(out.data(), &copy, sizeof(copy));
    } else if (op == UCUDA_SET) {
        ucuda_set set = {header(g, op, 64), one_of(g.addresses) + below(64),
            below(4) ? below(300) : number(g), (uint32_t)random_bits(),
            one_of<uint32_t>({0, 1, 2, 3, 4}), (uint32_t)(below(3) ? 1 : below(100)),
            (uint32_t)below(5000)};
        out.resize(64);
        memcpy(out.data(), &set, sizeof(set));
    } else if (op == UCUDA_LAUNCH) {
        ucuda_launch launch = {header(g, op, sizeof(launch) + 16),
            below(8) ? 1 : (uint32_t)below(9), {1, 1, 1}, {(uint32_t)below(40), 1, 1},
            (uint32_t)below(2000), 16, 0};
        if (below(4) == 0) {
            uint32_t *field = (&launch.grid[0]) + below(6);
            *field = (uint32_t)number(g);
        }
        struct {
            uint64_t pointer;
            uint32_t count, value;
        } p = {one_of(g.addresses), (uint32_t)below(300), (uint32_t)random_bits()};
        out.resize(launch.header.size);
        memcpy(out.data(), &launch, sizeof(launch));
        memcpy(out.data() + sizeof(launch), &p, sizeof(p));
    } else {
        ucuda_call call = {header(g, op, 64), {}};
        for (uint64_t &a : call.a) {
            a = number(g);
        }
        if (op == UCUDA_ALLOC && below(2)) {
            call.a[0] = below(200000);
        }
        out.resize(64);
        memcpy(out.data(), &call, sizeof(call));
    }
    return out;
}

void mutate(std::vector<uint8_t> &record) {
    for (uint64_t i = 1 + below(4); i--;) {
        // Rarely the frame: it ends the connection.
        size_t at = below(50) ? 16 + below(record.size() - 16) : below(record.size());
        record[at] = below(2) ? (uint8_t)random_bits() : record[at] ^ (uint8_t)(1 << below(8));
    }
}

#ifdef FUZZ_REAL_PTX
// A launch that takes hours is allowed; the server would end its worker.
bool takes_long(const std::vector<uint8_t> &record) {
    ucuda_launch what;
    memcpy(&what, record.data(), sizeof(what));
    double blocks = (double)what.grid[0] * what.grid[1] * what.grid[2];
    return what.header.op == UCUDA_LAUNCH && blocks > 1000;
}
#endif

std::vector<uint8_t> random_record(guest &g) {
    std::vector<uint8_t> out(64 * (1 + below(4)));
    for (uint8_t &byte : out) {
        byte = (uint8_t)random_bits();
    }
    if (below(20)) {
        ucuda_header head = header(g, (uint16_t)below(UCUDA_OPS), out.size());
        memcpy(out.data(), &head, sizeof(head));
    }
    return out;
}

} // namespace

int main(int argc, char **argv) {
    if (argc < 3) {
        return 2;
    }
    unsigned long count = strtoul(argv[1], nullptr, 10);
    random_bits.seed(strtoul(argv[2], nullptr, 10));
    guest attacker, victim;
    uint64_t secret = victim.addresses.back();
    memset((void *)secret, 0x5e, 100000);
    attacker.addresses.push_back(secret);
    std::atomic<bool> stop{false};
    std::thread hostile;
    if (argc > 3 && strcmp(argv[3], "hostile") == 0) {
        hostile = std::thread([&] {
            std::mt19937_64 bits(1);
            while (!stop) {
                std::lock_guard<std::mutex> hold(calm);
                for (int i = 0; i < 100; i++) {
                    // Where records are: it starts over often, so near the ring's beginning.
                    attacker.memory.sq()[bits() % 16384] = (uint8_t)bits();
                    attacker.memory.heap()[bits() % 65536] = (uint8_t)bits();
                }
            }
        });
    }
    for (unsigned long i = 0; i < 2 * count; i++) {
        attacker.addresses[2] = secret; // begin() forgets it
        std::vector<uint8_t> record = i < count ? random_record(attacker) : likely(attacker);
        if (i >= count && below(2)) {
            mutate(record);
        }
#ifdef FUZZ_REAL_PTX
        if (takes_long(record)) {
            continue;
        }
#endif
        attacker.put(record.data(), record.size());
    }
    stop = true;
    if (hostile.joinable()) {
        hostile.join();
    }
    for (size_t i = 0; i < 100000; i++) {
        if (((const uint8_t *)secret)[i] != 0x5e) {
            fprintf(stderr, "another guest's memory has changed\n");
            return 1;
        }
    }
    for (uint8_t byte : attacker.file) {
        if (byte != 0x22) {
            fprintf(stderr, "a file that is only read has changed\n");
            return 1;
        }
    }
    // What the attacker could get at: the secret's bytes must not be in its memory.
    for (const std::vector<uint8_t> *place : {&attacker.ram}) {
        for (size_t i = 0; i + 8 <= place->size(); i++) {
            if (memcmp(place->data() + i, "\x5e\x5e\x5e\x5e\x5e\x5e\x5e\x5e", 8) == 0) {
                fprintf(stderr, "another guest's memory was read\n");
                return 1;
            }
        }
    }
    printf("%lu records, %u failures, %u broken rings\n", 2 * count, attacker.failed,
        attacker.broken);
    return 0;
}
