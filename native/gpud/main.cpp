// main.cpp: gpud, the daemon that computes for guests; and its workers, which are the same program.
#include <cstdio>
#include <exception>

#include "options.h"
#include "process.h"
#include "server.h"

int main(int argc, char **argv) {
    try {
        gpud::options o = gpud::parse(argc, argv);
        if (o.is_worker) {
            gpud::worker_main(o);
        }
        gpud::serve(o);
        return 0;
    } catch (const std::exception &error) {
        fprintf(stderr, "gpud: %s\n", error.what());
        return 1;
    }
}
