// ring.c: records to gpud, completions from it, and how the client knows that gpud is gone.
#include "ring.h"

#include <pthread.h>
#include <string.h>

enum {
    BEAT_MS = 5000,     // gpud's beat is older: it is gone
    LOOK_MS = 2500,     // between two looks at the beat; after longer gaps the wait starts anew
    RESET_MS = 30000,   // a worker's start, libcuda's included
    UNRUNG = 64 * 1024, // bytes of records without the doorbell
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static struct {
    bool open;
    struct ucuda_transport transport;
    struct ucuda_info info; // a checked copy
    struct ucuda_guest *guest;
    struct ucuda_host *host;
    uint8_t *sq;
    struct ucuda_completion *cq;

    uint32_t tail, cq_head, epoch;
    uint64_t seq;
    struct ucuda_header *record; // reserved, not committed
    uint32_t unrung;             // bytes
    bool rung;                   // since the last wait

    uint64_t beat, beat_at, looked_at; // ms of the transport's clock, but for `beat`

    bool interrupted; // by ucuda_interrupt(), until the next epoch
    int error;        // the first failure
    char fault[sizeof(((struct ucuda_host *)0)->fault_text)];
    struct ucuda_stats stats;
} c;

#define LOAD(field) __atomic_load_n(&(field), __ATOMIC_ACQUIRE)
#define STORE(field, value) __atomic_store_n(&(field), (value), __ATOMIC_RELEASE)

// Keeps gpud's words about a failure, or `text` where there are none.
static void keep_words(const char *text) {
    char words[sizeof(c.fault)];
    memcpy(words, c.host->fault_text, sizeof(words));
    words[sizeof(words) - 1] = 0;
    const char *chosen = words[0] ? words : text;
    // A reader without the lock sees text that ends somewhere, always.
    memset(c.fault, 0, sizeof(c.fault));
    memcpy(c.fault, chosen, strnlen(chosen, sizeof(c.fault) - 1));
}

// gpud says nothing any more: its last words are of something else.
static int lose(const char *text) {
    if (c.error != UCUDA_ELOST) {
        memset(c.fault, 0, sizeof(c.fault));
        memcpy(c.fault, text, strnlen(text, sizeof(c.fault) - 1));
        STORE(c.error, UCUDA_ELOST);
    }
    return UCUDA_ELOST;
}

static int fail(int code, const char *text) {
    if (c.error == 0 || (code == UCUDA_ELOST && c.error != UCUDA_ELOST)) {
        keep_words(text);
        STORE(c.error, code);
    }
    return c.error;
}

// Looks at what gpud writes: 0, or the first failure.
static int look(void) {
    uint32_t state = LOAD(c.host->state);
    if (state != UCUDA_READY || LOAD(c.host->epoch) != c.epoch) {
        return fail(UCUDA_ELOST, "gpud's worker ended");
    }
    if (LOAD(c.interrupted)) {
        return lose("a reset is due");
    }
    uint64_t now = c.transport.now_ms(c.transport.user);
    uint64_t beat = LOAD(c.host->beat);
    // Who did not look for long cannot know how long the beat has stood still.
    if (beat != c.beat || now - c.looked_at > LOOK_MS) {
        c.beat = beat;
        c.beat_at = now;
    }
    c.looked_at = now;
    if (now - c.beat_at > BEAT_MS) {
        return lose("gpud does not answer");
    }
    int sticky = LOAD(c.host->sticky);
    return sticky ? fail(sticky, "") : c.error;
}

int ring_begin(enum ring_mode mode) {
    pthread_mutex_lock(&lock);
    int code = c.open ? look() : UCUDA_EDEINIT;
    if (code != 0 && (mode == RING_HEALTHY || !c.open || code == UCUDA_ELOST)) {
        pthread_mutex_unlock(&lock);
        return code;
    }
    return 0;
}

int ring_end(int code) {
    pthread_mutex_unlock(&lock);
    return code;
}

int ring_error(void) {
    return c.error;
}

uint64_t ring_done(void) {
    return LOAD(c.host->seq_done);
}

bool ring_idle(void) {
    return LOAD(c.host->seq_done) >= c.seq;
}

const struct ucuda_transport *ring_transport(void) {
    return &c.transport;
}

const struct ucuda_info *ring_info(void) {
    return &c.info;
}

struct ucuda_stats *ring_counts(void) {
    return &c.stats;
}

int ring_pause(unsigned turn) {
    c.transport.pause(c.transport.user, turn);
    look();
    return c.error == UCUDA_ELOST ? UCUDA_ELOST : 0;
}

static void ring_doorbell(void) {
    c.unrung = 0;
    c.rung = true;
    c.stats.doorbells++;
    c.transport.ring(c.transport.user);
}

void ring_flush(void) {
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (c.unrung != 0 && LOAD(c.host->asleep)) {
        ring_doorbell();
    }
}

// Makes what was written up to `tail` visible. gpud is woken for the first record after a wait, so
// that it works beside the caller, then once in UNRUNG bytes: it may be slow to wake, and each
// doorbell is an exit of the virtual machine.
static void publish(uint32_t bytes) {
    c.tail += bytes;
    c.unrung += bytes;
    c.stats.records++;
    STORE(c.guest->sq_tail, c.tail);
    if (!c.rung || c.unrung >= UNRUNG) {
        ring_flush();
    }
}

static bool wait_for_space(uint32_t bytes) {
    for (unsigned turn = 0;; turn++) {
        uint32_t used = c.tail - LOAD(c.host->sq_head);
        if (used > c.info.sq_bytes) {
            fail(UCUDA_ELOST, "gpud's ring is out of step");
            return false;
        }
        if (bytes <= c.info.sq_bytes - used) {
            return true;
        }
        ring_flush();
        if (ring_pause(turn) != 0) {
            return false;
        }
    }
}

static struct ucuda_header *header_at_tail(uint32_t size, enum ucuda_op op) {
    struct ucuda_header *header = (struct ucuda_header *)(c.sq + (c.tail & (c.info.sq_bytes - 1)));
    *header = (struct ucuda_header){.size = size, .op = op, .seq = ++c.seq};
    return header;
}

void *ring_reserve(enum ucuda_op op, unsigned device, uint32_t stream, size_t bytes) {
    uint32_t size = (bytes + UCUDA_RECORD_ALIGN - 1) & ~(uint32_t)(UCUDA_RECORD_ALIGN - 1);
    uint32_t to_end = c.info.sq_bytes - (c.tail & (c.info.sq_bytes - 1));
    uint32_t filler = size > to_end ? to_end : 0;
    if (!wait_for_space(filler + size)) {
        return NULL;
    }
    if (filler) {
        header_at_tail(filler, UCUDA_NOP);
        publish(filler);
    }
    c.record = header_at_tail(size, op);
    c.record->device = device;
    c.record->stream = stream;
    memset(c.record + 1, 0, UCUDA_RECORD_ALIGN - sizeof(*c.record));
    return c.record;
}

uint64_t ring_commit(void) {
    publish(c.record->size);
    c.record = NULL;
    return c.seq;
}

// Takes the next completion; false: there is none.
static bool take(struct ucuda_completion *out) {
    if (LOAD(c.host->cq_tail) == c.cq_head) {
        return false;
    }
    *out = c.cq[c.cq_head & (c.info.cq_count - 1)];
    STORE(c.guest->cq_head, ++c.cq_head);
    return true;
}

int ring_ask(uint64_t ret[2]) {
    c.record->flags = UCUDA_WANT_CQE;
    uint64_t seq = ring_commit();
    ring_flush();
    c.stats.waits++;
    STORE(c.guest->waiting, 1);
    int code = 0;
    for (unsigned turn = 0; code == 0; turn++) {
        struct ucuda_completion completion;
        while (take(&completion)) {
            // Others are of a command's failure that nobody waited for: gpud's `sticky` has it.
            if (completion.seq == seq) {
                STORE(c.guest->waiting, 0);
                c.rung = false;
                if (ret) {
                    memcpy(ret, completion.ret, sizeof(completion.ret));
                }
                if (look() == 0 && completion.result != 0) {
                    keep_words("");
                }
                return completion.result;
            }
        }
        code = ring_pause(turn);
    }
    STORE(c.guest->waiting, 0);
    c.rung = false;
    return code;
}

static bool power_of_two(uint32_t value) {
    return value != 0 && (value & (value - 1)) == 0;
}

static bool lies_within(uint64_t offset, uint64_t bytes, uint64_t total) {
    return offset % UCUDA_RECORD_ALIGN == 0 && offset >= 3 * UCUDA_PAGE && offset <= total
        && bytes <= total - offset;
}

static bool info_is_good(const struct ucuda_info *info, size_t bytes) {
    return info->magic == UCUDA_MAGIC && info->abi_major == UCUDA_ABI_MAJOR
        && info->bytes_total <= bytes && power_of_two(info->sq_bytes)
        && info->sq_bytes >= 2 * UCUDA_RECORD_MAX && power_of_two(info->cq_count)
        && lies_within(info->sq_off, info->sq_bytes, info->bytes_total)
        && lies_within(info->cq_off, (uint64_t)info->cq_count * sizeof(struct ucuda_completion),
            info->bytes_total)
        && lies_within(info->heap_off, info->heap_bytes, info->bytes_total)
        && info->heap_bytes >= 4 * UCUDA_INLINE_MAX && info->n_devices >= 1;
}

// Starts an epoch: gpud ends its worker, if there is one, and starts another one.
static int start(void) {
    STORE(c.interrupted, false);
    c.error = 0;
    c.fault[0] = 0;
    c.tail = c.cq_head = c.unrung = 0;
    c.seq = 0;
    c.rung = false;
    c.record = NULL;
    STORE(c.guest->sq_tail, 0);
    STORE(c.guest->cq_head, 0);
    STORE(c.guest->waiting, 0);
    STORE(c.epoch, c.guest->epoch + 1);
    STORE(c.guest->epoch, c.epoch);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    c.transport.ring(c.transport.user);

    uint64_t began = c.transport.now_ms(c.transport.user);
    uint64_t beat = LOAD(c.host->beat), changed = began;
    for (unsigned turn = 0;; turn++) {
        // The epoch first: gpud stores it after it has taken back the last one's state.
        bool is_ours = LOAD(c.host->epoch) == c.epoch;
        uint32_t state = LOAD(c.host->state);
        if (is_ours && state != UCUDA_STARTING) {
            if (state != UCUDA_READY) {
                return fail(UCUDA_ELOST, "gpud's worker did not start");
            }
            break;
        }
        uint64_t now = c.transport.now_ms(c.transport.user);
        if (LOAD(c.host->beat) != beat) {
            beat = LOAD(c.host->beat);
            changed = now;
        }
        if (now - changed > BEAT_MS || now - began > RESET_MS) {
            return lose("gpud does not answer");
        }
        c.transport.pause(c.transport.user, turn);
    }
    memcpy(&c.info, c.transport.memory, sizeof(c.info));
    if (!info_is_good(&c.info, c.transport.bytes)) {
        return fail(UCUDA_ELOST, "gpud's description of the shared memory makes no sense");
    }
    c.info.name[sizeof(c.info.name) - 1] = 0;
    uint8_t *base = c.transport.memory;
    c.sq = base + c.info.sq_off;
    c.cq = (struct ucuda_completion *)(base + c.info.cq_off);
    c.beat = beat;
    c.beat_at = c.looked_at = c.transport.now_ms(c.transport.user);
    heap_start();
    pending_start();
    later_start();
    return 0;
}

int ucuda_open_transport(const struct ucuda_transport *transport) {
    if (transport->bytes < 3 * UCUDA_PAGE) {
        return UCUDA_EINVAL;
    }
    pthread_mutex_lock(&lock);
    int code = UCUDA_EINVAL; // one connection at a time
    if (!c.open) {
        c.transport = *transport;
        uint8_t *base = transport->memory;
        c.guest = (struct ucuda_guest *)(base + UCUDA_PAGE);
        c.host = (struct ucuda_host *)(base + 2 * UCUDA_PAGE);
        memset(&c.stats, 0, sizeof(c.stats));
        code = start();
        STORE(c.open, code == 0);
    }
    return ring_end(code);
}

void ucuda_close(void) {
    pthread_mutex_lock(&lock);
    if (c.open) {
        // gpud frees everything when the epoch changes; nobody waits for that.
        STORE(c.guest->sq_tail, 0);
        STORE(c.guest->epoch, c.epoch + 1);
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
        c.transport.ring(c.transport.user);
    }
    STORE(c.open, false);
    pthread_mutex_unlock(&lock);
}

bool ucuda_is_open(void) {
    return LOAD(c.open);
}

const struct ucuda_info *ucuda_info(void) {
    return LOAD(c.open) ? &c.info : NULL;
}

const char *ucuda_fault(void) {
    return c.fault;
}

int ucuda_status(void) {
    if (!LOAD(c.open)) {
        return UCUDA_EDEINIT;
    }
    // A thread that has the lock looks by itself.
    if (pthread_mutex_trylock(&lock) != 0) {
        return LOAD(c.error);
    }
    return ring_end(c.open ? look() : UCUDA_EDEINIT);
}

void ucuda_interrupt(void) {
    STORE(c.interrupted, true);
}

int ucuda_reset(void) {
    ucuda_interrupt();
    pthread_mutex_lock(&lock);
    return ring_end(c.open ? start() : UCUDA_EDEINIT);
}

uint32_t ucuda_epoch(void) {
    return LOAD(c.epoch);
}

void ucuda_stats(struct ucuda_stats *out) {
    // Numbers for people: one that another thread is counting up may be a moment old.
    *out = c.stats;
    out->used_bytes = LOAD(c.open) ? LOAD(c.host->used_bytes) : 0;
}
