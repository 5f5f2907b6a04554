// MicroPython's configuration for cllm on x86-64: the "extra features" level with double floats,
// native code, VFS, and network modules that are frozen Python instead of C.
#include <alloca.h>
#include <stdint.h>

#define MICROPY_CONFIG_ROM_LEVEL (MICROPY_CONFIG_ROM_LEVEL_EXTRA_FEATURES)

// --- machine types
#define MP_SSIZE_MAX INT64_MAX
typedef intptr_t mp_int_t;
typedef uintptr_t mp_uint_t;
typedef long mp_off_t;
#define MICROPY_FLOAT_IMPL (MICROPY_FLOAT_IMPL_DOUBLE)
#define MICROPY_LONGINT_IMPL (MICROPY_LONGINT_IMPL_MPZ)
#define MP_STATE_PORT MP_STATE_VM

// --- compiler and native code
#define MICROPY_EMIT_X64 (1)
#define MICROPY_OPT_COMPUTED_GOTO (1)
// name_lookup.c does the look-ups and has a cache of its own.
#define MICROPY_OPT_MAP_LOOKUP_CACHE (0)
#define MICROPY_WRAP_MP_MAP_LOOKUP(f) upstream_##f
#define MICROPY_PERSISTENT_CODE_LOAD (1)
void cllm_alloc_exec(size_t min_size, void **ptr, size_t *size);
void cllm_free_exec(void *ptr, size_t size);
#define MP_PLAT_ALLOC_EXEC(min_size, ptr, size) cllm_alloc_exec(min_size, ptr, size)
#define MP_PLAT_FREE_EXEC(ptr, size) cllm_free_exec(ptr, size)

// --- memory: the heap starts small and grows by areas from malloc
#define MICROPY_ENABLE_GC (1)
#define MICROPY_GC_SPLIT_HEAP (1)
// Entries, of 16 bytes, of the collector's stack of objects yet to be traced. When it is full, the
// collector searches the whole heap again for each stackful. Chains of closures then take
// quadratic time: 17 s for 30,000 closures with upstream's 64 entries.
#define MICROPY_ALLOC_GC_STACK_SIZE (32768)
#define MICROPY_GC_SPLIT_HEAP_AUTO (1)
#define MICROPY_ENABLE_PYSTACK (1) // see main.c
#define MP_PLAT_ALLOC_HEAP(size) malloc(size)
#define MP_PLAT_FREE_HEAP(ptr) free(ptr)
// gchelper_generic.c's register trick does not compile with frame pointers: use setjmp.
#define MICROPY_GCREGS_SETJMP (1)
#define MICROPY_ENABLE_EMERGENCY_EXCEPTION_BUF (1)
#define MICROPY_EMERGENCY_EXCEPTION_BUF_SIZE (256)
#define MICROPY_ALLOC_PATH_MAX (512)

// --- scheduler and REPL
#define MICROPY_SCHEDULER_STATIC_NODES (1)
#define MICROPY_SCHEDULER_DEPTH (32)
#define MICROPY_REPL_EVENT_DRIVEN (1) // frozen main.py feeds the REPL while the server runs
#define MICROPY_REPL_EMACS_KEYS (1)
#define MICROPY_REPL_EMACS_WORDS_MOVE (1)
#define MICROPY_REPL_EMACS_EXTRA_WORDS_MOVE (1)
#define MICROPY_PY_SYS_STDIO_BUFFER (1)
#define MICROPY_BEGIN_ATOMIC_SECTION() irq_save()
#define MICROPY_END_ATOMIC_SECTION(state) irq_restore(state)

// --- errors and warnings in full, for authors of scripts
#define MICROPY_ERROR_REPORTING (MICROPY_ERROR_REPORTING_DETAILED)
#define MICROPY_WARNINGS (1)
#define MICROPY_PY_STR_BYTES_CMP_WARN (1)

