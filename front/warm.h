/* The connection to the warm process: the request, and the answers (README.md). */
#ifndef FRONT_WARM_H
#define FRONT_WARM_H

#include <stdint.h>

enum answer_kind {
    ANSWER_TAKEN = 'T',   /* value: the child's pid; comes with its pidfd */
    ANSWER_REFUSED = 'N', /* value: why */
    ANSWER_EXITED = 'E',  /* value: exit code */
    ANSWER_KILLED = 'K',  /* value: signal */
    ANSWER_STOPPED = 'S', /* value: signal */
    ANSWER_SPAWN = 'P',   /* start keel with the descriptors that come along */
};

struct answer {
    uint32_t kind;
    int32_t value;
};

/* A connection to a warm process of our own user; -1 when there is none to be had. */
int dial_warm(const char *run_directory);

/* Hands everything over, and waits until a child has it. The child's pidfd, or -1: nothing was
 * done and nothing will be. The child begins at `begin`. */
int hand_over(int connection, char *const *arguments, char *const *environment);

/* Lets the child begin; -1 when it is gone, and nothing was done. */
int begin(int connection);

enum { MAX_PASSED = 253 }; /* SCM_MAX_FD */

struct passed {
    int count;
    int fds[MAX_PASSED];
};

/* The next answer, however long it takes, and the descriptors that came along, which the caller
 * closes. -1 when the other side is gone. */
int next_answer(int connection, struct answer *answer, struct passed *passed);
void close_passed(struct passed *passed);

/* Every signal's own effect, and none blocked: for a program that is started. */
void reset_signals(void);

#endif
