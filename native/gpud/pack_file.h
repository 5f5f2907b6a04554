// pack_file.h: reads a pack (native/ptx/pack.h). Whoever starts gpud chooses the pack, so a guest
// runs no other code on the device; yet nothing in it is believed before it is checked.
#ifndef CLLM_GPUD_PACK_FILE_H
#define CLLM_GPUD_PACK_FILE_H

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "../ptx/pack.h"

namespace gpud {

// struct ptx_pack_file and what belongs to it.
struct pack_file {
    ptx_pack_file head;
    std::vector<ptx_pack_kernel> kernels;                // by hash
    std::vector<std::vector<ptx_pack_param>> parameters; // of each kernel
    std::string_view packed;

    // Index into `kernels`, or -1.
    int find(uint64_t hash) const;
    // Unpacks and compares the hash. Throws std::runtime_error.
    std::string text() const;
};

class pack {
public:
    // `data` outlives the pack. Throws std::runtime_error.
    explicit pack(std::string_view data);

    // The file that a ptx_reference names by number and hash; where the pack has it for several
    // architectures, the best for a device of compute capability `arch` (61). nullptr: none.
    const pack_file *find(uint32_t number, const uint8_t sha256[32], unsigned arch) const;

    const std::vector<pack_file> &all() const { return files; }

private:
    std::vector<pack_file> files;
};

// A module's text with kernel `index` only, and without globals that it does not name: a compiler
// takes a tenth of a second for that, and seconds for all.
std::string slice(const pack_file &file, std::string_view text, unsigned index);

} // namespace gpud

#endif
