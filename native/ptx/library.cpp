// library.cpp: the functions of CUDA's device runtime that kernels may call: vprintf, which only
// keeps its text for the fault that may follow, and __assertfail, which is one.
#include <algorithm>
#include <cstdio>
#include <cstring>

#include "flow.h"

namespace ptx {

bool readable(const block &b, uint32_t lane, uint64_t address, uint64_t bytes) {
    const auto inside = [&](uint64_t start, uint64_t size) {
        return address >= start && address - start <= size && bytes <= size - (address - start);
    };
    if (inside(reinterpret_cast<uint64_t>(b.shared), b.shared_bytes)
        || inside(reinterpret_cast<uint64_t>(b.param), b.param_bytes)
        || (lane < b.threads
            && inside(reinterpret_cast<uint64_t>(b.local) + lane * b.local_stride,
                b.local_bytes))) {
        return true;
    }
    const interval *end = b.allocations + b.n_allocations;
    const interval *it = std::upper_bound(b.allocations, end, address,
        [](uint64_t value, const interval &one) { return value < one.start; });
    return it != b.allocations && inside((it - 1)->start, (it - 1)->end - (it - 1)->start);
}

namespace {

constexpr size_t max_text = 300;

std::string text_at(const block &b, uint32_t lane, uint64_t address) {
    std::string out;
    while (out.size() < max_text && readable(b, lane, address, 1)) {
        const char c = *reinterpret_cast<const char *>(address++);
        if (!c) {
            break;
        }
        out += c >= ' ' && c < 127 ? c : ' ';
    }
    return out;
}

// Reads arguments as vprintf's buffer holds them, each at a multiple of its size.
struct arguments {
    const block &b;
    uint32_t lane;
    uint64_t address;

    uint64_t take(unsigned size) {
        address = (address + size - 1) & ~uint64_t(size - 1);
        uint64_t value = 0;
        if (readable(b, lane, address, size)) {
            memcpy(&value, reinterpret_cast<const void *>(address), size);
        }
        address += size;
        return value;
    }
};

std::string one_argument(arguments &from, char conversion, bool wide) {
    char out[64];
    if (conversion == 's') {
        return text_at(from.b, from.lane, from.take(8));
    }
    if (strchr("eEfFgGaA", conversion)) {
        const uint64_t bits = from.take(8);
        double d;
        memcpy(&d, &bits, 8);
        snprintf(out, sizeof(out), "%g", d);
    } else if (conversion == 'p') {
        snprintf(out, sizeof(out), "0x%llx", (unsigned long long)from.take(8));
    } else if (conversion == 'c') {
        snprintf(out, sizeof(out), "%c", char(std::clamp<uint64_t>(from.take(4), 32, 126)));
    } else if (strchr("di", conversion)) {
        const uint64_t bits = from.take(wide ? 8 : 4);
        snprintf(out, sizeof(out), "%lld", (long long)(wide ? int64_t(bits) : int32_t(bits)));
    } else {
        const char *format = conversion == 'x' || conversion == 'X' ? "%llx" : "%llu";
        snprintf(out, sizeof(out), format, (unsigned long long)from.take(wide ? 8 : 4));
    }
    return out;
}

std::string formatted(const block &b, uint32_t lane, uint64_t format, uint64_t buffer) {
    arguments from{b, lane, buffer};
    const std::string text = text_at(b, lane, format);
    std::string out;
    for (size_t i = 0; i < text.size() && out.size() < max_text; ++i) {
        if (text[i] != '%') {
            out += text[i];
            continue;
        }
        bool wide = false;
        for (++i; i < text.size() && strchr("0123456789+-# .lhzjt", text[i]); ++i) {
            wide |= text[i] == 'l' || text[i] == 'z' || text[i] == 'j' || text[i] == 't';
        }
        if (i < text.size()) {
            out += text[i] == '%' ? "%" : one_argument(from, text[i], wide);
        }
    }
    return out.substr(0, max_text);
}

// The places of a call's arguments are in a table: offset and size in local memory.
uint64_t argument(const block &b, const op &o, uint32_t lane, size_t index) {
    const std::vector<uint32_t> &places = b.what->tables[o.target];
    uint64_t value = 0;
    if (2 * index + 1 < places.size()) {
        memcpy(&value, b.local + b.local_stride * lane + places[2 * index],
            std::min<size_t>(places[2 * index + 1], 8));
    }
    return value;
}

void run_vprintf(block &b, const op &o) {
    const uint32_t lane = first_lane(b);
    b.printed = formatted(b, lane, argument(b, o, lane, 0), argument(b, o, lane, 1));
    while (!b.printed.empty() && b.printed.back() == ' ') {
        b.printed.pop_back();
    }
}

void run_assertfail(block &b, const op &o) {
    const uint32_t lane = first_lane(b);
    const std::string text = text_at(b, lane, argument(b, o, lane, 0));
    const std::string file = text_at(b, lane, argument(b, o, lane, 1));
    b.fail(710, o, lane,
        "assertion failed: " + text + " (" + file + ":" + std::to_string(argument(b, o, lane, 2))
            + ")");
}

} // namespace

bool emit_library_call(decoder &d, std::string_view name, const std::vector<uint32_t> &arguments) {
    if (name != "vprintf" && name != "__assertfail") {
        return false;
    }
    const uint32_t table = d.add_table(arguments);
    d.emit(name == "vprintf" ? run_vprintf : run_assertfail).target = table;
    return true;
}

} // namespace ptx
