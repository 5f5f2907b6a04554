// arithmetic.cpp: leads instructions that exist for integers, floats and halves to theirs.
#include "arithmetic.h"

#include <algorithm>
#include <unordered_map>

#include "groups.h"

namespace ptx {

namespace {

void make_arithmetic(decoder &d, const statement &s) {
    if (std::find(s.dotted.begin(), s.dotted.end(), "cc") != s.dotted.end()) {
        make_carry(d, s);
        return;
    }
    modifiers m(d, s);
    const type t = m.take_type();
    if (t == type::f32 || t == type::f64) {
        make_float(d, s, m, t);
    } else if (is_float(t)) {
        make_half(d, s, m, t);
    } else {
        make_integer(d, s, m, t);
    }
}

} // namespace

const instruction_entry arithmetic_instructions[] = {
    {"add", make_arithmetic},
    {"sub", make_arithmetic},
    {"mul", make_arithmetic},
    {"mad", make_arithmetic},
    {"fma", make_arithmetic},
    {"div", make_arithmetic},
    {"rem", make_arithmetic},
    {"min", make_arithmetic},
    {"max", make_arithmetic},
    {"abs", make_arithmetic},
    {"neg", make_arithmetic},
    {},
};

const instruction_entry *instruction_named(std::string_view name) {
    using table = std::unordered_map<std::string_view, const instruction_entry *>;
    // Never destroyed: a library may be unloaded before the process ends.
    static const table &all = *[] {
        table &out = *new table;
        for (const instruction_entry *list :
            {flow_instructions, barrier_instructions, warp_instructions, integer_instructions,
                bit_instructions, wide_instructions, compare_instructions, move_instructions,
                arithmetic_instructions, function_instructions, convert_instructions,
                memory_instructions, atomic_instructions, video_instructions, matrix_instructions,
                asynchronous_instructions}) {
            for (; !list->name.empty(); ++list) {
                out.emplace(list->name, list);
            }
        }
        return &out;
    }();
    const auto it = all.find(name);
    return it == all.end() ? nullptr : it->second;
}

} // namespace ptx
