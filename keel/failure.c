/* What went wrong, scope-bound cleanup, and numbers in text. */
#include "keel.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

int fail(struct failure *failure, const char *call, const char *format, ...) {
    int error = errno;
    va_list arguments;
    failure->error = error;
    snprintf(failure->call, sizeof failure->call, "%s", call);
    va_start(arguments, format);
    vsnprintf(failure->detail, sizeof failure->detail, format, arguments);
    va_end(arguments);
    failure->facts[0] = '\0';
    errno = error;
    return -1;
}

uint64_t parse_u64(const char **at) {
    uint64_t value = 0;
    for (; **at >= '0' && **at <= '9'; ++*at)
        value = value * 10 + (uint64_t)(**at - '0');
    return value;
}

void close_scoped(const int *fd) {
    int error = errno;
    if (*fd >= 0)
        close(*fd);
    errno = error;
}

void free_scoped(void *pointer) {
    free(*(void **)pointer);
}
