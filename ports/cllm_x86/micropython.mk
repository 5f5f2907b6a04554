# The unix build of MicroPython, which tests use, has the image's dictionaries and sets: this
# folder is a "user C module" there.
include $(USERMOD_DIR)/name_lookup.mk

SRC_USERMOD_C += $(addprefix $(USERMOD_DIR)/,$(LOOKUP_C))
CFLAGS_USERMOD += -DMICROPY_OPT_MAP_LOOKUP_CACHE=0 '-DMICROPY_WRAP_MP_MAP_LOOKUP(f)=upstream_\#\#f'
