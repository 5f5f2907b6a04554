// Stopping the other cores, for the end of the machine.
#include "cpu/stop.h"

#include "cpu/apic.h"
#include "cpu/cpu.h"
#include "cpu/thread.h"

#define STOP_NS 200000000u

static volatile bool stopping;
static volatile unsigned n_stopped;

void stop_others(void) {
    stopping = true;
    if (n_cpus > 1) {
        // Wait until they cannot write over the report any more and have kept what they ran. A core
        // that does not answer is dead itself, or a virtual one that its host does not run.
        apic_send_nmi_others();
        uint64_t deadline = clock_ns() + STOP_NS;
        while (n_stopped < n_cpus - 1 && clock_ns() < deadline) {
            __builtin_ia32_pause();
        }
    }
}

bool stop_is_under_way(void) {
    return stopping;
}

void stop_this(const struct trap_frame *f) {
    thread_keep_main_frame(f);
    __atomic_fetch_add(&n_stopped, 1, __ATOMIC_SEQ_CST);
    for (;;) {
        __asm__ volatile("cli; hlt");
    }
}
