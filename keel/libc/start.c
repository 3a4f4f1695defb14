/* From the kernel's first instruction to main(), and the system call itself, for x86-64.
 *
 * keel brings the little C library that it needs. glibc linked statically costs every monitor 600 KiB
 * of pages and 0.3 ms before main(): it looks at the processor with dozens of CPUID instructions,
 * each of which traps in a virtual machine. The headers are glibc's; on other machines, and in the
 * tests under the sanitizers, glibc is what is linked.
 * Source: System V ABI, AMD64 supplement, 3.4.1 (initial stack) and A.2.1 (system calls). */
#include <elf.h>
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include "call.h"

/* With -mstack-protector-guard=global; the name is the compiler's. */
uintptr_t __stack_chk_guard;
_Noreturn void __stack_chk_fail(void);

int main(int argc, char **argv);
_Noreturn void libc_start(const uintptr_t *stack);

/* The stack at entry: argc, argv, NULL, environment, NULL, auxiliary vector. */
__asm__(".globl _start\n"
        "_start:\n"
        "    xor %ebp, %ebp\n"
        "    mov %rsp, %rdi\n"
        "    and $-16, %rsp\n"
        "    call libc_start\n");

__attribute__((no_stack_protector)) void libc_start(const uintptr_t *stack) {
    int argc = (int)stack[0];
    const uintptr_t *at = stack + argc + 2;
    while (*at++)
        ;
    for (; at[0] != AT_NULL; at += 2)
        if (at[0] == AT_RANDOM)
            memcpy(&__stack_chk_guard, (const void *)at[1], sizeof __stack_chk_guard);
    __stack_chk_guard &= ~(uintptr_t)0xff; /* a NUL stops a string that runs over */
    _exit(main(argc, (char **)(stack + 1)));
}

void __stack_chk_fail(void) {
    static const char words[] = "keel: stack smashed\n";
    CALL(SYS_write, STDERR_FILENO, words, sizeof words - 1);
    abort();
}

void abort(void) {
    CALL(SYS_kill, CALL(SYS_getpid), SIGABRT);
    for (;;)
        _exit(128 + SIGABRT); /* PID 1 of a namespace does not hear its own signals */
}

void _exit(int status) {
    for (;;)
        CALL(SYS_exit_group, status);
}

/* One thread: one errno. */
int *__errno_location(void) {
    static int number;
    return &number;
}

long libc_result(long result) {
    if (result >= 0 || result < -4095)
        return result;
    errno = (int)-result;
    return -1;
}

long syscall(long number, ...) {
    va_list rest;
    long arguments[6];
    va_start(rest, number);
    for (int i = 0; i < 6; i++)
        arguments[i] = va_arg(rest, long);
    va_end(rest);
    return CALL(number, arguments[0], arguments[1], arguments[2], arguments[3], arguments[4],
                arguments[5]);
}
