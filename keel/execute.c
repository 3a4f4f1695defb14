/* EXECUTE: init becomes the application, or its parent, and says what a person would look at when
 * it cannot. */
#include <errno.h>
#include <linux/close_range.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "explain.h"
#include "reap.h"
#include "syscalls.h"
#include "walk.h"

enum { DEFAULT_UMASK = 022 };

/* The candidate that decides the errno: as execvp(3), a file that may not be executed outweighs the
 * ones that are not there, and one that is there but cannot be executed ends the search. A missing
 * interpreter also answers ENOENT: such a candidate decides if no other does better. */
static const char *try_candidates(const struct step *step) {
    char **arguments = (char **)step->field[0].list.items;
    char **environment = (char **)step->field[1].list.items;
    const struct list *candidates = &step->field[2].list;
    const char *decisive = NULL;
    int error = ENOENT;
    for (uint32_t i = 0; i < candidates->count; i++) {
        struct stat facts;
        const char *path = candidates->items[i];
        execve(path, arguments, environment);
        int reason = errno;
        int missing = reason == ENOENT || reason == ENOTDIR;
        if (!missing && reason != EACCES) {
            errno = reason;
            return path;
        }
        if (missing ? !decisive && stat(path, &facts) == 0 : error != EACCES) {
            decisive = path;
            error = missing ? error : reason;
        }
    }
    errno = error;
    return decisive ? decisive : candidates->items[0];
}

static int execute(struct walk *walk, const struct step *step) {
    const char *path = try_candidates(step);
    int error = errno;
    fail(walk->failure, "execve", "%s", path);
    explain_executable(path, walk->failure->facts, sizeof walk->failure->facts);
    errno = error;
    return -1;
}

int step_execute(struct walk *walk, const struct step *step) {
    if (init_provide_stdio(walk) < 0 || init_disarm(walk) < 0)
        return -1;
    if (!walk->umask_known)
        umask(DEFAULT_UMASK);
    if (!number_of(step, 3))
        return execute(walk, step);
    pid_t application = fork();
    if (application < 0)
        return fail(walk->failure, "fork", "the application");
    if (application == 0) {
        reap_prepare_application();
        return execute(walk, step);
    }
    /* only the application's copies may keep the baton and the pipes of others open */
    if (close_range(3, ~0u, 0) < 0)
        _exit(1);
    reap(application);
}
