// options.h: gpud's command line.
#ifndef CLLM_GPUD_OPTIONS_H
#define CLLM_GPUD_OPTIONS_H

#include <cstdint>
#include <string>
#include <vector>

namespace gpud {

// A file that is mapped where the guest has it: its memory, or a model.
struct window_option {
    std::string path;
    uint64_t start, size; // guest-physical
    uint64_t offset;      // in the file
    bool ram;             // else a file, which is only read
};

// A guest that an earlier gpud served: file descriptors that the launcher kept (--store).
struct adopted {
    int connection, memory, doorbell, interrupt;
};

struct options {
    std::string socket;
    std::string engine = "ptx";
    uint64_t quota = UINT64_C(1) << 30; // bytes for a guest
    uint32_t shared_bytes = 64u << 20;
    unsigned devices = 1, major = 6, minor = 1; // emulated ones
    unsigned time_limit_s = 60;
    unsigned most_guests = 8;
    unsigned spin_us = 0; // 50 by default for cards: waking up takes as long as a short step
    bool upload = false;
    std::string pack;
    std::vector<window_option> windows;
    int store = -1;
    std::vector<adopted> adopt;
    bool is_worker = false;
};

// Throws std::runtime_error. Without arguments: prints the usage and ends the program.
options parse(int argc, char **argv);
// The arguments of a worker with these options.
std::vector<std::string> worker_arguments(const options &o);

} // namespace gpud

#endif
