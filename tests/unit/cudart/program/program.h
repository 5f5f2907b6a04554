// program.h: between the files of a program for Linux that computes as the image does with a GPU:
// unmodified llama.cpp and ggml-cuda, native/cudart and native/ucuda, and a gpud that listens on a
// socket. See main.cpp for its commands.
#ifndef CLLM_CUDART_PROGRAM_H
#define CLLM_CUDART_PROGRAM_H

// Connects to gpud and registers the backend. False, after a line on stderr, when that fails.
bool open_device(const char *socket);
void print_stats();

// exact: products with weights of every type, for activations that Q8 holds exactly. types: names
// with commas, or "" for all.
int exact_main(int columns, const char *types);
// tokens: greedy tokens of a model. layers: how many are on the device.
int tokens_main(const char *model, const char *prompt, int count, int layers);
// shim: errors, copies, graphs and products of native/cudart itself.
int shim_main();
// ops: upstream's tests/test-backend-ops.cpp, whose main() this is.
int backend_ops_main(int argc, char **argv);

#endif
