/* OPEN_TERMINAL: a terminal of the container's own devpts, never of the host's. */
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <termios.h>

#include "resolve.h"
#include "syscalls.h"
#include "walk.h"

enum { PTMX_MAJOR = 5, PTMX_MINOR = 2 };

/* A master from dev/pts/ptmx of the root, verified to be one (CVE-2025-52565: /dev/pts/N and
 * /dev/console are paths that an image controls). */
static int open_master(struct walk *walk, int root) {
    struct stat facts;
    int unlock = 0;
    SCOPED_FD master = resolve_in(root, "/dev/pts/ptmx", O_RDWR | O_NOCTTY, RESOLVE_NO_SYMLINKS);
    if (master < 0)
        return fail(walk->failure, "openat2", "/dev/pts/ptmx");
    if (!is_on(master, DEVPTS_SUPER_MAGIC) || fstat(master, &facts) < 0 ||
        !S_ISCHR(facts.st_mode) || facts.st_rdev != makedev(PTMX_MAJOR, PTMX_MINOR)) {
        errno = ENODEV;
        return fail(walk->failure, "fstatfs", "/dev/pts/ptmx is not of a devpts");
    }
    if (ioctl(master, TIOCSPTLCK, &unlock) < 0)
        return fail(walk->failure, "ioctl", "TIOCSPTLCK");
    int owned = fcntl(master, F_DUPFD_CLOEXEC, 3);
    return owned < 0 ? fail(walk->failure, "fcntl", "the terminal") : owned;
}

static int bind_console(struct walk *walk, int root, int peer) {
    SCOPED_FD target = make_target_in(root, "/dev/console", S_IFREG | 0600);
    if (target < 0)
        return fail(walk->failure, "openat2", "/dev/console");
    SCOPED_FD tree = open_tree(peer, "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH);
    if (tree < 0)
        return fail(walk->failure, "open_tree", "the terminal");
    return attach_tree(tree, target) < 0
               ? fail(walk->failure, "move_mount", "the terminal onto /dev/console")
               : 0;
}

static int take_terminal(struct walk *walk, int peer) {
    if (ioctl(peer, TIOCSCTTY, 0) < 0) /* init is a session leader since it was cloned */
        return fail(walk->failure, "ioctl", "TIOCSCTTY");
    for (int fd = 0; fd < 3; fd++)
        if (dup2(peer, fd) < 0)
            return fail(walk->failure, "dup2", "fd %d", fd);
    walk->stdio_known = 1;
    walk->terminal_known = 1;
    return 0;
}

int step_open_terminal(struct walk *walk, const struct step *step) {
    struct winsize size = {.ws_row = (unsigned short)number_of(step, 0),
                           .ws_col = (unsigned short)number_of(step, 1)};
    int root = init_root(walk);
    int master = root < 0 ? -1 : open_master(walk, root);
    if (master < 0)
        return -1;
    slot_fill(walk, SLOT_TERMINAL, master);
    if (size.ws_row && size.ws_col && ioctl(master, TIOCSWINSZ, &size) < 0)
        return fail(walk->failure, "ioctl", "TIOCSWINSZ");
    SCOPED_FD peer = ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (peer < 0)
        return fail(walk->failure, "ioctl", "TIOCGPTPEER");
    if (number_of(step, 2) && bind_console(walk, root, peer) < 0)
        return -1;
    return take_terminal(walk, peer);
}
