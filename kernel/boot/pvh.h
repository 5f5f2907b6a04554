// The PVH adapter: Xen's direct boot, which QEMU, Firecracker and cloud-hypervisor offer too.
#ifndef CLLM_BOOT_PVH_H
#define CLLM_BOOT_PVH_H

#define PVH_MAGIC 0x336EC578 // also what the entry passes on in place of a loader's magic

#ifndef __ASSEMBLER__
#include <stdint.h>

// Fills `bootinfo` from a struct hvm_start_info.
void pvh_parse(uint32_t info);
#endif

#endif
