// The screen: lines of status above lines of log, on VGA's text screen or on a framebuffer. The
// console's lock guards every call.
#ifndef CLLM_DEV_SCREEN_H
#define CLLM_DEV_SCREEN_H

#include "include/machine.h"

// Looks for VGA's text screen.
void screen_init(void);
// Draws on bootinfo.framebuffer from now on. False where the kernel cannot use it.
bool screen_use_framebuffer(void);
bool screen_is_there(void);
// Writes a character into the log. Control sequences are left out.
void screen_put(char c);
void screen_status(unsigned line, const char *s, size_t n);
// Shows what has changed: `all`, or about as much as takes 0.2 ms. Returns whether more is left.
bool screen_show(bool all);
// A death: status turns red, and the log begins anew and does not scroll.
void screen_panic(void);

#endif
