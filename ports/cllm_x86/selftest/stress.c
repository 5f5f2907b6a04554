// The stress test behind _x86.stress(). Every thread takes random turns at what schedulers get
// wrong: vector registers across preemption and signals, mutexes, condition variables, timed waits,
// thread-local storage, mappings that other cores have cached, and threads that come and go.
#define _GNU_SOURCE // gettid()

#include <cpuid.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "stress.h"

#define STACK (64 * 1024)
#define SIGNAL_STACK (16 * 1024)
#define MAP_BYTES (48 * 1024)
#define TICK_NS 1000000 // of a thread's processor time

// Two threads that hand a token to and fro.
struct pair {
    pthread_mutex_t mutex;
    pthread_cond_t turned;
    unsigned turn; // the thread that has the token, 0 or 1
    bool ended;    // one thread has left
};

struct worker {
    pthread_t thread;
    unsigned id;
    uint64_t random;
    uint8_t signal_stack[SIGNAL_STACK];
};

static struct worker *workers;
static struct pair *pairs;
static unsigned n_workers;
static uint64_t end_ns;
static bool have_avx, have_avx512;
static unsigned running;
static struct stress_result total;
static pthread_mutex_t counter_mutex = PTHREAD_MUTEX_INITIALIZER;
static uint64_t counter; // guarded by counter_mutex; total.locks counts the same with atomics
static _Thread_local uint64_t own_id;
static _Thread_local bool ticking;
static struct sigaction outer_xcpu;

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

// xorshift64: any sequence that differs from thread to thread.
static uint64_t next_random(struct worker *w) {
    w->random ^= w->random << 13;
    w->random ^= w->random >> 7;
    w->random ^= w->random << 17;
    return w->random;
}

static void count(uint64_t *what) {
    __atomic_add_fetch(what, 1, __ATOMIC_RELAXED);
}

static void report(const char *error) {
    count(&total.errors);
    const char *none = NULL;
    __atomic_compare_exchange_n(&total.error, &none, error, false, __ATOMIC_RELAXED,
        __ATOMIC_RELAXED);
}

// Fills all vector registers from `in`, spins, and stores them to `out`. Wherever the thread is
// interrupted in between, another one runs with other values in them. With AVX-512 these are all
// 32 and the opmask registers, whose saved state has three parts (SDM vol. 1, 13.5.6).
#define EACH_8(op) op(0) op(1) op(2) op(3) op(4) op(5) op(6) op(7)
#define EACH(op) EACH_8(op) op(8) op(9) op(10) op(11) op(12) op(13) op(14) op(15)
#define EACH_32(op) \
    EACH(op) \
    op(16) op(17) op(18) op(19) op(20) op(21) op(22) op(23) op(24) op(25) op(26) op(27) op(28) \
        op(29) op(30) op(31)
#define LOAD_ZMM(i) "vmovdqu64 64*" #i "(%[in]), %%zmm" #i "\n"
#define STORE_ZMM(i) "vmovdqu64 %%zmm" #i ", 64*" #i "(%[out])\n"
#define LOAD_MASK(i) "kmovq 64*32+8*" #i "(%[in]), %%k" #i "\n"
#define STORE_MASK(i) "kmovq %%k" #i ", 64*32+8*" #i "(%[out])\n"
#define LOAD_YMM(i) "vmovdqu 32*" #i "(%[in]), %%ymm" #i "\n"
#define STORE_YMM(i) "vmovdqu %%ymm" #i ", 32*" #i "(%[out])\n"
#define LOAD_XMM(i) "movdqu 16*" #i "(%[in]), %%xmm" #i "\n"
#define STORE_XMM(i) "movdqu %%xmm" #i ", 16*" #i "(%[out])\n"
#define SPIN "1: pause; decq %[n]; jnz 1b\n"
// The compiler does not use the others here.
#define CLOBBERS \
    "memory", "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", \
        "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15"

static void keep_vectors(struct worker *w) {
    uint8_t in[32 * 64 + 8 * 8], out[sizeof(in)];
    size_t size = have_avx512 ? sizeof(in) : have_avx ? 16 * 32 : 16 * 16;
    for (size_t i = 0; i < size; i += 8) {
        uint64_t v = next_random(w);
        memcpy(in + i, &v, 8);
    }
    uint64_t n = 1 + next_random(w) % 20000;
    if (have_avx512) {
        __asm__ volatile(EACH_32(LOAD_ZMM) EACH_8(LOAD_MASK) SPIN EACH_32(STORE_ZMM)
                EACH_8(STORE_MASK) "vzeroupper"
            : [n] "+r"(n)
            : [in] "r"(in), [out] "r"(out)
            : CLOBBERS);
    } else if (have_avx) {
        __asm__ volatile(EACH(LOAD_YMM) SPIN EACH(STORE_YMM) "vzeroupper"
            : [n] "+r"(n)
            : [in] "r"(in), [out] "r"(out)
            : CLOBBERS);
    } else {
        __asm__ volatile(EACH(LOAD_XMM) SPIN EACH(STORE_XMM)
            : [n] "+r"(n)
            : [in] "r"(in), [out] "r"(out)
            : CLOBBERS);
    }
    if (memcmp(in, out, size)) {
        report("a vector register changed");
    }
    count(&total.vectors);
}

