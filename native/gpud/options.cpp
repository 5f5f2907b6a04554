// options.cpp: see options.h.
#include "options.h"

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <getopt.h>
#include <stdexcept>

namespace gpud {

namespace {

const char usage[] = R"(usage: gpud --socket PATH [options]
Serves CUDA to virtual machines: QEMU connects to the socket by
  -chardev socket,path=PATH,id=gpud -device ivshmem-doorbell,chardev=gpud,vectors=1

  --engine ptx|cuda     what computes: an interpreter, or a card through libcuda (ptx)
  --memory MIB          device memory for each guest (1024)
  --shared MIB          memory shared with each guest, a power of two (64)
  --devices N           emulated devices (1)
  --cc X.Y              compute capability that they are shown as (6.1)
  --pack FILE           PTX that guests may run
  --upload              guests may send PTX of their own: for development
  --ram FILE:START:SIZE   the guest's memory at guest-physical START; allows one guest
  --file FILE:START:SIZE  a file that the guest has mapped at START; it is only read
                          both: SIZE@OFFSET for what begins at an offset in the file
  --time-limit SECONDS  for one command, then its worker is ended (60)
  --guests N            at a time (8)
  --spin US             how long a worker looks at its ring before it sleeps (50 for cuda, else 0)
  --store FD            a Unix socket that gets each guest's file descriptors
  --adopt C,M,D,I       file descriptors of a guest from an earlier --store
)";

uint64_t number(const std::string &word, uint64_t least, uint64_t most) {
    char *end = nullptr;
    errno = 0;
    unsigned long long value = strtoull(word.c_str(), &end, 0);
    if (word.empty() || word[0] == '-' || *end || errno || value < least || value > most) {
        throw std::runtime_error(word + " is not a number from " + std::to_string(least) + " to "
            + std::to_string(most));
    }
    return value;
}

std::vector<std::string> split(const std::string &text, char separator) {
    std::vector<std::string> words;
    size_t begin = 0;
    for (size_t end; (end = text.find(separator, begin)) != text.npos; begin = end + 1) {
        words.push_back(text.substr(begin, end - begin));
    }
    words.push_back(text.substr(begin));
    return words;
}

window_option window_of(const std::string &text, bool ram) {
    // A file's name may have colons in it.
    size_t last = text.rfind(':');
    size_t middle = last == 0 || last == text.npos ? text.npos : text.rfind(':', last - 1);
    if (middle == text.npos || middle == 0) {
        throw std::runtime_error(text + " is not FILE:START:SIZE");
    }
    std::vector<std::string> size = split(text.substr(last + 1), '@');
    constexpr uint64_t page = 4096, most = INT64_MAX / 2;
    window_option w = {text.substr(0, middle),
        number(text.substr(middle + 1, last - middle - 1), 0, UINT64_MAX), number(size[0], 1, most),
        size.size() > 1 ? number(size[1], 0, most) : 0, ram};
    if (w.start + w.size < w.start || size.size() > 2 || w.offset % page != 0) {
        throw std::runtime_error(text + " wraps around, or begins within a page");
    }
    return w;
}

adopted adopted_of(const std::string &text) {
    std::vector<std::string> words = split(text, ',');
    if (words.size() != 4) {
        throw std::runtime_error(text + " is not four file descriptors");
    }
    int fd[4];
    for (unsigned i = 0; i < 4; i++) {
        fd[i] = (int)number(words[i], 3, 1 << 20);
    }
    return {fd[0], fd[1], fd[2], fd[3]};
}

void take(options &o, int option, const std::string &word) {
    switch (option) {
        case 's':
            o.socket = word;
            break;
        case 'e':
            o.engine = word;
            break;
        case 'm':
            o.quota = number(word, 1, 1 << 24) << 20;
            break;
        case 'S':
            o.shared_bytes = (uint32_t)number(word, 4, 2048) << 20;
            break;
        case 'd':
            o.devices = (unsigned)number(word, 1, 16);
            break;
        case 'c': {
            std::vector<std::string> words = split(word, '.');
            if (words.size() != 2) {
                throw std::runtime_error(word + " is no compute capability");
            }
            o.major = (unsigned)number(words[0], 5, 12);
            o.minor = (unsigned)number(words[1], 0, 9);
            break;
        }
        case 'p':
            o.pack = word;
            break;
        case 'u':
            o.upload = true;
            break;
        case 'r':
        case 'f':
            o.windows.push_back(window_of(word, option == 'r'));
            break;
        case 't':
            o.time_limit_s = (unsigned)number(word, 1, 86400);
            break;
        case 'g':
            o.most_guests = (unsigned)number(word, 1, 64);
            break;
        case 'n':
            o.spin_us = (unsigned)number(word, 0, 1000000);
            break;
        case 'o':
            o.store = (int)number(word, 3, 1 << 20);
            break;
        case 'a':
            o.adopt.push_back(adopted_of(word));
            break;
        case 'w':
            o.is_worker = true;
            break;
        default:
            throw std::runtime_error("see gpud --help");
    }
}

} // namespace

