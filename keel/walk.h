/* The walk: what the two actors know while they carry out a plan, and the steps by name. */
#ifndef KEEL_WALK_H
#define KEEL_WALK_H

#include <stdint.h>

#include "decode.h"
#include "keel.h"

/* Descriptors that have a meaning of their own travel like slots, with numbers above them. */
enum {
    SLOT_TERMINAL = SLOTS,
    SLOT_STDIN,
    SLOT_STDOUT,
    SLOT_STDERR,
    SLOT_PIDFD,   /* of init, from the stage */
    SLOT_SOCKETS, /* what BIND_SOCKETS made */
    SLOT_LIMIT = SLOT_SOCKETS + MAX_SOCKETS,
};

enum { MAX_CGROUPS = 32 };

struct walk {
    const struct plan *plan;
    struct failure *failure;
    int baton;                  /* this actor's end of the socketpair */
    int slot[SLOT_LIMIT];       /* -1: empty */
    uint8_t filled[SLOT_LIMIT]; /* 1: the other actor does not have it yet */

    /* The monitor's. */
    pid_t child;
    int pidfd;
    int stat; /* /proc/PID/stat of the child */
    int held; /* 1: the child waits to be started */

    /* Opened by the monitor before the clone, joined by init with its first calls. */
    int cgroup[MAX_CGROUPS];
    uint32_t cgroups;
    const struct step *cgroup_step;

    /* Init's. */
    int stdin_open;
    int terminal_comes;      /* 1: OPEN_TERMINAL will make fds 0-2 */
    int root;                /* O_PATH of the container's root; -1: not known yet */
    int root_place;          /* where ATTACH_ROOT will attach, opened while init still may */
    uint8_t attached[SLOTS]; /* 1: a layer that is attached over root_place */
    int empty_tree;          /* the read-only empty directory that masks; attached once used */
    int armed;               /* 1: init dies with the monitor */
    int inspectable;         /* 1: its ids are mapped by an ordinary user, who may not otherwise */
    int root_due;            /* 1: they are mapped, and it is not root yet */
    int umask_known;         /* 1: SET_UMASK was carried out */
    int stdio_known;         /* 1: fds 0-2 are the container's */
    int terminal_known;      /* 1: they are a terminal */
    int pipe_ends[3];        /* fds 0-2 that are pipes of our own, or -1 */
    int starter;             /* who started an init that was held; -1: it has not been */
};

/* Put an owned descriptor into a slot; what was there is closed. */
void slot_fill(struct walk *walk, unsigned slot, int fd);
/* The descriptor in a slot, or -1 with errno and the failure filled. */
int slot_get(struct walk *walk, uint64_t slot);

enum { CONTROL_FD = 4, FIRST_SLOT_FD = 5 };

/* Carry out the plan up to the child's execve; slots 0 … borrowed-1 are the descriptors from
 * FIRST_SLOT_FD on. 0: the application runs; walk->child and the slots
 * above SLOTS are filled. -1: the failure was reported through `m`, and nothing is left. */
int walk_plan(struct monitor *m, const struct plan *plan, unsigned borrowed);

/* Carry out the step at `index`. 0: done; 1: it failed and is optional; -1: the walk is over. The
 * failure is filled for 1 and -1. */
int carry_out(struct walk *walk, uint32_t index);
int is_init_step(const struct step *step);

/* Init's whole life: returns only by execve or exit. */
_Noreturn void init_main(struct walk *walk, int user_namespace_joined);

/* clone.c: make init (CLONE_INTO). In init: does not return. */
int clone_init(struct walk *walk, const struct step *step);

/* Forget the cgroup files: init has joined, or never will. */
void cgroups_close(struct walk *walk);

/* Let the monitor's death kill init (again, after credentials have changed), and stay
 * uninspectable. */
int init_arm(struct walk *walk);
/* The last moment at which init may need more calls than the application: hand over what the
 * monitor lacks and live without it from here. -1 if the monitor is gone already. */
int init_disarm(struct walk *walk);
/* Give the container its fds 0-2, once; where a terminal comes, that step does. */
int init_provide_stdio(struct walk *walk);
/* hold.c: give the application the descriptors that it was promised, from 3 on. What is still needed
 * has other numbers then. */
int init_place_preserved(struct walk *walk);
/* hold.c: tell the spawner who runs, and return once that is on record; else the child is killed.
 * `waits`: not before the child has ended and the spawner was told how. */
