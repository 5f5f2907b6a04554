// The port's side of native/ucuda.
#ifndef CLLM_UCUDA_PORT_H
#define CLLM_UCUDA_PORT_H

// Sets the hooks, once, before Python runs.
void ucuda_port_init(void);
// For a soft reset: frees everything on the GPU, and ends the connection.
void ucuda_port_reset(void);

#endif
