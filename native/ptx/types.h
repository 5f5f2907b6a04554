// types.h: the fundamental types of PTX (ISA 5.2), and their sizes.
#ifndef CLLM_PTX_TYPES_H
#define CLLM_PTX_TYPES_H

#include <cstdint>
#include <string_view>

namespace ptx {

enum class type : uint8_t {
    none,
    pred,
    b8,
    b16,
    b32,
    b64,
    u8,
    u16,
    u32,
    u64,
    s8,
    s16,
    s32,
    s64,
    f16,
    bf16,
    f16x2,
    bf16x2,
    f32,
    f64,
};

// `name` without its dot; type::none for what is no type.
type type_named(std::string_view name);

constexpr unsigned size_of(type t) {
    switch (t) {
        case type::none:
            return 0;
        case type::pred:
        case type::b8:
        case type::u8:
        case type::s8:
            return 1;
        case type::b16:
        case type::u16:
        case type::s16:
        case type::f16:
        case type::bf16:
            return 2;
        case type::b64:
        case type::u64:
        case type::s64:
        case type::f64:
            return 8;
        default:
            return 4;
    }
}

constexpr bool is_signed(type t) {
    return t == type::s8 || t == type::s16 || t == type::s32 || t == type::s64;
}

constexpr bool is_float(type t) {
    return t >= type::f16;
}

// The type of the same size without a sign.
constexpr type bits_of(type t) {
    switch (size_of(t)) {
        case 1:
            return type::b8;
        case 2:
            return type::b16;
        case 4:
            return type::b32;
        default:
            return type::b64;
    }
}

} // namespace ptx

#endif
