# The `_engine` module: MicroPython bindings of native/engine. What they call is not compiled here:
# the port links the archives that build/native/libs.txt lists.
ENGINE_MOD_DIR := $(USERMOD_DIR)

SRC_USERMOD_C += $(ENGINE_MOD_DIR)/modengine.c
CFLAGS_USERMOD += -I$(CLLM_TOP)/native/engine
