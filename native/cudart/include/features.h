// features.h: what CUDA's headers take from glibc's <features.h> and musl's does not have.
//
// It lies before musl's folder for sources that clang compiles as CUDA, and adds to musl's file.
#ifndef CLLM_CUDART_FEATURES_H
#define CLLM_CUDART_FEATURES_H

#include_next <features.h>

#ifdef __cplusplus
#define __THROW noexcept(true)
#else
#define __THROW
#endif
#define __GNUC_PREREQ(major, minor) 1

// crt/math_functions.hpp makes isnan() and its like of these functions of glibc.
#ifdef __cplusplus
extern "C" {
static inline int __isnan(double x) {
    return __builtin_isnan(x);
}
static inline int __isnanf(float x) {
    return __builtin_isnan(x);
}
static inline int __isinf(double x) {
    return __builtin_isinf(x);
}
static inline int __isinff(float x) {
    return __builtin_isinf(x);
}
static inline int __finite(double x) {
    return __builtin_isfinite(x);
}
static inline int __finitef(float x) {
    return __builtin_isfinite(x);
}
}
#endif

#endif
