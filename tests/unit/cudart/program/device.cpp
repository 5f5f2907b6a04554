// device.cpp: the connection to gpud, and the backend over it.
#include "program.h"

#include <stdio.h>

#include "ggml-backend.h"
#include "ggml-cuda.h"

#include "gpud/loop.h"
#include "ucuda/ucuda.h"

bool open_device(const char *socket) {
    static ucuda_transport transport;
    char why[200] = "";
    if (!gpud_socket_open(socket, &transport, why, sizeof(why))) {
        fprintf(stderr, "program: no device: %s\n", why);
        return false;
    }
    int code = ucuda_open_transport(&transport);
    if (code != UCUDA_OK) {
        fprintf(stderr, "program: cannot connect: %d\n", code);
        return false;
    }
    ggml_backend_register(ggml_backend_cuda_reg());
    return true;
}

void print_stats() {
    struct ucuda_stats stats;
    ucuda_stats(&stats);
    fprintf(stderr,
        "launches=%llu graph_launches=%llu copies=%llu copied_bytes=%llu fences=%llu waits=%llu\n",
        (unsigned long long)stats.launches, (unsigned long long)stats.graph_launches,
        (unsigned long long)stats.copies, (unsigned long long)stats.copied_bytes,
        (unsigned long long)stats.fences, (unsigned long long)stats.waits);
}
