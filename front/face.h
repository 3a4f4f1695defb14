/* What the two programs have in common: a command is handed over, and its end is this one's. */
#ifndef FRONT_FACE_H
#define FRONT_FACE_H

#include <stddef.h>

struct passed;

struct face {
    const char *name;
    const char *plain; /* the plain command line, in the same directory */
    int lost;          /* exit code when nobody knows how the command ended */
    /* Where the warm process listens; -1: this command is not for one. */
    int (*directory)(char *out, size_t size, char *const *arguments);
    /* The variable that tells the plain command line that directory; NULL: none. */
    const char *variable;
    /* Carry out ANSWER_SPAWN; NULL: it is never asked for. */
    void (*serves_spawn)(const struct passed *passed);
};

int face_main(const struct face *face, int argc, char **argv, char **environment);

#endif
