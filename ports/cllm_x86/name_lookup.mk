# Look-ups in dictionaries and sets: functions of MicroPython's that are replaced by those of
# LOOKUP_C. Included by the image's Makefile and by the unix build for tests (micropython.mk).
LOOKUP_C = name_lookup.c dict_methods.c set_lookup.c

LOOKUP_DIR := $(patsubst %/,%,$(dir $(abspath $(lastword $(MAKEFILE_LIST)))))

$(BUILD)/py/map.o: CFLAGS += $(foreach name,mp_map_init mp_map_deinit mp_map_clear \
	mp_set_init mp_set_lookup mp_set_remove_first mp_set_clear,-D$(name)=upstream_$(name))
$(BUILD)/py/objdict.o: CFLAGS += -include $(LOOKUP_DIR)/dict_methods.h
# Found by name_lookup.c, which comes here for what is not plain.
$(BUILD)/py/runtime.o: CFLAGS += -Dmp_load_method=upstream_mp_load_method
