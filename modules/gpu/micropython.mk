# The `gpu` module: MicroPython bindings of native/ucuda and native/nvprobe.
GPU_MOD_DIR := $(USERMOD_DIR)

SRC_USERMOD_C += $(addprefix $(GPU_MOD_DIR)/,modgpu.c gpu_call.c gpu_memory.c gpu_kernel.c \
	gpu_probe.c)
SRC_USERMOD_LIB_C += $(CLLM_TOP)/native/waiting/worker.c $(CLLM_TOP)/native/nvprobe/find.c \
	$(addprefix $(CLLM_TOP)/native/ucuda/,ring.c heap.c calls.c copies.c ivshm.c)
CFLAGS_USERMOD += $(addprefix -I$(CLLM_TOP)/native/,ucuda waiting nvprobe)