options parse(int argc, char **argv) {
    static const option known[] = {{"socket", 1, nullptr, 's'}, {"engine", 1, nullptr, 'e'},
        {"memory", 1, nullptr, 'm'}, {"shared", 1, nullptr, 'S'}, {"devices", 1, nullptr, 'd'},
        {"cc", 1, nullptr, 'c'}, {"pack", 1, nullptr, 'p'}, {"upload", 0, nullptr, 'u'},
        {"ram", 1, nullptr, 'r'}, {"file", 1, nullptr, 'f'}, {"time-limit", 1, nullptr, 't'},
        {"guests", 1, nullptr, 'g'}, {"spin", 1, nullptr, 'n'}, {"store", 1, nullptr, 'o'},
        {"adopt", 1, nullptr, 'a'}, {"worker", 0, nullptr, 'w'}, {"help", 0, nullptr, 'h'},
        {nullptr, 0, nullptr, 0}};
    options o;
    bool spins = false;
    for (int option; (option = getopt_long(argc, argv, "", known, nullptr)) != -1;) {
        if (option == 'h') {
            fputs(usage, stdout);
            exit(0);
        }
        take(o, option, optarg ? optarg : "");
        spins = spins || option == 'n';
    }
    if (!spins && o.engine == "cuda") {
        o.spin_us = 50;
    }
    if (optind != argc || (o.socket.empty() && !o.is_worker)) {
        throw std::runtime_error("see gpud --help");
    }
    if (o.engine != "ptx" && o.engine != "cuda") {
        throw std::runtime_error(o.engine + " is no engine");
    }
    if (o.windows.size() > 16) {
        throw std::runtime_error("at most 16 windows");
    }
    for (const window_option &w : o.windows) {
        // Two guests with a view of one's memory would not be apart.
        o.most_guests = w.ram ? 1 : o.most_guests;
    }
    return o;
}

std::vector<std::string> worker_arguments(const options &o) {
    std::vector<std::string> words = {"gpud", "--worker", "--engine", o.engine, "--memory",
        std::to_string(o.quota >> 20), "--devices", std::to_string(o.devices), "--cc",
        std::to_string(o.major) + "." + std::to_string(o.minor), "--spin",
        std::to_string(o.spin_us)};
    if (o.upload) {
        words.push_back("--upload");
    }
    if (!o.pack.empty()) {
        words.insert(words.end(), {"--pack", o.pack});
    }
    for (const window_option &w : o.windows) {
        words.insert(words.end(),
            {w.ram ? "--ram" : "--file",
                w.path + ":" + std::to_string(w.start) + ":" + std::to_string(w.size) + "@"
                    + std::to_string(w.offset)});
    }
    return words;
}

} // namespace gpud
