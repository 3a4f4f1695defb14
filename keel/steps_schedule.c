/* When, where and as whom the kernel runs the container's first process. */
#include <errno.h>
#include <stdint.h>
#include <string.h>

#include "syscalls.h"
#include "walk.h"

enum { IOPRIO_OF_PROCESS = 1, MASK_BITS = 8192, WORD_BITS = 64 };

/* As the kernel takes it: glibc 2.36 has no wrapper (sched_setattr(2)). */
struct scheduling {
    uint32_t size;
    uint32_t policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime;
    uint64_t deadline;
    uint64_t period;
};

struct mask {
    uint64_t words[MASK_BITS / WORD_BITS];
};

static int take_mask(struct walk *walk, const struct numbers *numbers, struct mask *mask) {
    memset(mask, 0, sizeof *mask);
    for (uint32_t i = 0; i < numbers->count; i++) {
        if (numbers->items[i] >= MASK_BITS) {
            errno = ERANGE;
            return fail(walk->failure, "mask", "no number is above %d", MASK_BITS - 1);
        }
        mask->words[numbers->items[i] / WORD_BITS] |= 1ull << numbers->items[i] % WORD_BITS;
    }
    return 0;
}

int step_set_scheduler(struct walk *walk, const struct step *step) {
    struct scheduling wanted = {
        .size = sizeof wanted,
        .policy = (uint32_t)number_of(step, 0),
        .flags = number_of(step, 1),
        .nice = (int32_t)step->field[2].integer,
        .priority = (uint32_t)number_of(step, 3),
        .runtime = number_of(step, 4),
        .deadline = number_of(step, 5),
        .period = number_of(step, 6),
    };
    if (syscall(SYS_sched_setattr, walk->child, &wanted, 0) < 0)
        return fail(walk->failure, "sched_setattr", "policy %u, nice %d, priority %u",
                    wanted.policy, wanted.nice, wanted.priority);
    return 0;
}

/* Before there is a child it is the monitor's own, which the child inherits. */
int step_set_cpu_affinity(struct walk *walk, const struct step *step) {
    struct mask mask;
    if (take_mask(walk, &step->field[0].numbers, &mask) < 0)
        return -1;
    pid_t pid = walk->child > 0 ? walk->child : 0;
    if (syscall(SYS_sched_setaffinity, pid, sizeof mask, &mask) < 0)
        return fail(walk->failure, "sched_setaffinity", "%u CPUs", step->field[0].numbers.count);
    return 0;
}

int step_set_io_priority(struct walk *walk, const struct step *step) {
    if (syscall(SYS_ioprio_set, IOPRIO_OF_PROCESS, 0, (int)number_of(step, 0)) < 0)
        return fail(walk->failure, "ioprio_set", "%#llx", (unsigned long long)number_of(step, 0));
    return 0;
}

int step_set_memory_policy(struct walk *walk, const struct step *step) {
    const struct numbers *nodes = &step->field[1].numbers;
    struct mask mask;
    if (take_mask(walk, nodes, &mask) < 0)
        return -1;
    /* the kernel takes one bit less than it is told of; without a mask it wants none */
    if (syscall(SYS_set_mempolicy, (int)number_of(step, 0), nodes->count ? mask.words : NULL,
                nodes->count ? MASK_BITS / 8 + 1ul : 0ul) < 0)
        return fail(walk->failure, "set_mempolicy", "mode %#llx, %u nodes",
                    (unsigned long long)number_of(step, 0), nodes->count);
    return 0;
}

int step_set_personality(struct walk *walk, const struct step *step) {
    if (syscall(SYS_personality, (unsigned long)number_of(step, 0)) < 0)
        return fail(walk->failure, "personality", "%#llx", (unsigned long long)number_of(step, 0));
    return 0;
}
