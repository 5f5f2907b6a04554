// The console's side that only the kernel sees; the rest is in machine.h.
#ifndef CLLM_DEV_CONSOLE_H
#define CLLM_DEV_CONSOLE_H

#include "include/machine.h"

void console_init(void);
// Shows everything on bootinfo.framebuffer from now on. False where there is none to use.
bool console_use_framebuffer(void);
bool console_has_screen(void);
// Turns receive interrupts on.
void console_enable_irq(void);
// As console_write(), with "\n" sent as "\r\n".
void console_write_text(const char *s, size_t n);
// The same from a non-maskable interrupt, which may have interrupted a writer: then it fails.
bool console_try_write_text(const char *s, size_t n);
// Copies the last bytes written, oldest first, up to `size`; returns how many.
size_t console_log(char *buf, size_t size);
// A death: from here on output goes out at once, even while another core holds the console, and the
// screen does not scroll, because the first lines explain the death.
void console_panic(void);

#endif
