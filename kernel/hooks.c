// The one place where the kernel calls upwards: pointers that the application sets (machine.h).
#include "include/machine.h"

struct kernel_hooks kernel_hooks;