// Leaves other values in the vector registers than the interrupted code has there.
static void on_tick(int number, siginfo_t *info, void *context) {
    static const uint8_t other[32 * 64 + 8 * 8];
    if (!ticking) { // a thread of the engine
        outer_xcpu.sa_sigaction(number, info, context);
        return;
    }
    if (have_avx512) {
        __asm__ volatile(EACH_32(LOAD_ZMM) EACH_8(LOAD_MASK)::[in] "r"(other) : CLOBBERS);
    } else if (have_avx) {
        __asm__ volatile(EACH(LOAD_YMM)::[in] "r"(other) : CLOBBERS);
    } else {
        __asm__ volatile(EACH(LOAD_XMM)::[in] "r"(other) : CLOBBERS);
    }
    count(&total.ticks);
}

static void start_ticks(struct worker *w, timer_t *timer) {
    stack_t stack = {.ss_sp = w->signal_stack, .ss_size = SIGNAL_STACK};
    struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGXCPU};
    event.sigev_notify_thread_id = gettid();
    struct itimerspec period = {{0, TICK_NS}, {0, TICK_NS}};
    ticking = true;
    if (sigaltstack(&stack, NULL) || timer_create(CLOCK_THREAD_CPUTIME_ID, &event, timer)
        || timer_settime(*timer, 0, &period, NULL)) {
        report("a timer could not be started");
    }
}

static void lock_and_count(struct worker *w) {
    for (unsigned i = 0; i < 50; i++) {
        pthread_mutex_lock(&counter_mutex);
        counter++;
        pthread_mutex_unlock(&counter_mutex);
        count(&total.locks);
    }
}

static void hand_over(struct worker *w) {
    struct pair *p = &pairs[w->id / 2];
    unsigned me = w->id % 2;
    if ((w->id ^ 1) >= n_workers) {
        return; // the last of an odd number of threads has no partner
    }
    pthread_mutex_lock(&p->mutex);
    for (unsigned i = 0; i < 10; i++) {
        while (p->turn != me && !p->ended) {
            pthread_cond_wait(&p->turned, &p->mutex);
        }
        p->turn = !me;
        pthread_cond_signal(&p->turned);
        count(&total.signals);
    }
    pthread_mutex_unlock(&p->mutex);
}

static void leave_pair(struct worker *w) {
    struct pair *p = &pairs[w->id / 2];
    pthread_mutex_lock(&p->mutex);
    p->ended = true;
    pthread_cond_broadcast(&p->turned);
    pthread_mutex_unlock(&p->mutex);
}

static void wait_a_while(struct worker *w) {
    uint64_t ns = next_random(w) % 3000000, before = now_ns();
    if (next_random(w) & 1) {
        struct timespec t = {0, (long)ns};
        nanosleep(&t, NULL);
    } else {
        pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
        pthread_cond_t never = PTHREAD_COND_INITIALIZER;
        struct timespec t;
        clock_gettime(CLOCK_REALTIME, &t);
        t.tv_nsec += (long)ns;
        t.tv_sec += t.tv_nsec / 1000000000;
        t.tv_nsec %= 1000000000;
        pthread_mutex_lock(&mutex);
        int err;
        do {
            err = pthread_cond_timedwait(&never, &mutex, &t);
        } while (!err);
        pthread_mutex_unlock(&mutex);
        if (err != ETIMEDOUT) {
            report("a timed wait ended with another error than ETIMEDOUT");
        }
    }
    if (now_ns() - before < ns) {
        report("a timed wait ended too early");
    }
    count(&total.sleeps);
}

static void map_and_fill(struct worker *w) {
    size_t size = 4096 * (1 + next_random(w) % (MAP_BYTES / 4096));
    uint8_t *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) {
        report("no memory for a mapping");
        return;
    }
    for (size_t i = 0; i < size; i += 512) {
        if (p[i]) {
            report("fresh memory was not zero");
        }
        p[i] = (uint8_t)w->id + 1;
    }
    sched_yield();
    for (size_t i = 0; i < size; i += 512) {
        if (p[i] != (uint8_t)w->id + 1) {
            report("memory of a mapping changed");
        }
    }
    munmap(p, size);
    count(&total.maps);
}

