# Compiles the kernel: a set of objects, KERNEL_O, for whoever links an image. It needs no file from
# outside this folder. The makefile that includes this one sets:
#   BUILD  where objects go: $(BUILD)/kernel/
#   CC     the compiler
#   CLLM_VERSION, VERSION_FILE   the version that the first line of the log shows, and its file
KERNEL_DIR := $(patsubst %/,%,$(dir $(abspath $(lastword $(MAKEFILE_LIST)))))

KERNEL_C = start.c print.c phases.c hooks.c cmdline.c crash.c backtrace.c symbols.c watchdog.c \
	$(addprefix boot/,acpi.c acpi_power.c bootinfo.c madt.c multiboot.c multiboot2.c pmem.c pvh.c \
	reach.c) \
	$(addprefix cpu/,alarm.c apic.c calibrate.c cpu.c flush.c frequency.c ioapic.c irq.c pic.c \
	random.c sched.c smp.c stop.c tables.c thread.c trap.c tsc.c vectors.c wait.c) \
	$(addprefix dev/,button.c calendar.c console.c framebuffer.c nic.c power.c screen.c) \
	$(addprefix mm/,dma.c mmio.c module.c paging.c phys.c vm.c) \
	$(addprefix linux/,file.c futex.c process.c signal.c stderr.c syscalls.c thread.c time.c)
KERNEL_S = boot/initial.S boot/multiboot_entry.S boot/pvh_entry.S cpu/ap_entry.S cpu/entry.S \
	linux/enter.S

# General registers only: a trap then saves no vector state. zig ignores -mgeneral-regs-only,
# because it always spells out the processor's features; taking them away does work.
GENERAL_REGS = -mcpu=x86_64-x87-mmx-sse-sse2+soft_float
KERNEL_FLAGS = -I$(KERNEL_DIR) -DCLLM_VERSION=\"$(CLLM_VERSION)\" \
	-std=gnu11 -O2 -DNDEBUG -g $(GENERAL_REGS) -mno-red-zone \
	-ffreestanding -fno-builtin -fno-omit-frame-pointer -fno-stack-protector \
	-fno-sanitize=undefined -fno-pic -fno-pie -ffunction-sections -fdata-sections \
	-Wall -Wextra -Wno-unused-parameter -Wno-missing-field-initializers -Wno-sign-compare

KERNEL_O = $(addprefix $(BUILD)/kernel/,$(KERNEL_C:.c=.o) $(KERNEL_S:.S=.o))

define compile_kernel
@echo "CC kernel/$(patsubst $(KERNEL_DIR)/%,%,$<)"
@mkdir -p $(dir $@)
@$(CC) $(KERNEL_FLAGS) -c -MD -MP -MF $(@:.o=.d) -o $@ $<
endef

$(BUILD)/kernel/%.o: $(KERNEL_DIR)/%.c $(KERNEL_DIR)/kernel.mk
	$(compile_kernel)

$(BUILD)/kernel/%.o: $(KERNEL_DIR)/%.S $(KERNEL_DIR)/kernel.mk
	$(compile_kernel)

$(BUILD)/kernel/start.o: $(VERSION_FILE)

-include $(KERNEL_O:.o=.d)
