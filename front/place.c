/* Finds `--root`, ONGGI_ROOT or the user's own run directory, as the command line itself does. */
#include "place.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A variable's value; NULL when it is unset or empty. */
static const char *variable(const char *name) {
    const char *value = getenv(name);
    return value && *value ? value : NULL;
}

/* The last `--root` before the verb; other options in front of the verb take no value. */
static const char *root_option(char *const *arguments) {
    const char *root = NULL;
    for (char *const *word = arguments; *word; word++) {
        if ((*word)[0] != '-' || strcmp(*word, "-") == 0 || strcmp(*word, "--") == 0)
            break;
        if (strncmp(*word, "--root=", 7) == 0)
            root = *word + 7;
        else if (strcmp(*word, "--root") == 0 && word[1])
            root = *++word;
    }
    return root && *root ? root : NULL;
}

int run_directory(char *out, size_t size, char *const *arguments, uid_t uid) {
    const char *root = root_option(arguments);
    const char *runtime = variable("XDG_RUNTIME_DIR");
    int length;
    if (!root)
        root = variable("ONGGI_ROOT");
    /* The kernel resolves links in `root` as realpath would. */
    if (root)
        length = snprintf(out, size, "%s/run", root);
    else if (uid == 0)
        length = snprintf(out, size, "/run/onggi");
    else if (runtime)
        length = snprintf(out, size, "%s/onggi", runtime);
    else
        length = snprintf(out, size, "/run/user/%u/onggi", (unsigned)uid);
    return length >= 0 && (size_t)length < size ? 0 : -1;
}
