// assert.h: musl's, but for the declaration of __assert_fail(), which CUDA's headers repeat as
// glibc has it: with an unsigned line, and as one that throws nothing.
//
// Without a guard, as <assert.h> is: NDEBUG counts anew each time.
#undef assert

#ifdef NDEBUG
#define assert(x) (void)0
#else
#define assert(x) ((void)((x) || (__assert_fail(#x, __FILE__, __LINE__, __func__), 0)))
#endif

#ifdef __cplusplus
extern "C" [[noreturn]] void __assert_fail(const char *, const char *, unsigned,
    const char *) noexcept;
#endif
