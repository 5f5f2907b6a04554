// The port's side of native/waiting.
#ifndef CLLM_WAITING_PORT_H
#define CLLM_WAITING_PORT_H

// Sets the hooks, once, before Python runs.
void waiting_port_init(void);

#endif
