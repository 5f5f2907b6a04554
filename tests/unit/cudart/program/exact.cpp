// exact.cpp: matrix products for activations that Q8 holds exactly.
//
// ggml-cuda rounds activations to 8 bits, which hides faults of a percent. Whole numbers with one
// 127 in each block of 32 are not rounded: then only the order of sums differs from the reference,
// which is computed here in double from the weights as ggml unpacks them.
#include "program.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include <memory>
#include <random>
#include <string>
#include <vector>

#include "ggml-alloc.h"
#include "ggml-backend.h"
#include "ggml-cuda.h"
#include "ggml.h"

static const ggml_type TYPES[] = {GGML_TYPE_F32, GGML_TYPE_F16, GGML_TYPE_BF16, GGML_TYPE_Q4_0,
    GGML_TYPE_Q4_1, GGML_TYPE_Q5_0, GGML_TYPE_Q5_1, GGML_TYPE_Q8_0, GGML_TYPE_Q2_K, GGML_TYPE_Q3_K,
    GGML_TYPE_Q4_K, GGML_TYPE_Q5_K, GGML_TYPE_Q6_K, GGML_TYPE_IQ1_S, GGML_TYPE_IQ1_M,
    GGML_TYPE_IQ2_XXS, GGML_TYPE_IQ2_XS, GGML_TYPE_IQ2_S, GGML_TYPE_IQ3_XXS, GGML_TYPE_IQ3_S,
    GGML_TYPE_IQ4_NL, GGML_TYPE_IQ4_XS};

enum { DEPTH = 512, ROWS = 64 };

static std::vector<float> activations(int columns, std::mt19937 &random) {
    std::vector<float> out((size_t)DEPTH * columns);
    std::uniform_int_distribution<int> number(-15, 15);
    for (size_t i = 0; i < out.size(); i++) {
        // Sums of a block stay below 2048, the largest whole numbers that a half holds all of.
        out[i] = i % 32 == 7 ? 127.0f : (float)number(random);
    }
    return out;
}

// Fills blocks of a type for which any bits are weights, but for the scale: ggml takes half a
// minute to prepare for making them. False: another type.
static bool by_chance(ggml_type type, std::mt19937 &random, std::vector<char> &out) {
    const uint16_t scale = 0x2c00; // 1/16
    switch (type) {
        case GGML_TYPE_IQ1_S:
        case GGML_TYPE_IQ1_M:
        case GGML_TYPE_IQ2_XXS:
        case GGML_TYPE_IQ2_XS:
        case GGML_TYPE_IQ2_S:
        case GGML_TYPE_IQ3_XXS:
        case GGML_TYPE_IQ3_S:
            break;
        default:
            return false;
    }
    for (char &byte : out) {
        byte = (char)random();
    }
    for (size_t at = 0; at < out.size(); at += ggml_type_size(type)) {
        if (type != GGML_TYPE_IQ1_M) {
            memcpy(&out[at], &scale, sizeof(scale));
            continue;
        }
        // Four numbers at byte 48 have four bits of the scale each, lowest first, as their highest.
        for (int i = 0; i < 4; i++) {
            char &high = out[at + 49 + 2 * i];
            high = (char)((high & 15) | (scale >> 4 * i & 15) << 4);
        }
    }
    return true;
}

// Weights as bytes of `type`, and what they stand for.
static std::vector<char> weights(ggml_type type, std::mt19937 &random, std::vector<float> &plain) {
    std::normal_distribution<float> number(0.0f, 1.0f);
    plain.resize((size_t)DEPTH * ROWS);
    for (float &x : plain) {
        x = number(random);
    }
    std::vector<char> out(ggml_row_size(type, DEPTH) * ROWS);
    if (type == GGML_TYPE_F32) {
        memcpy(out.data(), plain.data(), out.size());
        return out;
    }
    if (!by_chance(type, random, out)) {
        ggml_quantize_chunk(type, plain.data(), out.data(), 0, ROWS, DEPTH, nullptr);
    }
    ggml_get_type_traits(type)->to_float(out.data(), plain.data(), (int64_t)DEPTH * ROWS);
    return out;
}

// The error's 2-norm, relative to the result's; -1: the backend does not support the product.
static double error_of(ggml_backend_t backend, ggml_type type, int columns) {
    std::mt19937 random(1234 + type);
    std::vector<float> plain, x = activations(columns, random);
    std::vector<char> packed = weights(type, random, plain);

    ggml_init_params params = {ggml_tensor_overhead() * 8 + ggml_graph_overhead(), nullptr, true};
    std::unique_ptr<ggml_context, void (*)(ggml_context *)> made(ggml_init(params), ggml_free);
    ggml_context *ctx = made.get();
    ggml_tensor *w = ggml_new_tensor_2d(ctx, type, DEPTH, ROWS);
    ggml_tensor *b = ggml_new_tensor_2d(ctx, GGML_TYPE_F32, DEPTH, columns);
    ggml_tensor *y = ggml_mul_mat(ctx, w, b);
    if (!ggml_backend_supports_op(backend, y)) {
        return -1;
    }
    ggml_cgraph *graph = ggml_new_graph(ctx);
    ggml_build_forward_expand(graph, y);
    ggml_backend_buffer_t buffer = ggml_backend_alloc_ctx_tensors(ctx, backend);
    ggml_backend_tensor_set(w, packed.data(), 0, packed.size());
    ggml_backend_tensor_set(b, x.data(), 0, x.size() * sizeof(float));
    ggml_backend_graph_compute(backend, graph);
    std::vector<float> got((size_t)ROWS * columns);
    ggml_backend_tensor_get(y, got.data(), 0, got.size() * sizeof(float));
    ggml_backend_buffer_free(buffer);

    double wrong = 0, all = 0;
    for (int column = 0; column < columns; column++) {
        for (int row = 0; row < ROWS; row++) {
            double sum = 0;
            for (int k = 0; k < DEPTH; k++) {
                sum += (double)plain[(size_t)row * DEPTH + k] * x[(size_t)column * DEPTH + k];
            }
            double difference = got[(size_t)column * ROWS + row] - sum;
            wrong += difference * difference;
            all += sum * sum;
        }
    }
    return sqrt(wrong / all);
}

static bool names(const std::string &list, const std::string &name) {
    return list.empty() || ("," + list + ",").find("," + name + ",") != std::string::npos;
}

int exact_main(int columns, const char *types) {
    ggml_backend_t backend = ggml_backend_cuda_init(0);
    for (ggml_type type : TYPES) {
        if (!names(types, ggml_type_name(type))) {
            continue;
        }
        printf("%s %.3g\n", ggml_type_name(type), error_of(backend, type, columns));
        fflush(stdout);
    }
    return 0;
}
