# The `pci` module: MicroPython bindings of native/pci.
PCI_MOD_DIR := $(USERMOD_DIR)

SRC_USERMOD_C += $(PCI_MOD_DIR)/modpci.c
SRC_USERMOD_LIB_C += $(CLLM_TOP)/native/pci/pci.c
CFLAGS_USERMOD += -I$(CLLM_TOP)/native/pci
