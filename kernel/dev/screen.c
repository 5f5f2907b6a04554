// What the screen shows, in cells of a character and a colour, whatever draws them.
// Source: IBM VGA text mode, CRTC registers 0Eh and 0Fh.
#include "dev/screen.h"

#include "cpu/io.h"
#include "dev/framebuffer.h"

#define VGA ((volatile uint16_t *)0xB8000)
#define COLUMNS FRAMEBUFFER_COLUMNS
#define ROWS FRAMEBUFFER_ROWS
#define LOG_ROWS (ROWS - CONSOLE_STATUS)
#define ATTR_LOG 0x0700    // light grey on black
#define ATTR_CURSOR 0x7000 // the other way round
#define ATTR_STATUS 0x1F00 // white on blue
#define ATTR_DEATH 0x4F00  // white on red

static bool have_vga, have_framebuffer, panicking;

static uint16_t status[CONSOLE_STATUS][COLUMNS];
// The scrolling part: a ring of rows, the first shown is `top`.
static uint16_t rows[LOG_ROWS][COLUMNS];
static unsigned top, row, column;

// What the framebuffer shows, and from which row on that may be out of date.
static uint16_t shown[ROWS][COLUMNS];
static unsigned dirty;

static void clear_row(unsigned r) {
    for (unsigned i = 0; i < COLUMNS; i++) {
        rows[r][i] = ATTR_LOG | ' ';
    }
}

void screen_status(unsigned line, const char *s, size_t n) {
    if (line >= CONSOLE_STATUS) {
        return;
    }
    for (unsigned i = 0; i < COLUMNS; i++) {
        char c = i && i <= n ? s[i - 1] : ' '; // a blank in front looks better
        uint8_t printable = (uint8_t)c < 32 || (uint8_t)c > 126 ? '?' : (uint8_t)c;
        status[line][i] = (uint16_t)((panicking ? ATTR_DEATH : ATTR_STATUS) | printable);
    }
    dirty = 0;
}

// The memory alone says nothing: a chipset may have RAM there. The cursor's registers keep what is
// written to them.
static bool is_vga(void) {
    VGA[0] = ATTR_LOG | ' ';
    outb(0x3D4, 0x0F);
    outb(0x3D5, 0x5A);
    return VGA[0] == (ATTR_LOG | ' ') && inb(0x3D4) == 0x0F && inb(0x3D5) == 0x5A;
}

void screen_init(void) {
    have_vga = is_vga();
    for (unsigned r = 0; r < LOG_ROWS; r++) {
        clear_row(r);
    }
    for (unsigned i = 0; i < CONSOLE_STATUS; i++) {
        screen_status(i, "", 0);
    }
}

bool screen_use_framebuffer(void) {
    have_framebuffer = framebuffer_init();
    have_vga &= !have_framebuffer; // its text is not what the monitor shows
    dirty = 0;
    return have_framebuffer;
}

bool screen_is_there(void) {
    return have_vga || have_framebuffer;
}

void screen_put(char c) {
    if (c == '\r') {
        column = 0;
    } else if (c == '\b') {
        column -= column > 0;
    } else if (c != '\n' && ((uint8_t)c < 32 || (uint8_t)c > 126)) {
        return; // control sequences are for the serial terminal
    } else {
        if (c == '\n' || column == COLUMNS) {
            if (row + 1 < LOG_ROWS) {
                row++;
            } else if (panicking) {
                return;
            } else {
                clear_row(top);
                top = (top + 1) % LOG_ROWS;
            }
            column = 0;
        }
        if (c != '\n') {
            rows[(top + row) % LOG_ROWS][column++] = (uint16_t)(ATTR_LOG | (uint8_t)c);
        }
    }
    dirty = 0;
}

static const uint16_t *cells_of(unsigned r) {
    return r < CONSOLE_STATUS ? status[r] : rows[(top + r - CONSOLE_STATUS) % LOG_ROWS];
}

static void show_vga(void) {
    for (; dirty < ROWS; dirty++) {
        const uint16_t *cells = cells_of(dirty);
        for (unsigned i = 0; i < COLUMNS; i++) {
            VGA[dirty * COLUMNS + i] = cells[i];
        }
    }
    unsigned at = (CONSOLE_STATUS + row) * COLUMNS + (column < COLUMNS ? column : COLUMNS - 1);
    outb(0x3D4, 0x0E);
    outb(0x3D5, (uint8_t)(at >> 8));
    outb(0x3D4, 0x0F);
    outb(0x3D5, (uint8_t)at);
}

// Draws the cells of a row that have changed, the cursor among them. Returns whether there were
// any.
static bool draw_row(unsigned r) {
    const uint16_t *cells = cells_of(r);
    bool any = false;
    for (unsigned i = 0; i < COLUMNS; i++) {
        bool is_cursor = r == CONSOLE_STATUS + row && i == column;
        uint16_t cell = is_cursor ? (cells[i] & 0xFF) | ATTR_CURSOR : cells[i];
        if (shown[r][i] != cell) {
            shown[r][i] = cell;
            framebuffer_draw(r, i, cell);
            any = true;
        }
    }
    return any;
}

bool screen_show(bool all) {
    if (have_vga) {
        show_vga();
    } else if (have_framebuffer) {
        bool drawn = false;
        while (dirty < ROWS && (all || !drawn)) {
            drawn = draw_row(dirty++);
        }
        return dirty < ROWS;
    }
    return false;
}

void screen_panic(void) {
    panicking = true;
    for (unsigned r = 0; r < LOG_ROWS; r++) {
        clear_row(r);
    }
    top = row = column = 0;
    dirty = 0;
}
