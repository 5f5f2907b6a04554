// _x86: what frozen drivers and boot code need of the machine. Argument conversion only;
// docs/architecture.md says who may use it.
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "py/mperrno.h"
#include "py/objarray.h"
#include "py/runtime.h"
#include "shared/runtime/pyexec.h"
#include "mpirq.h"

// modules() -> [(name, address, size)]: boot modules, address and size in bytes.
static mp_obj_t x86_modules(void) {
    mp_obj_t list = mp_obj_new_list(0, NULL);
    const struct boot_module *m;
    for (size_t i = 0; (m = boot_module(i)); i++) {
        mp_obj_t item[3] = {
            mp_obj_new_str(m->name, strlen(m->name)),
            mp_obj_new_int_from_ull(m->start),
            mp_obj_new_int_from_ull(m->size),
        };
        mp_obj_list_append(list, mp_obj_new_tuple(3, item));
    }
    return list;
}
static MP_DEFINE_CONST_FUN_OBJ_0(x86_modules_obj, x86_modules);

static const char *module_name(mp_obj_t name_in) {
    const char *name = mp_obj_str_get_str(name_in);
    if (!*name || strlen(name) >= BOOT_NAME_MAX || strchr(name, '/')) {
        mp_raise_ValueError(MP_ERROR_TEXT("no name of a module"));
    }
    return name;
}

// module(name, size) -> memoryview of contiguous memory, at the same physical and virtual address,
// for a module that a disk's driver fills. It becomes /boot/NAME by module_publish(name); until
// then module_release(name) or a soft reset frees it. OSError(ENOMEM), OSError(EEXIST).
static mp_obj_t x86_module_reserve(mp_obj_t name, mp_obj_t size_in) {
    uint64_t size = mp_obj_int_get_truncated(size_in), address;
    int err = module_reserve(module_name(name), size, &address);
    if (err) {
        mp_raise_OSError(-err);
    }
    return mp_obj_new_memoryview('B' | MP_OBJ_ARRAY_TYPECODE_FLAG_RW, (size_t)size,
        (void *)address);
}
static MP_DEFINE_CONST_FUN_OBJ_2(x86_module_reserve_obj, x86_module_reserve);

// module_publish(name): no one may write to the module's memory any more.
static mp_obj_t x86_module_publish(mp_obj_t name) {
    int err = module_publish(module_name(name));
    if (err) {
        mp_raise_OSError(-err);
    }
    return mp_const_none;
}
static MP_DEFINE_CONST_FUN_OBJ_1(x86_module_publish_obj, x86_module_publish);

// module_remove(name): frees the memory of a module that was published, and that no file or engine
// has open. OSError(ENOENT).
static mp_obj_t x86_module_remove(mp_obj_t name) {
    int err = module_remove(module_name(name));
    if (err) {
        mp_raise_OSError(-err);
    }
    return mp_const_none;
}
static MP_DEFINE_CONST_FUN_OBJ_1(x86_module_remove_obj, x86_module_remove);

// module_release(name): frees what module() returned. No device may write to it any more.
static mp_obj_t x86_module_release(mp_obj_t name) {
    module_release(module_name(name));
    return mp_const_none;
}
static MP_DEFINE_CONST_FUN_OBJ_1(x86_module_release_obj, x86_module_release);

// cmdline() -> str: the boot loader's command line.
static mp_obj_t x86_cmdline(void) {
    return mp_obj_new_str_from_cstr(boot_cmdline());
}
static MP_DEFINE_CONST_FUN_OBJ_0(x86_cmdline_obj, x86_cmdline);

