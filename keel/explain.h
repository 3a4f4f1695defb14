/* What a person would look at when a file cannot be executed. */
#ifndef KEEL_EXPLAIN_H
#define KEEL_EXPLAIN_H

#include <stddef.h>

/* Write the facts about `path` as `key=value` lines (README.md) into `facts`, cut at a whole line.
 */
void explain_executable(const char *path, char *facts, size_t size);

/* The interpreter that the first bytes of a file name: of `#!` or of ELF's PT_INTERP. Length
 * written to `name` with a NUL, 0: none. Reads no byte outside `head`. */
size_t find_interpreter(const unsigned char *head, size_t length, char *name, size_t size);

#endif
