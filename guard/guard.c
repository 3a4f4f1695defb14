/* guard: waits beside an engine, and becomes its successor when it dies without having been asked.
 *
 * `onggi-guard PYTHON LOCK LOG [ROOT]` with the engine's pipe as descriptor 3. The engine writes `1`
 * when containers need it and `0` when none does; the end of the pipe is the engine's end. It knows
 * nothing of containers, and never waits for a process: it turns into the engine by execve(2).
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { PIPE_FD = 3, EXIT_USAGE = 2, EXIT_EXEC = 126 };
/* At most this many engines in so many milliseconds; the first comes after the first pause. */
enum { MOST = 6, WINDOW_MS = 60000, PAUSE_MS = 100 };

/* Milliseconds of CLOCK_BOOTTIME at which engines were brought back, oldest first. */
static const char REVIVALS[] = "ONGGI_REVIVALS";

static int64_t now_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_BOOTTIME, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void pause_until(int64_t deadline_ms) {
    int64_t rest;
    while ((rest = deadline_ms - now_ms()) > 0) {
        struct timespec length = {rest / 1000, rest % 1000 * 1000000};
        nanosleep(&length, NULL);
    }
}

/* The last word of the engine when it is gone: whether containers need one. */
static int was_needed(void) {
    char words[64];
    int needed = 0;
    for (;;) {
        ssize_t got = read(PIPE_FD, words, sizeof words);
        if (got > 0)
            needed = words[got - 1] == '1';
        else if (got == 0 || errno != EINTR)
            return needed && got == 0;
    }
}

/* The stamps of the window that ends now; how many. */
static unsigned recent(int64_t *stamps) {
    const char *text = getenv(REVIVALS);
    unsigned count = 0;
    while (text && *text && count < MOST) {
        char *end;
        int64_t stamp = strtoll(text, &end, 10);
        if (end == text)
            break;
        if (stamp <= now_ms() && now_ms() - stamp < WINDOW_MS)
            stamps[count++] = stamp;
        text = *end == ',' ? end + 1 : NULL;
    }
    return count;
}

/* Wait as long as the engines before were short-lived, and leave a stamp for the next guard. */
static void hold_back(void) {
    int64_t stamps[MOST + 1];
    char text[32 * (MOST + 1)] = "";
    unsigned count = recent(stamps);
    pause_until(count < MOST ? now_ms() + (PAUSE_MS << count) : stamps[0] + WINDOW_MS);
    stamps[count++] = now_ms();
    for (unsigned i = count > MOST ? count - MOST : 0; i < count; i++)
        snprintf(text + strlen(text), sizeof text - strlen(text), "%lld,", (long long)stamps[i]);
    setenv(REVIVALS, text, 1);
}

static int same_file(const struct stat *one, const struct stat *other) {
    return one->st_dev == other->st_dev && one->st_ino == other->st_ino &&
           one->st_mtim.tv_sec == other->st_mtim.tv_sec &&
           one->st_mtim.tv_nsec == other->st_mtim.tv_nsec;
}

/* Whether the root is still there, nobody said stop meanwhile (which touches the lock's file), and
 * no other engine has taken it. */
static int is_orphaned(const char *lock, const struct stat *before) {
    struct stat after;
    int fd = open(lock, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return 0;
    int orphaned = fstat(fd, &after) == 0 && same_file(before, &after) &&
                   flock(fd, LOCK_EX | LOCK_NB) == 0;
    close(fd); /* the engine takes it anew, and ends when somebody was faster */
    return orphaned;
}

static int succeed(char **argv) {
    static char isolated[] = "-P", module[] = "-m", name[] = "onggi.faces.resident";
    static char root[] = "--root";
    char *engine[] = {argv[1], isolated, module, name, argv[4] ? root : NULL, argv[4], NULL};
    int log = open(argv[3], O_WRONLY | O_APPEND | O_CLOEXEC | O_NOFOLLOW);
    if (log < 0)
        return 0; /* the root was removed */
    dup2(log, STDOUT_FILENO);
    dup2(log, STDERR_FILENO);
    fputs("onggi: the engine was gone, and containers need one: here is its successor\n", stderr);
    close(PIPE_FD);
    for (size_t number = 1; number < 32; number++)
        signal((int)number, SIG_DFL);
    execv(argv[1], engine);
    fprintf(stderr, "onggi: cannot run %s: %s\n", argv[1], strerror(errno));
    return EXIT_EXEC;
}

int main(int argc, char **argv) {
    struct stat lock;
    if (argc < 4 || argc > 5 || stat(argv[2], &lock) < 0)
        return EXIT_USAGE;
    prctl(PR_SET_NAME, "onggi-guard");
    signal(SIGHUP, SIG_IGN);
    signal(SIGINT, SIG_IGN);
    if (chdir("/") < 0 || !was_needed())
        return 0;
    hold_back();
    return is_orphaned(argv[2], &lock) ? succeed(argv) : 0;
}
