// The letters of the console: those that MicroPython has for its framebuf module.
#include "kernel/include/machine.h"

#include "extmod/font_petme128_8x8.h"

const uint8_t *const console_font = font_petme128_8x8;
