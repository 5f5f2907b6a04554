// Text on a framebuffer: 25 rows of 80 characters, as large as the screen allows.
#ifndef CLLM_DEV_FRAMEBUFFER_H
#define CLLM_DEV_FRAMEBUFFER_H

#include <stdbool.h>
#include <stdint.h>

#define FRAMEBUFFER_COLUMNS 80
#define FRAMEBUFFER_ROWS 25

// Blackens bootinfo.framebuffer. False when there is none that can be used.
bool framebuffer_init(void);
// Draws a cell as VGA has it: the character, then the colours of letter and background.
void framebuffer_draw(unsigned row, unsigned column, uint16_t cell);

#endif
