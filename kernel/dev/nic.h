// A head start for the network card, for the kernel and for the code that unpacks it.
#ifndef CLLM_DEV_NIC_H
#define CLLM_DEV_NIC_H

// Starts what takes a network card long, unless it was done. At any time after boot.
void nic_head_start(void);

#endif
