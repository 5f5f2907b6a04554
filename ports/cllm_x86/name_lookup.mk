# Look-ups in dictionaries and sets: the functions of LOOKUP_C replace MicroPython's. The image's
# Makefile and the unix build for tests (micropython.mk) include this.
LOOKUP_C = name_lookup.c dict_methods.c set_lookup.c

LOOKUP_DIR := $(patsubst %/,%,$(dir $(abspath $(lastword $(MAKEFILE_LIST)))))

$(BUILD)/py/map.o: CFLAGS += $(foreach name,mp_map_init mp_map_deinit mp_map_clear \
	mp_set_init mp_set_lookup mp_set_remove_first mp_set_clear,-D$(name)=upstream_$(name))
$(BUILD)/py/objdict.o: CFLAGS += -include $(LOOKUP_DIR)/dict_methods.h
# name_lookup.c's function comes first and calls this one for all but plain methods.
$(BUILD)/py/runtime.o: CFLAGS += -Dmp_load_method=upstream_mp_load_method
