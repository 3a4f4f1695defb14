/* New file systems by fsopen(2): options one by one, and the kernel's own words when it refuses. */
#ifndef KEEL_FSMOUNT_H
#define KEEL_FSMOUNT_H

#include "decode.h"
#include "keel.h"

/* fsopen; owned descriptor, or -1 with the failure filled. */
int context_open(struct failure *failure, const char *fstype);

/* "key" or "key=value". -1 with the failure filled. */
int context_option(struct failure *failure, int context, const char *option);

/* Create the superblock and mount it detached with MOUNT_ATTR_* `attributes`. Owned descriptor, or
 * -1 with the failure filled; `what` names it there. */
int context_mount(struct failure *failure, int context, unsigned attributes, const char *what);

/* Fill the failure for `call` from errno, `what` and the messages of the context. Returns -1. */
int context_fail(struct failure *failure, int context, const char *call, const char *what);

#endif
