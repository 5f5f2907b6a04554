// The thread of worker.h.
#include <pthread.h>
#include <stdatomic.h>

#include "waiting.h"
#include "worker.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t given = PTHREAD_COND_INITIALIZER;
static void (*work)(void *);
static void *work_argument;
static bool exists;
static atomic_bool busy;

static void *loop(void *unused) {
    (void)unused;
    pthread_mutex_lock(&lock);
    for (;;) {
        while (!work) {
            pthread_cond_wait(&given, &lock);
        }
        void (*call)(void *) = work;
        work = NULL;
        pthread_mutex_unlock(&lock);
        call(work_argument);
        atomic_store_explicit(&busy, false, memory_order_release);
        waiting_hooks.wake();
        pthread_mutex_lock(&lock);
    }
}

int worker_start(void (*call)(void *), void *argument) {
    if (!exists) {
        pthread_t thread;
        int error = pthread_create(&thread, NULL, loop, NULL);
        if (error) {
            return error;
        }
        pthread_detach(thread);
        exists = true;
    }
    atomic_store_explicit(&busy, true, memory_order_relaxed);
    pthread_mutex_lock(&lock);
    work = call;
    work_argument = argument;
    pthread_mutex_unlock(&lock);
    pthread_cond_signal(&given);
    return 0;
}

bool worker_is_idle(void) {
    return !atomic_load_explicit(&busy, memory_order_acquire);
}
