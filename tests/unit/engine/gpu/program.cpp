// program.cpp: the engine with a GPU, for test_gpu.py. Lines on standard input are commands; each
// is answered by a line "ok ..." or "error CODE REASON".
//
//   socket FILE          of gpud
//   quota BYTES          of a fake device's memory, from the next connection on; 0: there is none
//   shown MAJOR MINOR    its compute capability, from the next connection on
//   fill BYTES           uses up memory until no more than that is free
//   open MODEL LAYERS THREADS [SPLIT MAIN SHARE...]    how several devices share it: engine.h
//   generate N TOKEN...  N greedy tokens after a prompt, computed in an empty sequence
//   tokenize TEXT
//   lose                 the fake device is gone
//   fault                a command with a wrong address
//   gpu                  engine_gpu()
//   buffers              what llama.cpp's log has said of buffers since the last "buffers"
//   close
//   keep                 the model, for close_kept; another may be opened
//   close_kept
#include "device.h"
#include "gpu.h"

#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <sstream>
#include <vector>

extern int (*gpu_connect)();

namespace {

device_options options;
struct engine *model, *kept;
std::string buffers;

void note(void *, int, const char *text) {
    if (getenv("GPU_PROGRAM_LOG")) {
        fputs(text, stderr);
    }
    if (strstr(text, " buffer size = ")) {
        buffers.append(text, strcspn(text, "\n")).append(";");
    }
}

void answer(int code) {
    if (code != ENGINE_OK) {
        printf("error %d %s\n", code, engine_error());
    } else {
        printf("ok\n");
    }
}

// Code of engine.h.
int decode(const std::vector<int32_t> &tokens, int32_t first) {
    std::vector<int32_t> positions, seqs(tokens.size(), 0);
    std::vector<int8_t> outputs(tokens.size(), 0);
    for (size_t i = 0; i < tokens.size(); ++i) {
        positions.push_back(first + static_cast<int32_t>(i));
    }
    outputs.back() = 1;
    return engine_decode(model, tokens.size(), tokens.data(), positions.data(), seqs.data(),
        outputs.data());
}

void generate(std::istream &words) {
    size_t n;
    int32_t token;
    words >> n;
    std::vector<int32_t> tokens, made;
    while (words >> token) {
        tokens.push_back(token);
    }
    const int cleared = engine_seq_rm(model, 0, -1, -1);
    int code = cleared < 0 ? cleared : ENGINE_OK;
    const char *greedy = "{\"temperature\": 0}";
    struct engine_sampler *sampler = nullptr;
    if (code == ENGINE_OK) {
        code = engine_sampler_open(model, greedy, strlen(greedy), nullptr, &sampler);
    }
    int32_t at = 0;
    while (code == ENGINE_OK && made.size() < n) {
        code = decode(tokens, at);
        if (code == ENGINE_OK) {
            code = engine_sampler_sample(sampler, tokens.size() - 1, &token);
        }
        at += static_cast<int32_t>(tokens.size());
        made.push_back(token);
        tokens.assign(1, token);
    }
    if (code != ENGINE_OK) {
        answer(code);
    } else {
        printf("ok");
        for (int32_t t : made) {
            printf(" %d", t);
        }
        printf("\n");
    }
    engine_sampler_close(sampler);
}

void open(std::istream &words) {
    std::string path;
    engine_params params{};
    words >> path >> params.gpu_layers >> params.n_threads >> params.split_mode >> params.main_gpu;
    for (float &share : params.tensor_split) {
        words >> share; // 0 at the line's end
    }
    params.n_ctx = 256;
    params.n_batch = 64;
    params.n_seq = 4;
    const int code = engine_open(path.c_str(), &params, &model);
    if (code == ENGINE_OK) {
        printf("ok %u\n", engine_info(model)->gpu_layers);
    } else {
        answer(code);
    }
}

void tokenize(std::istream &words) {
    std::string text;
    std::getline(words >> std::ws, text);
    const int32_t *tokens;
    size_t n;
    const int code = engine_tokenize(model, text.data(), text.size(), true, true, &tokens, &n);
    if (code != ENGINE_OK) {
        return answer(code);
    }
    printf("ok");
    for (size_t i = 0; i < n; ++i) {
        printf(" %d", tokens[i]);
    }
    printf("\n");
}

void show_gpu() {
    struct engine_gpu gpu;
    if (!engine_gpu(&gpu)) {
        printf("ok null\n");
        return;
    }
    printf("ok {\"name\": \"%s\", \"kind\": \"%s\", \"fault\": \"%s\", \"devices\": %u"
           ", \"memory\": %" PRIu64 ", \"used\": %" PRIu64 ", \"launches\": %" PRIu64
           ", \"graph_launches\": %" PRIu64 ", \"round_trips\": %" PRIu64 ", \"losses\": %" PRIu64
           "}\n",
        gpu.name, gpu.kind, gpu.fault, gpu.devices, gpu.memory, gpu.used, gpu.launches,
        gpu.graph_launches, gpu.round_trips, gpu.losses);
}

void run(const std::string &line) {
    std::istringstream words(line);
    std::string command;
    words >> command;
    if (command == "open") {
        open(words);
    } else if (command == "generate") {
        generate(words);
    } else if (command == "tokenize") {
        tokenize(words);
    } else if (command == "gpu") {
        show_gpu();
    } else if (command == "buffers") {
        printf("ok %s\n", buffers.c_str());
        buffers.clear();
    } else if (command == "keep") {
        kept = model;
        model = nullptr;
        answer(ENGINE_OK);
    } else if (command == "close_kept") {
        answer(engine_close(kept));
    } else if (command == "close") {
        answer(engine_close(model));
        model = nullptr;
    } else {
        if (command == "socket") {
            words >> options.socket;
        } else if (command == "fill") {
            uint64_t left;
            words >> left;
            fill_device(left);
        } else if (command == "quota") {
            words >> options.quota;
        } else if (command == "shown") {
            words >> options.major >> options.minor;
        } else if (command == "lose") {
            lose_device();
        } else if (command == "fault") {
            break_device();
        } else {
            fprintf(stderr, "no such command: %s\n", line.c_str());
            exit(2);
        }
        answer(ENGINE_OK);
    }
}

} // namespace

int main() {
    gpu_connect = [] { return connect_device(options); };
    engine_set_log(note, nullptr);
    for (std::string line; std::getline(std::cin, line);) {
        run(line);
        fflush(stdout);
    }
    return 0;
}
