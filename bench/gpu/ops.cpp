// ops.cpp: gpu-ops, llama.cpp's own test-backend-ops on the GPU of a gpud: for `make gpu-check`
// (host/cllm/gpu_check.py). Upstream's program is compiled as part of this file, unmodified.
//
//   gpu-ops SOCKET OPERATION [REGEX]     shapes whose description matches
#define main upstream_main
#include "tests/test-backend-ops.cpp"
#undef main

#include "ggml-cuda.h"

#include "../../native/engine/engine.h"
#include "../../native/gpud/loop.h"
#include "../../native/ucuda/ucuda.h"

int main(int argc, char **argv) {
    if (argc < 3 || argc > 4) {
        fprintf(stderr, "usage: gpu-ops SOCKET OPERATION [REGEX]\n");
        return 2;
    }
    ucuda_transport transport;
    char why[256] = "";
    gpud_socket *socket = gpud_socket_open(argv[1], &transport, why, sizeof(why));
    if (!socket || ucuda_open_transport(&transport) != UCUDA_OK) {
        fprintf(stderr, "gpu-ops: %s\n", socket ? ucuda_fault() : why);
        return 1;
    }
    // The reference is the best of the image's builds of ggml's CPU code.
    if (engine_use_cpu("") != ENGINE_OK) {
        fprintf(stderr, "gpu-ops: %s\n", engine_error());
        return 1;
    }
    ggml_backend_register(ggml_backend_cuda_reg());
    std::vector<std::string> words = {"gpu-ops", "test", "-b", "CUDA0", "-o", argv[2]};
    if (argc == 4) {
        words.push_back("-p");
        words.push_back(argv[3]);
    }
    std::vector<char *> line;
    for (std::string &word : words) {
        line.push_back(word.data());
    }
    int status = upstream_main((int)line.size(), line.data());
    ucuda_close();
    gpud_socket_close(socket);
    return status;
}
