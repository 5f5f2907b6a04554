// waiting.cpp: see waiting.h.
#include "waiting.h"

#include <ctime>
#include <poll.h>
#include <sched.h>
#include <unistd.h>

#include "shared.h"

namespace gpud {

void wait_for_doorbell(int eventfd) {
    pollfd fd = {eventfd, POLLIN, 0};
    if (poll(&fd, 1, 1000) > 0) {
        uint64_t count;
        (void)!read(eventfd, &count, sizeof(count));
    }
}

void pause_a_little(void *, unsigned turn) {
    constexpr unsigned spins = 100; // then it sleeps, so that other threads run
    if (turn < spins) {
        sched_yield();
        return;
    }
    timespec time = {0, turn < 2 * spins ? 50000 : 200000};
    nanosleep(&time, nullptr);
}

uint64_t transport_now_ms(void *) {
    return now_ms();
}

} // namespace gpud
