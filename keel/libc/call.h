/* CALL(number, arguments…): one system call; its result, or -1 with errno. */
#ifndef KEEL_LIBC_CALL_H
#define KEEL_LIBC_CALL_H

#include <stdlib.h>
#include <sys/syscall.h>

long libc_result(long result);

static inline long libc_call(long number, long a, long b, long c, long d, long e, long f) {
    long result;
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return libc_result(result);
}

#define CALL_FILLED(number, a, b, c, d, e, f, ...)                                                 \
    libc_call((number), (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f))
#define CALL(...) CALL_FILLED(__VA_ARGS__, 0, 0, 0, 0, 0, 0, 0)

#endif
