// random.cpp: random bytes from the machine; see random.h.
#include "random.h"

#include <stdexcept>

#include <unistd.h>

void random_bytes(void *out, size_t n) {
    // llama.cpp would ask std::random_device, which wants a file system with /dev/urandom.
    if (getentropy(out, n) != 0) {
        throw std::runtime_error("no random numbers: the machine has no entropy");
    }
}