int hand_over(struct monitor *m, int waits);
/* The root's descriptor; "/" if no root was attached. -1 with the failure filled. */
int init_root(struct walk *walk);

/* hook.c: a file with the pieces and the number between them, to be read from its start. Owned; -1
 * with the failure filled. */
int state_file(struct walk *walk, const struct list *pieces, pid_t pid);

/* steps_host.c: one write of a whole file of /proc/PID. */
int write_process_file(struct walk *walk, pid_t pid, const char *name, const char *text,
                       size_t length);

/* hook.c: a program that runs to its end, and how it is named when it fails: `call`, and `kind`
 * ("prestart hook ") before its path. `directory` empty: `root`. `timeout_ms` 0: no limit. */
struct program {
    const char *call;
    const char *kind;
    const char *path;
    const char **arguments;
    const char **environment;
    const char *directory;
    int root;
    int input;
    uint64_t timeout_ms;
};
/* 0: it exited with 0. -1: it did not, with the failure filled. */
int run_program(struct walk *walk, const struct program *program);

/* agent.c: what LOAD_SECCOMP tells the agent. Nothing but sendmsg is called once it is prepared. */
struct agent {
    int socket;
    const char *state;
    size_t size;
};
int agent_prepare(struct walk *walk, const struct step *step, struct agent *agent);
int agent_tell(struct walk *walk, const struct step *step, const struct agent *agent,
               int listener);

int step_open_tree(struct walk *walk, const struct step *step);
int step_open_peer_tree(struct walk *walk, const struct step *step);
int step_make_node(struct walk *walk, const struct step *step);
int step_set_time_offsets(struct walk *walk, const struct step *step);
int step_write_id_maps(struct walk *walk, const struct step *step);
int step_join_cgroups(struct walk *walk, const struct step *step);
int step_idmap_tree(struct walk *walk, const struct step *step);
int step_set_oom_score(struct walk *walk, const struct step *step);
int step_set_rlimit(struct walk *walk, const struct step *step);
int step_send_netlink(struct walk *walk, const struct step *step);
int step_run_host_hook(struct walk *walk, const struct step *step);
int step_connect_agent(struct walk *walk, const struct step *step);
int step_set_scheduler(struct walk *walk, const struct step *step);
int step_set_cpu_affinity(struct walk *walk, const struct step *step);

int step_set_root_propagation(struct walk *walk, const struct step *step);
int step_join_keyring(struct walk *walk, const struct step *step);
int step_unshare_cgroup(struct walk *walk, const struct step *step);
int step_raise_loopback(struct walk *walk, const struct step *step);
int step_take_tree(struct walk *walk, const struct step *step);
int step_set_hostname(struct walk *walk, const struct step *step);
int step_set_domainname(struct walk *walk, const struct step *step);
int step_mount_overlay(struct walk *walk, const struct step *step);
int step_attach_root(struct walk *walk, const struct step *step);
int step_mount_filesystem(struct walk *walk, const struct step *step);
int step_bind_tree(struct walk *walk, const struct step *step);
int step_make_directory(struct walk *walk, const struct step *step);
int step_make_symlink(struct walk *walk, const struct step *step);
int step_make_device(struct walk *walk, const struct step *step);
int step_open_terminal(struct walk *walk, const struct step *step);
int step_pivot_root(struct walk *walk, const struct step *step);
int step_write_sysctl(struct walk *walk, const struct step *step);
int step_set_path_readonly(struct walk *walk, const struct step *step);
int step_mask_path(struct walk *walk, const struct step *step);
int step_set_root_readonly(struct walk *walk, const struct step *step);
int step_set_umask(struct walk *walk, const struct step *step);
int step_set_no_new_privileges(struct walk *walk, const struct step *step);
int step_load_seccomp(struct walk *walk, const struct step *step);
int step_become_user(struct walk *walk, const struct step *step);
int step_change_directory(struct walk *walk, const struct step *step);
int step_execute(struct walk *walk, const struct step *step);
int step_configure_network(struct walk *walk, const struct step *step);
int step_bind_sockets(struct walk *walk, const struct step *step);
int step_hold(struct walk *walk, const struct step *step);
int step_run_hook(struct walk *walk, const struct step *step);
int step_set_io_priority(struct walk *walk, const struct step *step);
int step_set_memory_policy(struct walk *walk, const struct step *step);
int step_set_personality(struct walk *walk, const struct step *step);
int step_change_mount(struct walk *walk, const struct step *step);
int step_set_label(struct walk *walk, const struct step *step);

#endif
