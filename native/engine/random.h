// random.h: random bytes from the machine.
#ifndef CLLM_ENGINE_RANDOM_H
#define CLLM_ENGINE_RANDOM_H

#include <cstddef>

// Throws std::runtime_error if the machine has none.
void random_bytes(void *out, size_t n);

#endif // CLLM_ENGINE_RANDOM_H
