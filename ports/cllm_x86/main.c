// The application: MicroPython's life from reset to soft reset. musl starts it like any program.
#include <stdlib.h>

#include "py/builtin.h"
#include "py/compile.h"
#include "py/gc.h"
#include "py/mphal.h"
#include "py/pystack.h"
#include "py/runtime.h"
#include "py/cstack.h"
#include "shared/readline/readline.h"
#include "shared/runtime/gchelper.h"
#include "shared/runtime/pyexec.h"
#include "shared/runtime/softtimer.h"
#include "native/pci/pci.h"
#include "execmem.h"
#include "mpirq.h"
#include "pyframe.h"
#include "ucuda_port.h"
#include "waiting_port.h"

#define HEAP_SIZE (4 * MiB)         // first area; MICROPY_GC_SPLIT_HEAP_AUTO adds more
#define PYTHON_STACK_SIZE (1 * MiB) // of the process's stack; the rest is for C++ below Python
// For locals and operands of running functions. Without MICROPY_ENABLE_PYSTACK, every call with
// more than 11 words of them would allocate on the heap. A call's C frames are larger than these
// words, so the process's stack runs out first, and reports it as RuntimeError.
#define PYSTACK_SIZE (1 * MiB)

const char cllm_help_text[] =
    "cllm: MicroPython serving language models on the bare machine.\n"
    "\n"
    "  from cllm import app, llm     the running server and its model\n"
    "  @app.get('/path/<name>')      adds a route, live\n"
    "  help('modules')               lists what can be imported\n"
    "  CTRL-A raw REPL, CTRL-B friendly REPL, CTRL-C interrupt, CTRL-D soft reset, "
    "CTRL-E paste mode\n";

// Feeds the REPL until CTRL-D at an empty prompt. The server's loop does the same from Python
// (frozen/boot/main.py); this one runs after main.py ended, failed, or was skipped for the raw
// REPL.
static void repl(void) {
    pyexec_event_repl_init();
    while (!pyexec_event_repl_process_char(mp_hal_stdin_rx_chr())) {
    }
}

static char pystack[PYSTACK_SIZE] __attribute__((aligned(MICROPY_PYSTACK_ALIGN)));

static void run_python(void) {
    void *heap = malloc(HEAP_SIZE);
    if (!heap) {
        panic("no memory for Python's heap");
    }
    gc_init(heap, (char *)heap + HEAP_SIZE);
    mp_pystack_init(pystack, pystack + sizeof(pystack));
    mp_init();
    readline_init0();
    mpirq_init();

    pyexec_frozen_module("_boot.py", false);
    // On the RAM file system, which outlives soft resets: a script may put it there.
    pyexec_file_if_exists("/boot.py");
    pyexec_file_if_exists("/flash/boot.py");
    boot_phase("python");
    int exit = 0;
    if (pyexec_mode_kind == PYEXEC_MODE_FRIENDLY_REPL) {
        exit = pyexec_frozen_module("main.py", false);
    }
    watchdog_start(WATCHDOG_LOOP, NULL, 0); // the loop has ended
    if (!(exit & PYEXEC_FORCED_EXIT)) {
        repl();
    }

    mp_printf(MP_PYTHON_PRINTER, "MPY: soft reboot\n");
    boot_phases_restart();
    soft_timer_deinit();
    mpirq_deinit();
    pci_quiesce();
    x86_reset_devices();
    dma_free_all();
    module_release(NULL);
    gc_sweep_all();
    mp_deinit();
    ucuda_port_reset();
    execmem_free_all();
    free(heap);
}

// Uses configuration space in memory, which has more of it than the ports and needs no lock.
static void find_pci(void) {
    const struct boot_ecam *e = boot_ecam();
    if (e && !mmio_map(e->address + e->first * MiB, (e->last - e->first + 1) * MiB)) {
        pci_use_memory(e->address, e->first, e->last);
    }
}

int main(int argc, char **argv) {
    boot_phase("libc");
    kernel_hooks.interpreter_return = vm_entry_return;
    kernel_hooks.describe_frame = pyframe_describe;
    waiting_port_init();
    find_pci();
    ucuda_port_init();
    mp_cstack_init_with_sp_here(PYTHON_STACK_SIZE);
    for (;;) {
        run_python();
    }
}

void gc_collect(void) {
    gc_collect_start();
    gc_helper_collect_regs_and_stack();
    execmem_collect();
    soft_timer_gc_mark_all();
    gc_collect_end();
}

// The largest further heap area. The rest is left for the engine, which a script's mistake would
// otherwise stop too.
size_t gc_get_max_new_split(void) {
    return memory_free() / 4 * 3;
}

void nlr_jump_fail(void *val) {
    panic("uncaught Python exception outside any handler (%p)", val);
}
