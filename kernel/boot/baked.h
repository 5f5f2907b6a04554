// The model inside the image's file.
#ifndef CLLM_BOOT_BAKED_H
#define CLLM_BOOT_BAKED_H

// Adds the model to the boot modules, if the file has one.
void baked_find(void);

#endif
