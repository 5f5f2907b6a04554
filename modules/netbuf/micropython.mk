# The `_netbuf` module: MicroPython bindings of native/netbuf.
NETBUF_MOD_DIR := $(USERMOD_DIR)

SRC_USERMOD_C += $(NETBUF_MOD_DIR)/modnetbuf.c
SRC_USERMOD_LIB_C += $(CLLM_TOP)/native/netbuf/netbuf.c
CFLAGS_USERMOD += -I$(CLLM_TOP)/native/netbuf
