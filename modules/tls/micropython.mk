# The `_tls` module: MicroPython bindings of native/tls, whose archives come with native's others.
TLS_MOD_DIR := $(USERMOD_DIR)

SRC_USERMOD_C += $(TLS_MOD_DIR)/modtls.c
CFLAGS_USERMOD += -I$(CLLM_TOP)/native/tls