// irq(line, callback): callback(line) runs from the scheduler after an interrupt of that line.
// The line stays masked until it returns, so it must acknowledge the device. None masks the line.
static mp_obj_t x86_irq(mp_obj_t line_in, mp_obj_t callback) {
    mp_int_t line = mp_obj_get_int(line_in);
    if (line < 0 || line >= MPIRQ_LINES) {
        mp_raise_ValueError(MP_ERROR_TEXT("no such interrupt line"));
    }
    mpirq_set((unsigned)line, callback);
    return mp_const_none;
}
static MP_DEFINE_CONST_FUN_OBJ_2(x86_irq_obj, x86_irq);

// irq_message(control) -> (line, address, data): a message for a device, masked until irq();
// `control` is the address of its vector control, in a mapping by mmio(), 0 where it has none.
// OSError when there is none left, or messages are switched off.
static mp_obj_t x86_irq_message(mp_obj_t control) {
    uint32_t address, data;
    int line = irq_take_message(mp_obj_int_get_truncated(control), &address, &data);
    if (line < 0) {
        mp_raise_OSError(-line);
    }
    mp_obj_t item[3] = {
        MP_OBJ_NEW_SMALL_INT(line),
        mp_obj_new_int_from_uint(address),
        MP_OBJ_NEW_SMALL_INT(data),
    };
    return mp_obj_new_tuple(3, item);
}
static MP_DEFINE_CONST_FUN_OBJ_1(x86_irq_message_obj, x86_irq_message);

// alarm(callback): callback(0) runs from the scheduler at the time that alarm_at() was given.
static mp_obj_t x86_alarm(mp_obj_t callback) {
    mpirq_set_alarm(callback);
    return mp_const_none;
}
static MP_DEFINE_CONST_FUN_OBJ_1(x86_alarm_obj, x86_alarm);

// alarm_at(ticks_ms): sets the one alarm, in place of the last setting; None disarms it.
static mp_obj_t x86_alarm_at(mp_obj_t at) {
    mp_int_t ms = at == mp_const_none ? 0 : mp_obj_get_int(at);
    mpirq_alarm_at(at == mp_const_none ? UINT64_MAX : ms < 0 ? 0 : (uint64_t)ms * 1000000);
    return mp_const_none;
}
static MP_DEFINE_CONST_FUN_OBJ_1(x86_alarm_at_obj, x86_alarm_at);

// set_time(ns): sets wall time and the CMOS clock, in nanoseconds since 1970-01-01 UTC. Ticks go on
// undisturbed.
static mp_obj_t x86_set_time(mp_obj_t ns) {
    clock_set_realtime((int64_t)mp_obj_int_get_truncated(ns));
    return mp_const_none;
}
static MP_DEFINE_CONST_FUN_OBJ_1(x86_set_time_obj, x86_set_time);

// step_time(ns): sets wall time only.
static mp_obj_t x86_step_time(mp_obj_t ns) {
    clock_step((int64_t)mp_obj_int_get_truncated(ns));
    return mp_const_none;
}
static MP_DEFINE_CONST_FUN_OBJ_1(x86_step_time_obj, x86_step_time);

// cmos_time() -> int or None: seconds since 1970 by the CMOS clock, which also runs while the
// machine is stopped; None without one. The difference that it had when the clock was last set is
// taken off.
static mp_obj_t x86_cmos_time(void) {
    int64_t seconds;
    return clock_cmos(&seconds) ? mp_obj_new_int_from_ll(seconds) : mp_const_none;
}
static MP_DEFINE_CONST_FUN_OBJ_0(x86_cmos_time_obj, x86_cmos_time);

// paused() -> int: milliseconds that ticks_ms() has left out so far because the machine stood
// still.
static mp_obj_t x86_paused(void) {
    return mp_obj_new_int_from_ull(clock_paused_ns() / 1000000);
}
static MP_DEFINE_CONST_FUN_OBJ_0(x86_paused_obj, x86_paused);

