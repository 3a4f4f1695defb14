/* Where the engine of one root keeps its sockets. Says the same as onggi.faces.cli.place. */
#ifndef FRONT_PLACE_H
#define FRONT_PLACE_H

#include <stddef.h>
#include <sys/types.h>

/* Writes the run directory that this command line and environment mean; -1 when it does not fit. */
int run_directory(char *out, size_t size, char *const *arguments, uid_t uid);

#endif
