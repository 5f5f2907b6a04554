// The kernel's table of contents: every part in the order it comes up, then the application (musl,
// MicroPython, llama.cpp), which runs in the same ring and address space.
#include "boot/acpi.h"
#include "boot/bootinfo.h"
#include "boot/multiboot.h"
#include "boot/multiboot2.h"
#include "boot/pmem.h"
#include "boot/pvh.h"
#include "cpu/cpu.h"
#include "cpu/irq.h"
#include "cpu/smp.h"
#include "cpu/tables.h"
#include "cpu/thread.h"
#include "cpu/tsc.h"
#include "crash.h"
#include "dev/button.h"
#include "dev/calendar.h"
#include "dev/console.h"
#include "dev/nic.h"
#include "linux/process.h"
#include "mm/paging.h"
#include "mm/phys.h"
#include "print.h"

extern char __image_start[], __bss_end[]; // link.ld

static void read_boot_information(uint32_t magic, uint32_t info) {
    if (magic == PVH_MAGIC) {
        pvh_parse(info);
    } else if (magic == MULTIBOOT2_LOADER_MAGIC) {
        if (!multiboot2_parse((const void *)(uintptr_t)info, 4 * GiB - info)) {
            panic("boot: the loader's information has no tags");
        }
    } else {
        multiboot_parse(magic, info);
    }
}

static void log_processor(void) {
    char title[80];
    klog("cllm " CLLM_VERSION ": %s, %s, TSC %lu MHz by %s", bootinfo.protocol, cpu_brand(),
        clock_tsc_hz() / 1000000, tsc_measured_by());
    console_status(0, title, ksnprintf(title, sizeof(title), "cllm on %s", cpu_brand()));
}

static void log_console(void) {
    const struct boot_framebuffer *f = &bootinfo.framebuffer;
    if (f->address) {
        klog("console: a screen of %u x %u pixels at %lx", f->width, f->height, f->address);
    } else if (!console_has_screen()) {
        klog("console: no screen");
    }
}

static void log_memory(void) {
    uint64_t start = (uint64_t)__image_start, size = (uint64_t)(__bss_end - __image_start);
    if (!bootinfo_is_ram(start, size)) {
        klog("mm: the image, %lu KiB at %lx, lies in memory that the firmware keeps", size / KiB,
            start);
    }
    klog("mm: %lu MiB of RAM, %lu MiB free", memory_total() / MiB, memory_free() / MiB);
    for (size_t i = 0; i < bootinfo.n_modules; i++) {
        const struct boot_module *m = &bootinfo.modules[i];
        klog("boot: module %s, %lu KiB at %lx", m->name, m->size / KiB, m->start);
    }
}

static void log_cores(void) {
    klog("smp: %u of %lu cores", n_cpus, bootinfo.n_cpus ? bootinfo.n_cpus : 1);
}

static void find_interrupts(void) {
    bool has_pic;
    size_t n = irq_find_controllers(&has_pic);
    klog("irq: %s, %lu inputs of I/O APICs", has_pic ? "8259s" : "no 8259s", n);
}

// boot/multiboot_entry.S calls this, in long mode, on the boot page tables, with interrupts off.
void kernel_start(uint32_t magic, uint32_t info) {
    boot_phase("firmware and loader");
    nic_head_start();
    console_init();
    cpu_init();
    irq_init();
    read_boot_information(magic, info);
    console_use_framebuffer();
    pmem_parse();
    acpi_parse();
    boot_phase("kernel");
    tsc_init();
    calendar_init();
    boot_phase("clock calibration");
    log_processor();
    log_console();
    phys_init();
    paging_init();
    pmem_map();
    boot_phase("memory");
    log_memory();
    crash_init();
    thread_init();
    smp_start();
    boot_phase("cores");
    log_cores();
    find_interrupts();
    button_init();
    console_enable_irq();
    cpu_enable_interrupts();
    process_start();
}