// wait(timeout_ms): runs pending callbacks, then sleeps until an interrupt or the timeout; None
// waits for an interrupt alone.
static mp_obj_t x86_wait(mp_obj_t timeout) {
    mp_int_t ms = timeout == mp_const_none ? -1 : mp_obj_get_int(timeout);
    if (ms < 0) {
        mp_event_wait_indefinite();
    } else {
        mp_event_wait_ms((mp_uint_t)ms);
    }
    mp_handle_pending(true);
    return mp_const_none;
}
static MP_DEFINE_CONST_FUN_OBJ_1(x86_wait_obj, x86_wait);

// dma_alloc(size, align) -> memoryview of zeroed memory below 4 GiB, contiguous, at the same
// physical and virtual address; kept until soft reset. OSError(ENOMEM) when there is none.
static mp_obj_t x86_dma_alloc(mp_obj_t size_in, mp_obj_t align_in) {
    mp_int_t size = mp_obj_get_int(size_in), align = mp_obj_get_int(align_in);
    if (size <= 0 || align <= 0 || (align & (align - 1))) {
        mp_raise_ValueError(NULL);
    }
    void *p = dma_alloc((size_t)size, (size_t)align);
    if (!p) {
        mp_raise_OSError(MP_ENOMEM);
    }
    return mp_obj_new_memoryview('B' | MP_OBJ_ARRAY_TYPECODE_FLAG_RW, (size_t)size, p);
}
static MP_DEFINE_CONST_FUN_OBJ_2(x86_dma_alloc_obj, x86_dma_alloc);

