# The `_jsonio` module: MicroPython bindings of native/json.
JSON_MOD_DIR := $(USERMOD_DIR)

SRC_USERMOD_C += $(JSON_MOD_DIR)/modjsonio.c
SRC_USERMOD_LIB_C += $(CLLM_TOP)/native/json/read.c $(CLLM_TOP)/native/json/write.c
CFLAGS_USERMOD += -I$(CLLM_TOP)/native/json -I$(JSON_MOD_DIR)
