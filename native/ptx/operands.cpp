// operands.cpp: the places of an instruction's operands: registers, literals, variables.
#include <cstring>

#include "decoder.h"

namespace ptx {

namespace {

constexpr struct {
    std::string_view name;
    special what;
    unsigned size;
} specials_known[] = {
    {"%tid.x", special::tid_x, 4},
    {"%tid.y", special::tid_y, 4},
    {"%tid.z", special::tid_z, 4},
    {"%ntid.x", special::ntid_x, 4},
    {"%ntid.y", special::ntid_y, 4},
    {"%ntid.z", special::ntid_z, 4},
    {"%ctaid.x", special::ctaid_x, 4},
    {"%ctaid.y", special::ctaid_y, 4},
    {"%ctaid.z", special::ctaid_z, 4},
    {"%nctaid.x", special::nctaid_x, 4},
    {"%nctaid.y", special::nctaid_y, 4},
    {"%nctaid.z", special::nctaid_z, 4},
    {"%laneid", special::laneid, 4},
    {"%warpid", special::warpid, 4},
    {"%nwarpid", special::nwarpid, 4},
    {"%lanemask_eq", special::lanemask_eq, 4},
    {"%lanemask_lt", special::lanemask_lt, 4},
    {"%lanemask_le", special::lanemask_le, 4},
    {"%lanemask_gt", special::lanemask_gt, 4},
    {"%lanemask_ge", special::lanemask_ge, 4},
    {"%dynamic_smem_size", special::dynamic_smem_size, 4},
    {"%total_smem_size", special::total_smem_size, 4},
    {"%smid", special::zero, 4},
    {"%nsmid", special::zero, 4},
    {"%gridid", special::zero, 8},
    {"%clock", special::zero, 4},
    {"%clock_hi", special::zero, 4},
    {"%clock64", special::zero, 8},
    {"%globaltimer", special::zero, 8},
    {"%globaltimer_lo", special::zero, 4},
    {"%globaltimer_hi", special::zero, 4},
};

// "%rd12" to "%rd" and 12. False: no digits, or too many.
bool split_number(std::string_view name, std::string_view *prefix, uint64_t *number) {
    size_t at = name.size();
    while (at && name[at - 1] >= '0' && name[at - 1] <= '9') {
        --at;
    }
    if (at == name.size() || name.size() - at > 10) {
        return false;
    }
    *prefix = name.substr(0, at);
    *number = 0;
    for (char c : name.substr(at)) {
        *number = *number * 10 + uint64_t(c - '0');
    }
    return true;
}

std::string quoted(std::string_view name) {
    return std::string(name.substr(0, 64));
}

} // namespace

const operand &decoder::arg(const statement &s, size_t index) {
    if (index >= s.operands.size()) {
        fail("an operand is missing");
    }
    return s.operands[index];
}

void decoder::count(const statement &s, size_t least, size_t most) {
    if (s.operands.size() < least || s.operands.size() > most) {
        fail("the number of operands is wrong");
    }
}

// The place of a declared register, which is taken when it is first named; no_place without one.
uint32_t decoder::place_of(std::string_view name, type *kind) {
    std::string_view prefix;
    uint64_t number = 0;
    const bool numbered = split_number(name, &prefix, &number);
    for (size_t i = scopes.size(); i--;) {
        auto &registers = scopes[i].registers;
        auto it = registers.find(name);
        uint64_t index = 0;
        if (it == registers.end() || it->second.range) {
            it = numbered ? registers.find(prefix) : registers.end();
            if (it == registers.end() || number >= it->second.range) {
                continue;
            }
            index = number;
        }
        *kind = it->second.kind;
        const auto [place, fresh] = it->second.places.try_emplace(index, no_place);
        if (fresh) {
            place->second = take(size_of(*kind));
            n_registers += (size_of(*kind) + 3) / 4;
        }
        return place->second;
    }
    return no_place;
}

bool decoder::is_register(const operand &o) const {
    return o.kind == operand::name && !o.text.empty() && o.text[0] == '%';
}

const variable *decoder::find_variable(std::string_view name) {
    for (size_t i = scopes.size(); i--;) {
        const auto it = scopes[i].variables.find(name);
        if (it != scopes[i].variables.end()) {
            return &it->second;
        }
    }
    const auto it = all.variables.find(name);
    if (it == all.variables.end()) {
        return nullptr;
    }
    if (it->second.where != space::shared || it->second.dynamic) {
        return &it->second;
    }
    // Each kernel has its own layout of the shared variables that it names.
    const auto [used, fresh] = used_shared.try_emplace(name, it->second);
    if (fresh) {
        variable &v = used->second;
        v.address = (uint64_t(made->static_shared) + v.align - 1) & ~uint64_t(v.align - 1);
        if (v.address + v.bytes > (1 << 20)) {
            fail("too much shared memory");
        }
        made->static_shared = uint32_t(v.address + v.bytes);
    }
    return &used->second;
}

const function *decoder::find_function(std::string_view name) {
    const auto it = all.functions.find(name);
    return it == all.functions.end() ? nullptr : &it->second;
}

uint32_t decoder::address_of(const variable &v, int64_t offset, unsigned size) {
    if (!v.dynamic) {
        return constant_of(v.address + uint64_t(offset), size);
    }
    const uint32_t place = take(size);
    dynamic_uses.push_back({uint32_t(made->constants.size()), std::max(v.align, 16u)});
    made->constants.push_back({place, size, uint64_t(offset)});
    return place;
}

uint32_t decoder::constant_of(uint64_t bits, unsigned size) {
    if (size < 8) {
        bits &= (uint64_t(1) << 8 * size) - 1;
    }
    const auto [it, fresh] = constants.try_emplace({size, bits}, no_place);
    if (fresh) {
        it->second = take(size);
        made->constants.push_back({it->second, size, bits});
    }
    return it->second;
}

uint32_t decoder::special_of(special what, unsigned size) {
    if (what == special::zero) {
        return constant_of(0, size);
    }
    const auto [it, fresh] = specials.try_emplace(what, no_place);
    if (fresh) {
        it->second = take(4);
        made->specials.push_back({it->second, what});
    }
    return it->second;
}

uint32_t decoder::literal_of(const operand &o, type t) {
    const literal &n = o.number;
    if (t == type::pred) {
        if (n.real) {
            fail("a predicate is no float");
        }
        return constant_of(n.bits != 0, 1);
    }
    if (!n.real) {
        if (t == type::f32 || t == type::f64) {
            fail("a float is needed, not an integer");
        }
        return constant_of(n.bits, size_of(t));
    }
    const unsigned size = size_of(t);
    if (size == 4) {
        uint32_t bits = n.single;
        if (!n.is_single) {
            double d;
            memcpy(&d, &n.bits, 8);
            const float f = float(d);
            memcpy(&bits, &f, 4);
        }
        return constant_of(bits, 4);
    }
    if (size != 8) {
        fail("a float cannot be had in this size");
    }
    return constant_of(n.bits, 8);
}

// Any operand that is read. `size`: of a register that may be wider than the type; nullptr if it
// must not.
uint32_t decoder::place_wide(const operand &o, type t, unsigned *size) {
    const unsigned wanted = size_of(t);
    if (size) {
        *size = wanted;
    }
    if (o.kind == operand::value) {
        return literal_of(o, t);
    }
    if (o.kind != operand::name || !o.second.empty()) {
        fail("an operand of another kind is needed");
    }
    type kind = type::none;
    const uint32_t place = place_of(o.text, &kind);
    if (place != no_place) {
        if (o.offset) {
            fail("a register cannot have an offset here");
        }
        if ((kind == type::pred) != (t == type::pred)) {
            fail("a predicate and a number are not the same: " + quoted(o.text));
        }
        if (size) {
            *size = size_of(kind);
        }
        if (size_of(kind) != wanted && (!size || size_of(kind) < wanted)) {
            fail("the register is of another size: " + quoted(o.text));
        }
        return place;
    }
    for (const auto &one : specials_known) {
        if (one.name == o.text) {
            if (wanted != one.size) {
                fail("the special register is of another size: " + quoted(o.text));
            }
            return special_of(one.what, one.size);
        }
    }
    if (o.text.substr(0, 7) == "%envreg" && wanted == 4) { // set for cooperative launches only
        return constant_of(0, 4);
    }
    if (o.text == "WARP_SZ" && t != type::pred) {
        return constant_of(32, wanted);
    }
    const variable *v = find_variable(o.text);
    if (!v) {
        fail("no such name: " + quoted(o.text));
    }
    if (wanted < 4) {
        fail("an address needs more bytes: " + quoted(o.text));
    }
    return address_of(*v, o.offset, wanted);
}

uint32_t decoder::in(const operand &o, type t) {
    if (o.negated) {
        fail("'!' is not possible here");
    }
    return place_wide(o, t, nullptr);
}

uint32_t decoder::in_wide(const operand &o, type t, unsigned *size) {
    if (o.negated) {
        fail("'!' is not possible here");
    }
    return place_wide(o, t, size);
}

uint32_t decoder::out_wide(const operand &o, type t, unsigned *size) {
    const unsigned wanted = size_of(t);
    if (o.kind != operand::name || o.negated || o.offset || !o.second.empty()) {
        fail("a register is needed");
    }
    if (size) {
        *size = wanted;
    }
    if (o.text == "_") {
        return take(std::max(wanted, 2u));
    }
    type kind = type::none;
    const uint32_t place = place_of(o.text, &kind);
    if (place == no_place) {
        fail("no such register: " + quoted(o.text));
    }
    if ((kind == type::pred) != (t == type::pred)) {
        fail("a predicate and a number are not the same: " + quoted(o.text));
    }
    if (size) {
        *size = size_of(kind);
    }
    if (size_of(kind) != wanted && (!size || size_of(kind) < wanted)) {
        fail("the register is of another size: " + quoted(o.text));
    }
    return place;
}

uint32_t decoder::out(const operand &o, type t) {
    return out_wide(o, t, nullptr);
}

bool modifiers::take(std::string_view name) {
    for (size_t i = 0; i < left.size(); ++i) {
        if (left[i] == name) {
            left.erase(left.begin() + long(i));
            return true;
        }
    }
    return false;
}

bool modifiers::take_any(std::initializer_list<std::string_view> names) {
    for (std::string_view name : names) {
        if (take(name)) {
            return true;
        }
    }
    return false;
}

type modifiers::take_type_or(type otherwise) {
    for (size_t i = 0; i < left.size(); ++i) {
        const type t = type_named(left[i]);
        if (t != type::none) {
            left.erase(left.begin() + long(i));
            return t;
        }
    }
    return otherwise;
}

type modifiers::take_type() {
    const type t = take_type_or(type::none);
    if (t == type::none) {
        d.fail("the instruction's type is missing");
    }
    return t;
}

std::string_view modifiers::take_first() {
    if (left.empty()) {
        d.fail("a modifier is missing");
    }
    const std::string_view first = left.front();
    left.erase(left.begin());
    return first;
}

void modifiers::done() {
    if (!left.empty()) {
        unknown();
    }
}

void modifiers::unknown() const {
    std::string name(s.base.substr(0, 32));
    for (std::string_view one : s.dotted) {
        name += "." + std::string(one.substr(0, 32));
    }
    d.fail("a form of an instruction that is not known: " + name);
}

} // namespace ptx
