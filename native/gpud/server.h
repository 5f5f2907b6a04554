// server.h: gpud's main process. It listens as QEMU's ivshmem server does, gives each guest memory
// and a worker of its own, and watches them. It runs nothing on a guest's behalf.
#ifndef CLLM_GPUD_SERVER_H
#define CLLM_GPUD_SERVER_H

#include "options.h"

namespace gpud {

// Until SIGTERM or SIGINT. Throws std::runtime_error when it cannot start.
void serve(const options &o);

} // namespace gpud

#endif
