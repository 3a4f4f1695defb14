/* The plan as keel holds it: decoded and checked in whole before anything is done. */
#ifndef KEEL_DECODE_H
#define KEEL_DECODE_H

#include <stddef.h>
#include <stdint.h>

#include "keel.h"

enum opcode {
#define STEP(number, name, signature) STEP_##name = (number),
#include "steps.def"
#undef STEP
    STEP_FIRST_OF_INIT = STEP_SET_ROOT_PROPAGATION,
    STEP_LAST_OF_INIT = STEP_HOLD, /* the monitor's numbers are below and above */
    STEP_LIMIT = STEP_MAKE_NODE + 1,
};

enum { MAX_FIELDS = 11, SLOTS = 256, NO_SLOT = 255 };

static inline int is_of_init(unsigned opcode) {
    return opcode >= STEP_FIRST_OF_INIT && opcode <= STEP_LAST_OF_INIT;
}

/* Bytes of the plan, followed by a NUL that is not counted. */
struct blob {
    const char *bytes;
    uint32_t length;
};

/* Strings, followed by a NULL: what execve takes. */
struct list {
    const char **items;
    uint32_t count;
};

struct numbers {
    uint64_t *items;
    uint32_t count;
};

union field {
    uint64_t number;        /* u */
    int64_t integer;        /* i */
    struct blob text;       /* s */
    struct list list;       /* l */
    struct numbers numbers; /* n */
};

struct step {
    uint16_t opcode;
    int optional;
    union field field[MAX_FIELDS];
};

struct plan {
    struct step *steps;
    uint32_t count;
    uint32_t clone_index;
};

/* Decode `bytes`, which must outlive the plan. On -1 the failure tells where and why, and the plan
 * holds nothing. */
int decode_plan(const uint8_t *bytes, size_t size, struct plan *plan, struct failure *failure);
void free_plan(struct plan *plan);

/* The name of a step as in steps.def, "?" for an unknown one. */
const char *step_name(unsigned opcode);

static inline const char *text_of(const struct step *step, unsigned index) {
    return step->field[index].text.bytes;
}

static inline uint64_t number_of(const struct step *step, unsigned index) {
    return step->field[index].number;
}

#endif
