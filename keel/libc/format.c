/* snprintf with what keel's messages use: %s %.*s %d %u %x %o %% with #, l, ll and z. Anything else
 * is a defect of keel's own and ends it. */
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct output {
    char *into;
    size_t size, length; /* the length counts on when there is no more room */
};

static void put(struct output *output, const char *text, size_t length) {
    for (size_t i = 0; i < length; i++, output->length++)
        if (output->length + 1 < output->size)
            output->into[output->length] = text[i];
}

static void put_number(struct output *output, uint64_t value, unsigned base, const char *prefix) {
    char digits[24], *at = digits + sizeof digits;
    do
        *--at = "0123456789abcdef"[value % base];
    while (value /= base);
    put(output, prefix, strlen(prefix));
    put(output, at, (size_t)(digits + sizeof digits - at));
}

/* One conversion, `*format` behind its "%" at first and behind it at the end. */
static void convert(struct output *output, const char **format, va_list *rest) {
    int prefixed = 0, wide = 0;
    size_t limit = SIZE_MAX;
    for (;; ++*format) {
        if (**format == '#')
            prefixed = 1;
        else if (**format == 'l' || **format == 'z')
            wide = 1;
        else if (strncmp(*format, ".*", 2) == 0)
            limit = (size_t)va_arg(*rest, int), ++*format;
        else
            break;
    }
    char kind = *(*format)++;
    if (kind == '%') {
        put(output, "%", 1);
    } else if (kind == 's') {
        const char *text = va_arg(*rest, const char *);
        put(output, text, strnlen(text, limit));
    } else if (kind == 'd') {
        int64_t value = wide ? va_arg(*rest, int64_t) : va_arg(*rest, int);
        put_number(output, value < 0 ? 0 - (uint64_t)value : (uint64_t)value, 10,
                   value < 0 ? "-" : "");
    } else if (kind == 'u' || kind == 'x' || kind == 'o') {
        uint64_t value = wide ? va_arg(*rest, uint64_t) : va_arg(*rest, unsigned);
        put_number(output, value, kind == 'u' ? 10 : kind == 'x' ? 16 : 8,
                   prefixed && value && kind == 'x' ? "0x" : "");
    } else {
        abort();
    }
}

int vsnprintf(char *restrict into, size_t size, const char *restrict format, va_list arguments) {
    struct output output = {into, size, 0};
    va_list rest;
    va_copy(rest, arguments);
    for (const char *at = format; *at;) {
        size_t plain = strcspn(at, "%");
        put(&output, at, plain);
        at += plain;
        if (*at && at++)
            convert(&output, &at, &rest);
    }
    va_end(rest);
    if (size > 0)
        into[output.length < size ? output.length : size - 1] = '\0';
    return (int)output.length;
}

int snprintf(char *restrict into, size_t size, const char *restrict format, ...) {
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(into, size, format, arguments);
    va_end(arguments);
    return length;
}
