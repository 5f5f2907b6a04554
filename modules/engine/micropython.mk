# The `_engine` module: MicroPython bindings of native/engine. What they call is not compiled here:
# the port links the archives that build/native/libs.txt lists.
ENGINE_MOD_DIR := $(USERMOD_DIR)

SRC_USERMOD_C += $(addprefix $(ENGINE_MOD_DIR)/,modengine.c engine_type.c engine_compute.c \
	engine_text.c engine_state.c sampler_type.c chat_type.c job_type.c)
SRC_USERMOD_LIB_C += $(CLLM_TOP)/native/waiting/waiting.c
CFLAGS_USERMOD += -I$(CLLM_TOP)/native/engine -I$(CLLM_TOP)/native/waiting
