// waiting.h: waits of the workers and of the programs that are guests themselves.
#ifndef CLLM_GPUD_WAITING_H
#define CLLM_GPUD_WAITING_H

#include <cstdint>

namespace gpud {

// Blocks until the eventfd was written to, or for a second, and takes what was written.
void wait_for_doorbell(int eventfd);

// Functions of a struct ucuda_transport.
void pause_a_little(void *user, unsigned turn);
uint64_t transport_now_ms(void *user);

} // namespace gpud

#endif
