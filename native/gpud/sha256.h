// sha256.h: SHA-256 (FIPS 180-4), to know that a pack's text is the one that it says.
#ifndef CLLM_GPUD_SHA256_H
#define CLLM_GPUD_SHA256_H

#include <array>
#include <cstdint>
#include <string_view>

namespace gpud {

std::array<uint8_t, 32> sha256(std::string_view data);

} // namespace gpud

#endif
