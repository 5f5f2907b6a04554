// main.cpp: commands of the test program.
//
//   program SOCKET ops ARGUMENTS...     upstream's test-backend-ops
//   program SOCKET exact COLUMNS [TYPE,...]   a line "TYPE ERROR" for each type of weights
//   program SOCKET tokens MODEL PROMPT COUNT LAYERS   a line "TOKEN LOGIT" for each
//   program SOCKET shim                 a line "ok NAME" or "failed NAME" for each check
//
// SOCKET: gpud's. Numbers of launches, copies and waits go to stderr at the end.
#include "program.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(int argc, char **argv) {
    const char *command = argc > 2 ? argv[2] : "";
    if (argc < 3 || !open_device(argv[1])) {
        return 2;
    }
    int status = 2;
    if (strcmp(command, "ops") == 0) {
        status = backend_ops_main(argc - 2, argv + 2);
    } else if (strcmp(command, "exact") == 0 && (argc == 4 || argc == 5)) {
        status = exact_main(atoi(argv[3]), argc == 5 ? argv[4] : "");
    } else if (strcmp(command, "tokens") == 0 && argc == 7) {
        status = tokens_main(argv[3], argv[4], atoi(argv[5]), atoi(argv[6]));
    } else if (strcmp(command, "shim") == 0) {
        status = shim_main();
    } else {
        fprintf(stderr, "program: no such command: %s\n", command);
    }
    print_stats();
    fflush(stdout);
    // Threads of ggml are still there: no destructors.
    _Exit(status);
}
