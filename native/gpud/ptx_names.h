// ptx_names.h: the names in a PTX text. A guest asks by hash, libcuda by name.
#ifndef CLLM_GPUD_PTX_NAMES_H
#define CLLM_GPUD_PTX_NAMES_H

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace gpud {

// By ucuda_name_hash().
std::map<uint64_t, std::string> ptx_kernel_names(std::string_view text);
std::map<uint64_t, std::string> ptx_global_names(std::string_view text);

// The statements outside of functions' bodies, in order: together they are all of the text. A
// directive that a line ends (.version, .target, .address_size) is one, and so is a comment.
std::vector<std::string_view> ptx_statements(std::string_view text);
// The name of the variable that a statement declares, global or shared; empty: it is another
// statement.
std::string_view ptx_global_name(std::string_view statement);
// Whether that character may be in a name (PTX ISA, section 4.4).
bool ptx_is_word(char c);

} // namespace gpud

#endif
