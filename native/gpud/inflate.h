// inflate.h: decompression of a zlib stream (RFC 1950, RFC 1951). The toolchain brings no library
// that does it, and a pack is the only thing that is compressed.
#ifndef CLLM_GPUD_INFLATE_H
#define CLLM_GPUD_INFLATE_H

#include <cstddef>
#include <string>
#include <string_view>

namespace gpud {

// The `bytes` bytes of text in `packed`. Throws std::runtime_error when that is not what it holds.
std::string inflate(std::string_view packed, size_t bytes);

} // namespace gpud

#endif
