// The port's side of native/ucuda.
#ifndef CLLM_UCUDA_PORT_H
#define CLLM_UCUDA_PORT_H

// Sets the hooks, once, before Python runs.
void ucuda_port_init(void);
// For the end of a soft reset: frees everything on the GPU.
void ucuda_port_reset(void);

#endif