// --- files: boot modules through libc; FAT and littlefs (see Makefile) on block devices
#define MICROPY_VFS (1)
#define MICROPY_VFS_POSIX (1)
#define MICROPY_VFS_ROM (1)
#define MICROPY_VFS_ROM_IOCTL (0)
#define MICROPY_READER_VFS (1)
#define MICROPY_FATFS_ENABLE_LFN (1)
#define MICROPY_FATFS_LFN_CODE_PAGE 437
#define MICROPY_FATFS_RPATH (2)
#define MICROPY_FATFS_MAX_SS (4096)
#define MICROPY_EPOCH_IS_1970 (1)
#define _DIRENT_HAVE_D_TYPE (1)

// --- modules
#define MICROPY_USE_INTERNAL_PRINTF (0) // musl's
#define MICROPY_PY_SYS_PLATFORM "cllm"
#define MICROPY_HW_BOARD_NAME "cllm"
#define MICROPY_HW_MCU_NAME "x86-64"
#define MICROPY_PY_BUILTINS_HELP_TEXT cllm_help_text
#define MICROPY_PY_OS_INCLUDEFILE "ports/cllm_x86/modos.c"
#define MICROPY_PY_OS_UNAME (1)
#define MICROPY_PY_OS_UNAME_RELEASE_DYNAMIC (1)
#define MICROPY_PY_OS_URANDOM (1)
#define MICROPY_PY_TIME_INCLUDEFILE "ports/cllm_x86/modtime.c"
#define MICROPY_PY_TIME_GMTIME_LOCALTIME_MKTIME (0) // modtime.c has them
#define MICROPY_PY_TIME_TIME_TIME_NS (1)
#define MICROPY_PY_MACHINE (1)
#define MICROPY_PY_MACHINE_INCLUDEFILE "ports/cllm_x86/modmachine.c"
#define MICROPY_PY_MACHINE_RESET (1)
#define MICROPY_PY_MACHINE_TIMER (1)
// For pin classes in scripts; the machine itself has no pins.
#define MICROPY_PY_MACHINE_PIN_BASE (1)
#define MICROPY_PY_MACHINE_PULSE (1)
#define MICROPY_PY_GC_COLLECT_RETVAL (1)
#define MICROPY_PY_SYS_EXC_INFO (1)
#define MICROPY_PY_WEBSOCKET (1)
#define MICROPY_PY_MACHINE_WDT (1)
#define MICROPY_PY_MACHINE_WDT_INCLUDEFILE "ports/cllm_x86/machine_wdt.c"
#define MICROPY_PY_MACHINE_WDT_TIMEOUT_MS (1)
#define MICROPY_PY_MACHINE_DISABLE_IRQ_ENABLE_IRQ (1)
#define MICROPY_PY_RANDOM_SEED_INIT_FUNC (cllm_random_seed())
uint64_t cllm_random_seed(void);
// Above the "extra features" level: features that scripts from CPython or a larger board may
// expect and that cost nothing while unused.
#define MICROPY_PY_ALL_INPLACE_SPECIAL_METHODS (1)
#define MICROPY_PY_BUILTINS_MEMORYVIEW_ITEMSIZE (1)
#define MICROPY_PY_BUILTINS_RANGE_BINOP (1)
#define MICROPY_PY_COLLECTIONS_NAMEDTUPLE__ASDICT (1)
#define MICROPY_PY_DEFLATE_COMPRESS (1)
#define MICROPY_PY_FUNCTION_ATTRS_CODE (1)
#define MICROPY_PY_IO_BUFFEREDWRITER (1)
#define MICROPY_PY_MARSHAL (1)
#define MICROPY_PY_MICROPYTHON_HEAP_LOCKED (1)
#define MICROPY_PY_RE_MATCH_GROUPS (1)
#define MICROPY_PY_RE_MATCH_SPAN_START_END (1)
#define MICROPY_PY_SYS_GETSIZEOF (1)
#define MICROPY_PY_SYS_TRACEBACKLIMIT (1)
#define MICROPY_MEM_STATS (1)
#define MICROPY_MALLOC_USES_ALLOCATED_SIZE (1)
// network and socket are frozen Python (frozen/lib); the C modules would take their names.
#define MICROPY_PY_NETWORK (0)
#define MICROPY_PY_SOCKET (0)
#define MICROPY_PY_SSL (0)
#define MICROPY_PY_HASHLIB_SHA1 (0)
#define MICROPY_PY_MICROPYTHON_STACK_USE (1)

#include "mphalport.h"
