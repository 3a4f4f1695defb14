/* tmpcopyup: a new file system starts with what lay under its mount point. */
#ifndef KEEL_COPY_UP_H
#define KEEL_COPY_UP_H

/* Copy everything in the directory `from` (O_PATH will do) into the root of the detached tree `to`:
 * files, directories, symbolic links, nodes, with owners, modes and times. -1 with errno. */
int copy_up(int from, int to);

#endif
