// engine_cuda.cpp: a card, through libcuda.
#include <stdexcept>

#include "engine.h"

namespace gpud {

std::unique_ptr<engine> make_cuda_engine() {
    throw std::runtime_error("this gpud has no engine cuda yet");
}

} // namespace gpud
