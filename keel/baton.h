/* The baton: messages between the two actors on a private seqpacket socketpair. */
#ifndef KEEL_BATON_H
#define KEEL_BATON_H

#include <stdint.h>

#include "walk.h"

enum baton_kind {
    BATON_GONE = 0,   /* received only: the other end is closed */
    BATON_PASS = 1,   /* go on at step `value` */
    BATON_CLONED = 2, /* stage → monitor: init's pid is `value`, its pidfd is attached */
    BATON_WARNED = 3, /* an optional step failed; the sender goes on */
    BATON_FAILED = 4,
    BATON_SLOTS = 5, /* more descriptors, nothing else */
    BATON_HELD = 6,  /* init waits to be started, and nothing more comes */
};

/* Send the descriptors filled since the last message, then `kind` with `value` and, for WARNED and
 * FAILED, walk->failure. -1 with errno. */
int baton_send(struct walk *walk, enum baton_kind kind, uint32_t value);

/* Send descriptors that the other actor lacks, if there are any. -1 with errno. */
int baton_flush(struct walk *walk);

/* Wait for a message; its descriptors are in their slots. -1 with errno. */
int baton_receive(struct walk *walk, enum baton_kind *kind, uint32_t *value);

#endif
