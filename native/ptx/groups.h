// groups.h: the instructions of each file that implements some. Each list ends with an empty name.
#ifndef CLLM_PTX_GROUPS_H
#define CLLM_PTX_GROUPS_H

#include "decoder.h"

namespace ptx {

extern const instruction_entry flow_instructions[];
extern const instruction_entry barrier_instructions[];
extern const instruction_entry warp_instructions[];
extern const instruction_entry integer_instructions[];
extern const instruction_entry bit_instructions[];
extern const instruction_entry wide_instructions[];
extern const instruction_entry compare_instructions[];
extern const instruction_entry move_instructions[];
extern const instruction_entry arithmetic_instructions[];
extern const instruction_entry function_instructions[];
extern const instruction_entry convert_instructions[];
extern const instruction_entry memory_instructions[];
extern const instruction_entry atomic_instructions[];
extern const instruction_entry video_instructions[];
extern const instruction_entry matrix_instructions[];
extern const instruction_entry asynchronous_instructions[];

} // namespace ptx

#endif
