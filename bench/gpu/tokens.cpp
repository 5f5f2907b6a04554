// tokens.cpp: gpu-tokens, the image's engine as a program on Linux, which computes greedy tokens on
// the GPU of a gpud, or without a socket on the CPU: for `make gpu-check`
// (host/cllm/gpu_check.py).
//
//   gpu-tokens MODEL PROMPT COUNT THREADS [SOCKET]
//
// Prints one JSON object. Each token is timed by itself; graphs of CUDA begin with the third.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "../../native/engine/engine.h"
#include "../../native/gpud/loop.h"
#include "../../native/ucuda/ucuda.h"

extern int (*gpu_connect)(); // native/engine/gpu.cpp

namespace {

using steady = std::chrono::steady_clock;
constexpr unsigned warm = 3; // tokens that are not timed

const char *socket_path;
ucuda_transport transport;
gpud_socket *gpud;

int connect_socket() {
    char why[256] = "";
    if (gpud) {
        gpud_socket_close(gpud);
    }
    gpud = gpud_socket_open(socket_path, &transport, why, sizeof(why));
    if (!gpud) {
        fprintf(stderr, "gpu-tokens: %s\n", why);
        return UCUDA_ENODEVICE;
    }
    return ucuda_open_transport(&transport);
}

int no_gpu() {
    return UCUDA_ENODEVICE;
}

void check(int code, const char *what) {
    if (code != ENGINE_OK) {
        throw std::runtime_error(std::string(what) + ": " + engine_error());
    }
}

// One sequence and its greedy sampler.
struct generation {
    generation(const char *model, unsigned threads) {
        engine_params params = {};
        params.n_ctx = 512;
        params.n_batch = 64;
        params.n_seq = 1;
        params.n_threads = threads;
        params.kernels = ENGINE_KERNELS_GGML;
        params.gpu_layers = socket_path ? -1 : 0;
        check(engine_open(model, &params, &e), "open the model");
        const char greedy[] = "{\"temperature\": 0}";
        check(engine_sampler_open(e, greedy, strlen(greedy), nullptr, &sampler), "sampler");
    }

    ~generation() {
        engine_sampler_close(sampler);
        engine_close(e);
    }

    int32_t decode(const std::vector<int32_t> &tokens) {
        std::vector<int32_t> places, sequences(tokens.size(), 0);
        std::vector<int8_t> outputs(tokens.size(), 0);
        for (size_t i = 0; i < tokens.size(); i++) {
            places.push_back(position++);
        }
        outputs.back() = 1;
        check(engine_decode(e, tokens.size(), tokens.data(), places.data(), sequences.data(),
                  outputs.data()),
            "decode");
        int32_t token = 0;
        check(engine_sampler_sample(sampler, tokens.size() - 1, &token), "sample");
        return token;
    }

    engine *e = nullptr;
    engine_sampler *sampler = nullptr;
    int32_t position = 0;
};

struct ucuda_stats stats() {
    struct ucuda_stats now = {};
    if (socket_path) {
        ucuda_stats(&now);
    }
    return now;
}

double middle(std::vector<double> times) {
    if (times.empty()) {
        return 0;
    }
    std::sort(times.begin(), times.end());
    return times[times.size() / 2];
}

void run(const char *model, const char *prompt, unsigned count, unsigned threads) {
    gpu_connect = socket_path ? connect_socket : no_gpu;
    generation g(model, threads);
    if (socket_path && engine_info(g.e)->gpu_layers == 0) {
        throw std::runtime_error("no layer of the model is on the GPU");
    }
    const int32_t *ids = nullptr;
    size_t n = 0;
    check(engine_tokenize(g.e, prompt, strlen(prompt), true, false, &ids, &n), "tokenize");
    auto start = steady::now();
    std::vector<int32_t> made = {g.decode({ids, ids + n})};
    double first = std::chrono::duration<double>(steady::now() - start).count();
    std::vector<double> times;
    struct ucuda_stats before = stats();
    while (made.size() < count) {
        start = steady::now();
        made.push_back(g.decode({made.back()}));
        if (made.size() == 1 + warm) {
            before = stats();
        } else if (made.size() > 1 + warm) {
            times.push_back(std::chrono::duration<double>(steady::now() - start).count());
        }
    }
    struct ucuda_stats after = stats();
    double timed = times.empty() ? 1 : (double)times.size();
    printf("{\"tokens\": [");
    for (size_t i = 0; i < made.size(); i++) {
        printf("%s%d", i ? ", " : "", made[i]);
    }
    printf("], \"gpu_layers\": %u, \"prompt_s\": %.3f, \"token_s\": %.6f, "
           "\"launches\": %.1f, \"graph_launches\": %.2f, \"round_trips\": %.2f, "
           "\"copied_bytes\": %.0f}\n",
        engine_info(g.e)->gpu_layers, first, middle(times),
        (double)(after.launches - before.launches) / timed,
        (double)(after.graph_launches - before.graph_launches) / timed,
        (double)(after.waits - before.waits) / timed,
        (double)(after.copied_bytes - before.copied_bytes) / timed);
}

} // namespace

int main(int argc, char **argv) {
    unsigned count = argc > 3 ? (unsigned)atoi(argv[3]) : 0;
    unsigned threads = argc > 4 ? (unsigned)atoi(argv[4]) : 0;
    if (argc < 5 || argc > 6 || count == 0 || threads == 0) {
        fprintf(stderr, "usage: gpu-tokens MODEL PROMPT COUNT THREADS [SOCKET]\n");
        return 2;
    }
    socket_path = argc == 6 ? argv[5] : nullptr;
    try {
        run(argv[1], argv[2], count, threads);
        return 0;
    } catch (const std::exception &error) {
        fprintf(stderr, "gpu-tokens: %s\n", error.what());
        return 1;
    }
}
