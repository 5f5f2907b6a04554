// access.h: the addresses of loads, stores and atomics, checked.
#ifndef CLLM_PTX_ACCESS_H
#define CLLM_PTX_ACCESS_H

#include "decoder.h"

namespace ptx {

// Where lanes find their data in this process: base + address[lane] + step * lane.
struct span {
    enum shape_t : uint8_t { scattered, uniform, contiguous } shape = scattered;
    uint64_t base = 0;
    uint64_t step = 0;
};

// Checks the access of all lanes that run. False: the block has failed, with the lane's address.
// op::a is the address register, `wide` if it has 64 bits; `stride` is what makes it contiguous.
template <typename A> bool reach(block &b, const op &o, size_t stride, const char *what, span &out);
extern template bool reach<uint32_t>(block &, const op &, size_t, const char *, span &);
extern template bool reach<uint64_t>(block &, const op &, size_t, const char *, span &);

// An address operand: fills in an operation's a, offset, space, bytes, align and slot.
struct address {
    uint32_t place = no_place;
    bool wide = true;
    int64_t offset = 0;
    ptx::space where = space::generic;
    const variable *fixed = nullptr; // a variable, not a register
    void put(decoder &d, op &o, unsigned bytes, unsigned align) const;
};
address read_address(decoder &d, const operand &o, space where);
// "global", "shared::cta" ...; space::generic if none is named.
space take_space(modifiers &m);

} // namespace ptx

#endif
