// How Python's thread sleeps while other threads work for it. The port sets the hooks at boot, C
// modules call them, so a module needs neither port nor kernel. MicroPython's own
// mp_event_wait_indefinite() does not fit: it may run Python code between the caller's last look
// and the sleep, and it has no counterpart that ends the sleep from another thread.
#ifndef CLLM_WAITING_H
#define CLLM_WAITING_H

struct waiting_hooks {
    // On Python's thread: sleeps until an interrupt or wake(). Returns at once if one of them came
    // since the last call, or if MicroPython's scheduler has work pending.
    void (*sleep)(void);
    // From any thread: ends the current sleep(), or the next one.
    void (*wake)(void);
    // From any thread: work makes progress, so the event loop's watchdog starts counting anew.
    void (*progress)(void);
};
extern struct waiting_hooks waiting_hooks;

#endif
