// no_gpu.cpp: stands in for gpu.cpp in builds that compute on the CPU alone; see gpu.h.
#include "gpu.h"

unsigned gpu_open() {
    return 0;
}

unsigned gpu_count() {
    return 0;
}

void gpu_check(unsigned) {}

bool gpu_is_failure(const char *) {
    return false;
}

void gpu_throw() {
    throw gpu_lost("this build has no GPU");
}

void gpu_note(const char *) {}

void gpu_explain(unsigned, const std::string &) {}

void gpu_ignore() {}

void gpu_use::release() {}

gpu_use::~gpu_use() = default;

gpu_scope::~gpu_scope() = default;

bool engine_gpu(struct engine_gpu *) {
    return false;
}
