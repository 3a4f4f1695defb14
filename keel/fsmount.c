#include "fsmount.h"

#include <errno.h>
#include <limits.h>
#include <string.h>

#include "syscalls.h"

int context_fail(struct failure *failure, int context, const char *call, const char *what) {
    char messages[512] = "";
    size_t used = 0;
    int error = errno;
    ssize_t got;
    /* one message a read, "e overlay: …"; ENODATA after the last */
    while (sizeof messages - used > 2 &&
           (got = read(context, messages + used, sizeof messages - used - 2)) > 0) {
        used += (size_t)got;
        while (used > 0 && messages[used - 1] == '\n')
            used--;
        memcpy(messages + used, "; ", 2);
        used += 2;
    }
    messages[used < 2 ? 0 : used - 2] = '\0';
    errno = error;
    return fail(failure, call, "%s%s%s", what, used ? ": " : "", messages);
}

int context_open(struct failure *failure, const char *fstype) {
    int context = fsopen(fstype, FSOPEN_CLOEXEC);
    return context < 0 ? fail(failure, "fsopen", "%s", fstype) : context;
}

int context_option(struct failure *failure, int context, const char *option) {
    char key[NAME_MAX];
    const char *equals = strchr(option, '=');
    size_t length = equals ? (size_t)(equals - option) : strlen(option);
    if (length >= sizeof key) {
        errno = EINVAL;
        return fail(failure, "fsconfig", "an option's name is longer than %zu bytes",
                    sizeof key - 1);
    }
    memcpy(key, option, length);
    key[length] = '\0';
    int result = equals ? fsconfig(context, FSCONFIG_SET_STRING, key, equals + 1, 0)
                        : fsconfig(context, FSCONFIG_SET_FLAG, key, NULL, 0);
    return result < 0 ? context_fail(failure, context, "fsconfig", option) : 0;
}

int context_mount(struct failure *failure, int context, unsigned attributes, const char *what) {
    if (fsconfig(context, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0)
        return context_fail(failure, context, "fsconfig", what);
    int tree = fsmount(context, FSMOUNT_CLOEXEC, attributes);
    return tree < 0 ? context_fail(failure, context, "fsmount", what) : tree;
}