static void *child(void *arg) {
    own_id = (uint64_t)arg;
    sched_yield();
    return (void *)(own_id + 1);
}

static int start_thread(pthread_t *thread, void *(*fn)(void *), void *arg) {
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, STACK);
    int err = pthread_create(thread, &attr, fn, arg);
    pthread_attr_destroy(&attr);
    return err;
}

static void start_child(struct worker *w) {
    pthread_t t;
    void *result;
    uint64_t id = next_random(w);
    if (start_thread(&t, child, (void *)id)) {
        report("a thread could not be started");
        return;
    }
    pthread_join(t, &result);
    if ((uint64_t)result != id + 1) {
        report("a thread gave a wrong result");
    }
    count(&total.children);
}

static void *work(void *arg) {
    static void (*const turns[])(struct worker *) = {
        keep_vectors,
        keep_vectors,
        keep_vectors,
        lock_and_count,
        hand_over,
        wait_a_while,
        map_and_fill,
        start_child,
    };
    struct worker *w = arg;
    own_id = w->id;
    timer_t timer;
    start_ticks(w, &timer);
    while (now_ns() < __atomic_load_n(&end_ns, __ATOMIC_RELAXED)) {
        turns[next_random(w) % (sizeof(turns) / sizeof(turns[0]))](w);
        if (own_id != w->id) {
            report("thread-local storage changed");
        }
    }
    timer_delete(timer);
    leave_pair(w);
    __atomic_sub_fetch(&running, 1, __ATOMIC_RELEASE);
    return NULL;
}

// Which vector registers processor and kernel offer (SDM vol. 1, 14.3 and 15.2); kmovq is of
// AVX512BW. __builtin_cpu_supports() finds none at all: nothing fills in what it reads.
static void look_for_vectors(void) {
    unsigned a, b, c, d, enabled = 0, high;
    __cpuid(1, a, b, c, d);
    if (c & bit_OSXSAVE) {
        __asm__ volatile("xgetbv" : "=a"(enabled), "=d"(high) : "c"(0));
    }
    have_avx = (c & bit_AVX) && (enabled & 0x06) == 0x06;
    const unsigned wide = bit_AVX512F | bit_AVX512BW;
    have_avx512 =
        (enabled & 0xE6) == 0xE6 && __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & wide) == wide;
}

int stress_start(unsigned n, unsigned ms) {
    workers = calloc(n, sizeof(*workers));
    pairs = calloc(n / 2 + 1, sizeof(*pairs));
    if (!workers || !pairs) {
        free(workers);
        free(pairs);
        return ENOMEM;
    }
    memset(&total, 0, sizeof(total));
    counter = 0;
    look_for_vectors();
    total.vector_bits = have_avx512 ? 512 : have_avx ? 256 : 128;
    end_ns = now_ns() + (uint64_t)ms * 1000000;
    struct sigaction action = {.sa_sigaction = on_tick, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    sigaction(SIGXCPU, &action, &outer_xcpu);
    n_workers = n; // all pairs are complete before the first thread looks at its partner
    for (unsigned i = 0; i < n / 2 + 1; i++) {
        pthread_mutex_init(&pairs[i].mutex, NULL);
        pthread_cond_init(&pairs[i].turned, NULL);
    }
    for (unsigned i = 0; i < n; i++) {
        workers[i].id = i;
        workers[i].random = 0x9E3779B97F4A7C15u * (i + 1);
        __atomic_add_fetch(&running, 1, __ATOMIC_RELAXED);
        int err = start_thread(&workers[i].thread, work, &workers[i]);
        if (err) {
            __atomic_sub_fetch(&running, 1, __ATOMIC_RELAXED);
            __atomic_store_n(&end_ns, 0, __ATOMIC_RELAXED);
            if (i % 2) {
                leave_pair(&workers[i]); // in place of the one that never came
            }
            n_workers = i;
            struct stress_result none;
            stress_finish(&none);
            return err;
        }
    }
    return 0;
}

unsigned stress_running(void) {
    return __atomic_load_n(&running, __ATOMIC_ACQUIRE);
}

void stress_finish(struct stress_result *result) {
    for (unsigned i = 0; i < n_workers; i++) {
        pthread_join(workers[i].thread, NULL);
    }
    sigaction(SIGXCPU, &outer_xcpu, NULL);
    if (counter != total.locks) {
        report("the count under a mutex is wrong");
    }
    free(workers);
    free(pairs);
    *result = total;
}
