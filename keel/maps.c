/* WRITE_ID_MAPS: the ids of the child's user namespace.
 *
 * Whoever has the host's CAP_SETUID writes any map. An ordinary user writes one line, the own id; all
 * else is written by newuidmap(1) and newgidmap(1), which are root and know who may have which ids. They
 * are believed only after looking: what a map says wrongly, every container would suffer. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "syscalls.h"
#include "walk.h"

enum { MAP_BYTES = 32 * 1024, NUMBERS_A_LINE = 3, HELPER_TIMEOUT_MS = 30000 };

/* The next number of a map, which has nothing but numbers and white space. 0: there is none. */
static int next_number(const char **at, uint64_t *number) {
    *at += strspn(*at, " \n");
    if (**at < '0' || **at > '9')
        return 0;
    *number = parse_u64(at);
    return 1;
}

static int next_line(const char **at, uint64_t line[NUMBERS_A_LINE]) {
    return next_number(at, &line[0]) && next_number(at, &line[1]) && next_number(at, &line[2]);
}

static unsigned count_lines(const char *map) {
    uint64_t line[NUMBERS_A_LINE];
    unsigned count = 0;
    while (next_line(&map, line))
        count++;
    return count;
}

static int has_line(const char *map, const uint64_t wanted[NUMBERS_A_LINE]) {
    uint64_t line[NUMBERS_A_LINE];
    while (next_line(&map, line))
        if (memcmp(line, wanted, sizeof line) == 0)
            return 1;
    return 0;
}

/* The kernel sorts long maps, so the order says nothing. */
static int is_same_map(const char *asked, const char *written) {
    uint64_t line[NUMBERS_A_LINE];
    if (count_lines(asked) != count_lines(written))
        return 0;
    while (next_line(&asked, line))
        if (!has_line(written, line))
            return 0;
    return 1;
}

static int confirm_map(struct walk *walk, const char *helper, const char *name, const char *asked) {
    char path[64];
    SCOPED_MEMORY char *written = malloc(MAP_BYTES);
    size_t used = 0;
    ssize_t got = 0;
    snprintf(path, sizeof path, "/proc/%d/%s", walk->child, name);
    SCOPED_FD file = open(path, O_RDONLY | O_CLOEXEC);
    if (!written || file < 0)
        return fail(walk->failure, "open", "%s", path);
    while (used < MAP_BYTES - 1 && (got = read(file, written + used, MAP_BYTES - 1 - used)) > 0)
        used += (size_t)got;
    if (got < 0)
        return fail(walk->failure, "read", "%s", path);
    written[used] = '\0';
    if (is_same_map(asked, written))
        return 0;
    errno = EBADMSG;
    return fail(walk->failure, "confirm", "%s says that it is done, and %s is another", helper, name);
}

/* `newuidmap PID INSIDE OUTSIDE COUNT …`. The words are written into one piece of memory. */
static int run_helper(struct walk *walk, const char *helper, const struct blob *map) {
    static const char *no_environment[] = {NULL};
    char pid[16];
    unsigned count = count_lines(map->bytes) * NUMBERS_A_LINE;
    SCOPED_MEMORY char *words = malloc((size_t)map->length + 1);
    SCOPED_MEMORY const char **arguments = calloc((size_t)count + 3, sizeof *arguments);
    if (!words || !arguments)
        return fail(walk->failure, "malloc", "the words for %s", helper);
    memcpy(words, map->bytes, (size_t)map->length + 1);
    snprintf(pid, sizeof pid, "%d", walk->child);
    arguments[0] = helper;
    arguments[1] = pid;
    char *at = words;
    for (unsigned i = 0; i < count; i++) {
        at += strspn(at, " \n");
        arguments[2 + i] = at;
        at += strcspn(at, " \n");
        if (*at)
            *at++ = '\0';
    }
    SCOPED_FD nothing = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (nothing < 0)
        return fail(walk->failure, "open", "/dev/null");
    const struct program program = {
        .call = "idmap",
        .kind = "",
        .path = helper,
        .arguments = arguments,
        .environment = no_environment,
        .directory = "/",
        .input = nothing,
        .timeout_ms = HELPER_TIMEOUT_MS,
    };
    return run_program(walk, &program);
}

static int write_map(struct walk *walk, const char *name, const struct blob *map,
                     const char *helper) {
    if (!*helper)
        return write_process_file(walk, walk->child, name, map->bytes, map->length);
    return run_helper(walk, helper, map) < 0 ? -1 : confirm_map(walk, helper, name, map->bytes);
}

int step_write_id_maps(struct walk *walk, const struct step *step) {
    const struct blob *setgroups = &step->field[2].text;
    if (setgroups->length &&
        write_process_file(walk, walk->child, "setgroups", setgroups->bytes, setgroups->length) < 0)
        return -1;
    if (write_map(walk, "uid_map", &step->field[0].text, text_of(step, 3)) < 0)
        return -1;
    return write_map(walk, "gid_map", &step->field[1].text, text_of(step, 4));
}
