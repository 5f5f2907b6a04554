// pack_file.cpp: see pack_file.h.
#include "pack_file.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "inflate.h"
#include "ptx_names.h"
#include "sha256.h"

namespace gpud {

namespace {

constexpr uint32_t most_text = 256u << 20; // bytes of one file

[[noreturn]] void bad(const char *what) {
    throw std::runtime_error(std::string("the pack is damaged: ") + what);
}

template <typename T>
std::vector<T> read(std::string_view data, size_t &at, uint32_t count) {
    if (count > (data.size() - at) / sizeof(T)) {
        bad("it ends too early");
    }
    std::vector<T> out(count);
    if (count != 0) {
        memcpy(out.data(), data.data() + at, count * sizeof(T));
    }
    at += count * sizeof(T);
    return out;
}

bool names(std::string_view text, std::string_view name) {
    for (size_t at = 0; (at = text.find(name, at)) != text.npos; at++) {
        bool begins = at == 0 || !ptx_is_word(text[at - 1]);
        size_t end = at + name.size();
        if (begins && (end == text.size() || !ptx_is_word(text[end]))) {
            return true;
        }
    }
    return false;
}

} // namespace

int pack_file::find(uint64_t hash) const {
    auto found = std::lower_bound(kernels.begin(), kernels.end(), hash,
        [](const ptx_pack_kernel &kernel, uint64_t hash) { return kernel.hash < hash; });
    return found != kernels.end() && found->hash == hash ? (int)(found - kernels.begin()) : -1;
}

std::string pack_file::text() const {
    std::string out =
        packed.size() == head.bytes ? std::string(packed) : inflate(packed, head.bytes);
    if (memcmp(sha256(out).data(), head.sha256, sizeof(head.sha256)) != 0) {
        throw std::runtime_error("the pack is damaged: a text has another hash");
    }
    return out;
}

pack::pack(std::string_view data) {
    size_t at = 0;
    ptx_pack_header header = read<ptx_pack_header>(data, at, 1)[0];
    if (memcmp(header.magic, PTX_PACK_MAGIC, sizeof(header.magic)) != 0) {
        throw std::runtime_error("not a pack");
    }
    if (header.version != PTX_PACK_VERSION) {
        throw std::runtime_error("a pack of version " + std::to_string(header.version));
    }
    auto heads = read<ptx_pack_file>(data, at, header.n_files);
    auto kernels = read<ptx_pack_kernel>(data, at, header.n_kernels);
    auto parameters = read<ptx_pack_param>(data, at, header.n_params);
    for (const ptx_pack_file &head : heads) {
        if (head.offset > data.size() || head.packed > data.size() - head.offset
            || head.bytes > most_text || head.first_kernel > kernels.size()
            || head.n_kernels > kernels.size() - head.first_kernel) {
            bad("a file lies outside");
        }
        pack_file file = {head, {}, {}, data.substr(head.offset, head.packed)};
        for (uint32_t i = 0; i < head.n_kernels; i++) {
            const ptx_pack_kernel &kernel = kernels[head.first_kernel + i];
            if (kernel.first_param > parameters.size()
                || kernel.n_params > parameters.size() - kernel.first_param
                || kernel.start > head.bytes || kernel.length > head.bytes - kernel.start
                || (i != 0 && kernel.hash <= kernels[head.first_kernel + i - 1].hash)) {
                bad("a kernel lies outside, or out of order");
            }
            auto first = parameters.begin() + kernel.first_param;
            file.kernels.push_back(kernel);
            file.parameters.emplace_back(first, first + kernel.n_params);
        }
        files.push_back(std::move(file));
    }
}

const pack_file *pack::find(uint32_t number, const uint8_t sha256[32], unsigned arch) const {
    bool known = false;
    const pack_file *best = nullptr;
    for (const pack_file &file : files) {
        if (file.head.number != number) {
            continue;
        }
        known = known || memcmp(file.head.sha256, sha256, sizeof(file.head.sha256)) == 0;
        if (file.head.arch <= arch && (!best || file.head.arch > best->head.arch)) {
            best = &file;
        }
    }
    return known ? best : nullptr;
}

std::string slice(const pack_file &file, std::string_view text, unsigned index) {
    std::vector<const ptx_pack_kernel *> in_order;
    for (const ptx_pack_kernel &kernel : file.kernels) {
        in_order.push_back(&kernel);
    }
    std::sort(in_order.begin(), in_order.end(),
        [](const ptx_pack_kernel *a, const ptx_pack_kernel *b) { return a->start < b->start; });
    const ptx_pack_kernel &wanted = file.kernels[index];
    std::string_view body = text.substr(wanted.start, wanted.length);
    std::string around;
    size_t at = 0;
    for (const ptx_pack_kernel *kernel : in_order) {
        if (kernel->start > at) {
            around += text.substr(at, kernel->start - at);
        }
        at = std::max(at, (size_t)kernel->start + kernel->length);
    }
    around += text.substr(at);

    // What is kept may name globals itself.
    std::string kept(body);
    std::vector<std::string_view> statements = ptx_statements(around);
    std::vector<bool> wants(statements.size());
    for (bool more = true; more;) {
        more = false;
        for (size_t i = 0; i < statements.size(); i++) {
            std::string_view name = ptx_global_name(statements[i]);
            if (!wants[i] && (name.empty() || names(kept, name))) {
                wants[i] = more = true;
                kept += statements[i];
            }
        }
    }
    std::string out;
    for (size_t i = 0; i < statements.size(); i++) {
        if (wants[i]) {
            out += statements[i];
        }
    }
    return out.append("\n").append(body).append("\n");
}

} // namespace gpud
