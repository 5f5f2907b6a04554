// The table of waiting.h; all of it is null until the port has set it.
#include "waiting.h"

struct waiting_hooks waiting_hooks;
