// declare.h: declarations of variables, parameters and functions (ISA 5.4, 11.1).
#ifndef CLLM_PTX_DECLARE_H
#define CLLM_PTX_DECLARE_H

#include <functional>

#include "decoder.h"

namespace ptx {

struct declared {
    std::string_view name;
    type kind = type::none;
    uint64_t bytes = 0;
    uint32_t align = 1;
    bool open = false; // name[]: as long as what initialises it
    bool has_initial = false;
    std::string_view initial;
    uint32_t line = 0;
};

constexpr uint64_t max_variable = uint64_t(1) << 32; // bytes

// Behind the space's directive, to the `;`, `,` or `)` that follows, which stays.
declared read_variable(scanner &in);
// Behind .entry or .func, to the end of its body or its `;`.
function read_function(scanner &in, bool entry);
// The bytes of a variable with an initial value. `address_of` gives a symbol's address, or throws.
std::vector<uint8_t> initial_bytes(const declared &v,
    const std::function<uint64_t(std::string_view, uint32_t line)> &address_of);

} // namespace ptx

#endif
