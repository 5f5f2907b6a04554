// decoder.h: makes a kernel's code of its text.
#ifndef CLLM_PTX_DECODER_H
#define CLLM_PTX_DECODER_H

#include <map>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "code.h"
#include "text.h"
#include "types.h"

namespace ptx {

// A variable in some space. Of a module, or of a function.
struct variable {
    ptx::space where = ptx::space::global;
    uint64_t address = 0; // in its space
    uint64_t bytes = 0;
    uint32_t align = 1;
    bool dynamic = false; // .extern .shared: begins where static ones end
};

struct formal {
    std::string_view name;
    uint32_t bytes = 0, align = 1;
    uint32_t offset = 0; // in the parameters
};

// A .func or .entry as the module found it.
struct function {
    std::string_view name;
    bool entry = false;
    bool defined = false;
    std::vector<formal> results, formals;
    uint32_t parameter_bytes = 0;
    std::string_view body;
    uint32_t line = 0; // of the body
    uint32_t max_threads = 1024;
    uint32_t required[3] = {0, 0, 0};
};

struct symbols {
    std::unordered_map<std::string_view, variable> variables;
    std::unordered_map<std::string_view, function> functions;
};

class decoder {
public:
    decoder(const symbols &all, const function &entry);
    std::shared_ptr<const code> decode();
    uint32_t registers() const { return n_registers; }

    // For the instructions' handlers. Places of operands: of the very size, else an error.
    uint32_t in(const operand &o, type t);
    uint32_t in(const statement &s, size_t index, type t) { return in(arg(s, index), t); }
    // A register may be wider than the type; *size is its own. A literal gets the type's.
    uint32_t in_wide(const operand &o, type t, unsigned *size);
    uint32_t out(const operand &o, type t);
    uint32_t out_wide(const operand &o, type t, unsigned *size);
    uint32_t constant_of(uint64_t bits, unsigned size);
    uint32_t special_of(special what, unsigned size = 4);
    uint32_t temporary(unsigned size) { return take(size); }
    uint32_t carry(); // the flag CC.CF
    const operand &arg(const statement &s, size_t index);
    void count(const statement &s, size_t least, size_t most);
    bool is_register(const operand &o) const;

    op &emit(step run);
    op &emit(step run, uint32_t d, uint32_t a, uint32_t b = no_place, uint32_t c = no_place);
    uint32_t here() const { return uint32_t(made->ops.size()); }
    op &at(uint32_t pc) { return made->ops[pc]; }
    uint32_t new_slot() { return made->slots++; }
    // Where the label's address is to be written once it is known.
    void aim(uint32_t pc, std::string_view label);
    void table_named(std::string_view label); // of the next operation
    uint32_t add_table(const std::vector<uint32_t> &values) {
        made->tables.push_back(values);
        return uint32_t(made->tables.size() - 1);
    }
    const variable *find_variable(std::string_view name);
    const function *find_function(std::string_view name);
    // A constant register with a variable's address in its space.
    uint32_t address_of(const variable &v, int64_t offset, unsigned size);

    struct frame { // of a device function
        const function *what = nullptr;
        uint32_t entry = no_place;
        uint32_t link = no_place;               // register: where to go on
        std::vector<uint32_t> results, formals; // offsets in local memory
        std::vector<uint32_t> calls;            // pcs to aim at the entry
        std::vector<frame *> callees;
        uint8_t state = 0; // of the search for recursion
    };
    frame &frame_of(const function &f);
    frame *current() { return inside; }
    bool in_entry() const { return !inside; }
    const function &the_entry() const { return entry; }
    uint32_t line = 0;
    [[noreturn]] void fail(const std::string &what) const { fail_at(line, what); }

private:
    struct registers_decl {
        type kind;
        uint64_t range; // 0: one register of that name
        std::unordered_map<uint64_t, uint32_t> places;
    };
    struct scope {
        std::unordered_map<std::string_view, registers_decl> registers;
        std::unordered_map<std::string_view, variable> variables;
    };
    struct dynamic_use {
        uint32_t index; // of a constant
        uint32_t align;
    };
    struct fix {
        uint32_t pc;
        uint32_t line;
        std::string_view label;
    };

    const symbols &all;
    const function &entry;
    std::shared_ptr<code> made;
    std::vector<scope> scopes;
    std::unordered_map<std::string_view, uint32_t> labels, table_names;
    std::unordered_map<std::string_view, variable> used_shared;
    std::vector<fix> fixes, table_fixes;
    std::vector<std::vector<std::string_view>> table_labels;
    std::map<std::pair<unsigned, uint64_t>, uint32_t> constants;
    std::map<special, uint32_t> specials;
    std::map<std::string_view, frame> frames;
    std::vector<dynamic_use> dynamic_uses;
    std::vector<frame *> queue;
    frame *inside = nullptr;
    uint32_t carry_place = no_place;
    uint32_t n_registers = 0;

    uint32_t take(unsigned size);
    uint32_t take_local(uint64_t bytes, uint32_t align);
    uint32_t place_of(std::string_view name, type *kind);
    uint32_t place_wide(const operand &o, type t, unsigned *size);
    uint32_t literal_of(const operand &o, type t);
    void body(const function &f);
    void one(scanner &in);
    void directive(scanner &in);
    void declare_registers(scanner &in);
    void declare_variable(scanner &in, std::string_view where);
    void define_label(scanner &in, std::string_view name);
    void instruction(scanner &in, std::string_view guard, bool negated);
    void resolve();
    void link_calls();
    void no_recursion(frame &f, unsigned depth);
    void place_dynamic();
};

// Handles one instruction: takes its modifiers, emits operations.
using handler = void (*)(decoder &, const statement &);

struct instruction_entry {
    std::string_view name;
    handler make;
    bool joins = false; // jumps or needs its warp: a guard must be a branch around it
};

// The modifiers of an instruction. Each must be known: one that is left is an error.
class modifiers {
public:
    modifiers(decoder &d, const statement &s) : d(d), left(s.dotted), s(s) {}
    bool take(std::string_view name);
    bool take_any(std::initializer_list<std::string_view> names);
    type take_type(); // the first type; error if there is none
    type take_type_or(type otherwise);
    std::string_view take_first();
    bool empty() const { return left.empty(); }
    void done();
    [[noreturn]] void unknown() const;

private:
    decoder &d;
    std::vector<std::string_view> left;
    const statement &s;
};

// nullptr: not known.
const instruction_entry *instruction_named(std::string_view name);

} // namespace ptx

#endif
