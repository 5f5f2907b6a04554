// flow.h: operations that the decoder emits around instructions.
#ifndef CLLM_PTX_FLOW_H
#define CLLM_PTX_FLOW_H

#include "decoder.h"

namespace ptx {

void emit_return(decoder &d);
// Jumps over what follows where the predicate forbids it; the target is filled in later.
void emit_branch_around(decoder &d, uint32_t predicate, bool negated);
// The next operations, as many as `mode` says, are for the lanes that the predicate allows.
void emit_guard(decoder &d, uint32_t predicate, bool negated);

// Waits until the lanes of `mask` (no_place: all) in each warp are here. False: they are not, and
// the lanes that run wait; the operation is executed again.
bool warps_are_here(block &b, const op &o, uint32_t mask_place);
void release_barriers(block &b);

// vprintf and __assertfail (CUDA's device runtime).
bool emit_library_call(decoder &d, std::string_view name, const std::vector<uint32_t> &arguments);
// Whether [address, address + bytes) may be read by a lane, as a generic address. `lane` may be
// beyond the block's threads, where the last warp is not whole: such lanes have no local memory.
bool readable(const block &b, uint32_t lane, uint64_t address, uint64_t bytes);

} // namespace ptx

#endif