// ram_disk(size) -> memoryview of memory that outlives soft resets: the RAM file system's. The
// first call allocates `size` bytes, zeroed; every later one returns the same memory.
// OSError(ENOMEM) when there is not enough. By mmap(): calloc() would write zeros to all of it,
// and memory never written to takes none of a hypervisor's host.
static mp_obj_t x86_ram_disk(mp_obj_t size_in) {
    static void *memory;
    static size_t size;
    if (!memory) {
        mp_int_t wanted = mp_obj_get_int(size_in);
        if (wanted <= 0) {
            mp_raise_ValueError(NULL);
        }
        void *p =
            mmap(NULL, (size_t)wanted, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (p == MAP_FAILED) {
            mp_raise_OSError(errno);
        }
        memory = p;
        size = (size_t)wanted;
    }
    return mp_obj_new_memoryview('B' | MP_OBJ_ARRAY_TYPECODE_FLAG_RW, size, memory);
}
static MP_DEFINE_CONST_FUN_OBJ_1(x86_ram_disk_obj, x86_ram_disk);

// mmio(address, size) -> address of an uncached mapping of device registers. ValueError for a
// range that holds RAM.
static mp_obj_t x86_mmio(mp_obj_t address_in, mp_obj_t size_in) {
    uint64_t address = mp_obj_int_get_truncated(address_in);
    uint64_t size = mp_obj_int_get_truncated(size_in);
    int err = mmio_map(address, size);
    if (err == -EEXIST) {
        mp_raise_ValueError(MP_ERROR_TEXT("address range holds RAM"));
    }
    if (err == -EINVAL) {
        mp_raise_ValueError(NULL);
    }
    if (err) {
        mp_raise_OSError(-err);
    }
    return mp_obj_new_int_from_ull(address);
}
static MP_DEFINE_CONST_FUN_OBJ_2(x86_mmio_obj, x86_mmio);

// Registers that x86_reset_devices() writes. One of a device that is started again is here once.
static uint64_t to_reset[32];
static size_t n_to_reset;

// at_reset(address): a soft reset writes 0 to this mapped register of 32 bits before it frees DMA
// memory. For devices off the PCI bus, which pci_quiesce() does not reach.
static mp_obj_t x86_at_reset(mp_obj_t address_in) {
    uint64_t address = mp_obj_int_get_truncated(address_in);
    for (size_t i = 0; i < n_to_reset; i++) {
        if (to_reset[i] == address) {
            return mp_const_none;
        }
    }
    if (n_to_reset == MP_ARRAY_SIZE(to_reset)) {
        mp_raise_OSError(MP_ENOMEM);
    }
    to_reset[n_to_reset++] = address;
    return mp_const_none;
}
static MP_DEFINE_CONST_FUN_OBJ_1(x86_at_reset_obj, x86_at_reset);

void x86_reset_devices(void) {
    while (n_to_reset) {
        *(volatile uint32_t *)to_reset[--n_to_reset] = 0;
    }
}

// exit(code): ends the machine; under QEMU with isa-debug-exit the status is code << 1 | 1.
static mp_obj_t x86_exit(mp_obj_t code) {
    machine_exit((int)mp_obj_get_int(code));
}
static MP_DEFINE_CONST_FUN_OBJ_1(x86_exit_obj, x86_exit);

// cpu_count() -> int: cores that run.
static mp_obj_t x86_cpu_count(void) {
    return MP_OBJ_NEW_SMALL_INT(cpu_count());
}
static MP_DEFINE_CONST_FUN_OBJ_0(x86_cpu_count_obj, x86_cpu_count);

// memory() -> (total, free, mapped): bytes of RAM, of unused frames, and behind mmap.
static mp_obj_t x86_memory(void) {
    mp_obj_t item[3] = {
        mp_obj_new_int_from_ull(memory_total()),
        mp_obj_new_int_from_ull(memory_free()),
        mp_obj_new_int_from_ull(memory_mapped()),
    };
    return mp_obj_new_tuple(3, item);
}
static MP_DEFINE_CONST_FUN_OBJ_0(x86_memory_obj, x86_memory);

// repl_start(): prints the REPL's banner or the raw REPL's, as MicroPython does after a reset.
static mp_obj_t x86_repl_start(void) {
    pyexec_event_repl_init();
    return mp_const_none;
}
static MP_DEFINE_CONST_FUN_OBJ_0(x86_repl_start_obj, x86_repl_start);

// repl_char(c) -> bool: gives the REPL one character, which may run a line; True asks for a soft
// reset.
static mp_obj_t x86_repl_char(mp_obj_t c) {
    int byte = mp_obj_get_int(c);
    watchdog_hold(WATCHDOG_LOOP, true);
    cllm_print_whole(true);
    bool reset = pyexec_event_repl_process_char(byte);
    cllm_print_whole(false);
    watchdog_hold(WATCHDOG_LOOP, false);
    return mp_obj_new_bool(reset);
}
static MP_DEFINE_CONST_FUN_OBJ_1(x86_repl_char_obj, x86_repl_char);

// modcrash.c
MP_DECLARE_CONST_FUN_OBJ_1(x86_watchdog_obj);
MP_DECLARE_CONST_FUN_OBJ_0(x86_watchdog_feed_obj);
MP_DECLARE_CONST_FUN_OBJ_1(x86_boot_phase_obj);
MP_DECLARE_CONST_FUN_OBJ_0(x86_boot_phases_obj);
MP_DECLARE_CONST_FUN_OBJ_2(x86_status_obj);
#if CLLM_SELFTEST
// selftest/modselftest.c
MP_DECLARE_CONST_FUN_OBJ_VAR_BETWEEN(x86_crash_obj);
MP_DECLARE_CONST_FUN_OBJ_2(x86_stress_obj);
#endif

static const mp_rom_map_elem_t x86_globals_table[] = {
    {MP_ROM_QSTR(MP_QSTR___name__), MP_ROM_QSTR(MP_QSTR__x86)},
    {MP_ROM_QSTR(MP_QSTR_modules), MP_ROM_PTR(&x86_modules_obj)},
    {MP_ROM_QSTR(MP_QSTR_module), MP_ROM_PTR(&x86_module_reserve_obj)},
    {MP_ROM_QSTR(MP_QSTR_module_publish), MP_ROM_PTR(&x86_module_publish_obj)},
    {MP_ROM_QSTR(MP_QSTR_module_remove), MP_ROM_PTR(&x86_module_remove_obj)},
    {MP_ROM_QSTR(MP_QSTR_module_release), MP_ROM_PTR(&x86_module_release_obj)},
    {MP_ROM_QSTR(MP_QSTR_cmdline), MP_ROM_PTR(&x86_cmdline_obj)},
    {MP_ROM_QSTR(MP_QSTR_irq), MP_ROM_PTR(&x86_irq_obj)},
    {MP_ROM_QSTR(MP_QSTR_irq_message), MP_ROM_PTR(&x86_irq_message_obj)},
    {MP_ROM_QSTR(MP_QSTR_alarm), MP_ROM_PTR(&x86_alarm_obj)},
    {MP_ROM_QSTR(MP_QSTR_alarm_at), MP_ROM_PTR(&x86_alarm_at_obj)},
    {MP_ROM_QSTR(MP_QSTR_set_time), MP_ROM_PTR(&x86_set_time_obj)},
    {MP_ROM_QSTR(MP_QSTR_step_time), MP_ROM_PTR(&x86_step_time_obj)},
    {MP_ROM_QSTR(MP_QSTR_cmos_time), MP_ROM_PTR(&x86_cmos_time_obj)},
    {MP_ROM_QSTR(MP_QSTR_paused), MP_ROM_PTR(&x86_paused_obj)},
    {MP_ROM_QSTR(MP_QSTR_wait), MP_ROM_PTR(&x86_wait_obj)},
    {MP_ROM_QSTR(MP_QSTR_dma_alloc), MP_ROM_PTR(&x86_dma_alloc_obj)},
    {MP_ROM_QSTR(MP_QSTR_ram_disk), MP_ROM_PTR(&x86_ram_disk_obj)},
    {MP_ROM_QSTR(MP_QSTR_mmio), MP_ROM_PTR(&x86_mmio_obj)},
    {MP_ROM_QSTR(MP_QSTR_at_reset), MP_ROM_PTR(&x86_at_reset_obj)},
    {MP_ROM_QSTR(MP_QSTR_exit), MP_ROM_PTR(&x86_exit_obj)},
    {MP_ROM_QSTR(MP_QSTR_cpu_count), MP_ROM_PTR(&x86_cpu_count_obj)},
    {MP_ROM_QSTR(MP_QSTR_memory), MP_ROM_PTR(&x86_memory_obj)},
    {MP_ROM_QSTR(MP_QSTR_repl_start), MP_ROM_PTR(&x86_repl_start_obj)},
    {MP_ROM_QSTR(MP_QSTR_repl_char), MP_ROM_PTR(&x86_repl_char_obj)},
    {MP_ROM_QSTR(MP_QSTR_watchdog), MP_ROM_PTR(&x86_watchdog_obj)},
    {MP_ROM_QSTR(MP_QSTR_watchdog_feed), MP_ROM_PTR(&x86_watchdog_feed_obj)},
    {MP_ROM_QSTR(MP_QSTR_boot_phase), MP_ROM_PTR(&x86_boot_phase_obj)},
    {MP_ROM_QSTR(MP_QSTR_boot_phases), MP_ROM_PTR(&x86_boot_phases_obj)},
    {MP_ROM_QSTR(MP_QSTR_status), MP_ROM_PTR(&x86_status_obj)},
#if CLLM_SELFTEST
    {MP_ROM_QSTR(MP_QSTR_crash), MP_ROM_PTR(&x86_crash_obj)},
    {MP_ROM_QSTR(MP_QSTR_stress), MP_ROM_PTR(&x86_stress_obj)},
#endif
};
static MP_DEFINE_CONST_DICT(x86_globals, x86_globals_table);

const mp_obj_module_t x86_module = {
    .base = {&mp_type_module},
    .globals = (mp_obj_dict_t *)&x86_globals,
};
MP_REGISTER_MODULE(MP_QSTR__x86, x86_module);
