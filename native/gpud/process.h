// process.h: a guest's worker as a process of its own, with nothing that it does not need.
#ifndef CLLM_GPUD_PROCESS_H
#define CLLM_GPUD_PROCESS_H

#include <sys/types.h>

#include <vector>

#include "options.h"

namespace gpud {

// File descriptors of a worker, by number; windows' follow.
enum { FD_MEMORY = 3, FD_DOORBELL, FD_PROGRESS, FD_PACK, FD_WINDOWS };
// A worker's exit status when it has said in the shared memory why.
constexpr int exit_explained = 3;

// Starts this program again as a worker. fds: for the numbers above, in order; -1 for none.
// Throws std::runtime_error. The worker ends when the calling thread does.
pid_t start_worker(const options &o, const std::vector<int> &fds);
// A worker's main(), which leaves by exit.
[[noreturn]] void worker_main(const options &o);

// Before the program is started again: no new privileges, no network, no core files.
void confine_before_exec();
// When the engine is ready: which system calls are left. `cuda`: libcuda needs many.
void confine_after_start(bool cuda);

} // namespace gpud

#endif
