/* keel as PID 1: what an init owes its container. */
#ifndef KEEL_REAP_H
#define KEEL_REAP_H

#include <sys/types.h>

/* In the application's process, before it executes: a process group of its own, in the foreground.
 */
void reap_prepare_application(void);

/* Forward signals to the application and reap everything until it has ended; then exit as it did,
 * 128 + n when a signal ended it. */
_Noreturn void reap(pid_t application);

#endif
