/* Bytes → plan. Promises: no byte outside the buffer is read, whatever it holds, and a plan that is
 * returned has every property that the walk relies on. It does not know what a step does. */
#include "decode.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "address.h"
#include "netlink.h"

enum { MAGIC_BYTES = 8, STEP_HEADER_BYTES = 8, FLAG_OPTIONAL = 1, FILTER_BYTES = 8 };

static const uint8_t MAGIC[MAGIC_BYTES] = "KEEL\1\0\0";

static const struct {
    const char *name;
    const char *signature;
} TABLE[STEP_LIMIT] = {
#define STEP(number, name, signature) [number] = {#name, signature},
#include "steps.def"
#undef STEP
};

struct cursor {
    const uint8_t *at;
    const uint8_t *end;
    const char *wrong; /* first thing found wrong; NULL: nothing yet */
};

static size_t left(const struct cursor *cursor) {
    return (size_t)(cursor->end - cursor->at);
}

static uint64_t take_integer(struct cursor *cursor, unsigned bytes) {
    uint64_t value = 0;
    if (cursor->wrong || left(cursor) < bytes) {
        cursor->wrong = cursor->wrong ? cursor->wrong : "a field is cut short";
        return 0;
    }
    for (unsigned i = 0; i < bytes; i++)
        value |= (uint64_t)cursor->at[i] << (8 * i);
    cursor->at += bytes;
    return value;
}

static uint32_t take_u32(struct cursor *cursor) {
    return (uint32_t)take_integer(cursor, 4);
}

static struct blob take_blob(struct cursor *cursor) {
    struct blob blob = {"", 0};
    uint32_t length = take_u32(cursor);
    if (cursor->wrong)
        return blob;
    if (left(cursor) <= length || cursor->at[length] != 0) {
        cursor->wrong = "a string is cut short or not ended by NUL";
        return blob;
    }
    blob.bytes = (const char *)cursor->at;
    blob.length = length;
    cursor->at += (size_t)length + 1;
    return blob;
}

static struct blob take_string(struct cursor *cursor) {
    struct blob blob = take_blob(cursor);
    if (!cursor->wrong && memchr(blob.bytes, 0, blob.length))
        cursor->wrong = "a string holds NUL";
    return blob;
}

/* Count of items that need at least `item_bytes` each; 0 with `wrong` when they cannot fit. */
static uint32_t take_count(struct cursor *cursor, size_t item_bytes) {
    uint32_t count = take_u32(cursor);
    if (!cursor->wrong && count > left(cursor) / item_bytes)
        cursor->wrong = "a list is cut short";
    return cursor->wrong ? 0 : count;
}

static struct list take_list(struct cursor *cursor) {
    struct list list = {NULL, take_count(cursor, 5)};
    list.items = calloc((size_t)list.count + 1, sizeof *list.items);
    if (!list.items) {
        cursor->wrong = "out of memory";
        list.count = 0;
    }
    for (uint32_t i = 0; i < list.count; i++)
        list.items[i] = take_string(cursor).bytes;
    return list;
}

static struct numbers take_numbers(struct cursor *cursor) {
    struct numbers numbers = {NULL, take_count(cursor, 8)};
    numbers.items = calloc((size_t)numbers.count + 1, sizeof *numbers.items);
    if (!numbers.items) {
        cursor->wrong = "out of memory";
        numbers.count = 0;
    }
    for (uint32_t i = 0; i < numbers.count; i++)
        numbers.items[i] = take_integer(cursor, 8);
    return numbers;
}

/* Steps whose strings may hold NUL. */
static int holds_blob(unsigned opcode) {
    return opcode == STEP_LOAD_SECCOMP || opcode == STEP_SEND_NETLINK ||
           opcode == STEP_CONFIGURE_NETWORK;
}

static void take_fields(struct cursor *cursor, struct step *step) {
    const char *signature = TABLE[step->opcode].signature;
    for (unsigned i = 0; signature[i]; i++) {
        union field *field = &step->field[i];
        switch (signature[i]) {
        case 'u':
        case 'i': /* two's complement both: the same bits */
            field->number = take_integer(cursor, 8);
            break;
        case 's':
            field->text = holds_blob(step->opcode) ? take_blob(cursor) : take_string(cursor);
            break;
        case 'l':
            field->list = take_list(cursor);
            break;
        case 'n':
            field->numbers = take_numbers(cursor);
            break;
        default:
            abort(); /* steps.def is ours */
        }
    }
}

static int is_slot(uint64_t slot) {
    return slot < NO_SLOT;
}

static const char *check_clone(const struct step *step) {
    const struct numbers *joins = &step->field[2].numbers;
    if (joins->count % 2)
        return "pidfd joins are not pairs";
    for (uint32_t i = 0; i < joins->count; i += 2)
        if (!is_slot(joins->items[i]))
            return "no such slot";
    if (step->field[3].integer < -1 || step->field[3].integer >= NO_SLOT)
        return "no such slot";
    return NULL;
}

static const char *check_overlay(const struct step *step) {
    const struct numbers *lowers = &step->field[1].numbers;
    int ok = is_slot(number_of(step, 0)) && number_of(step, 2) <= NO_SLOT &&
             number_of(step, 3) <= NO_SLOT;
    for (uint32_t i = 0; i < lowers->count; i++)
        ok = ok && is_slot(lowers->items[i]);
    if (!ok)
        return "no such slot";
    if (lowers->count == 0)
        return "an overlay without a layer";
    if ((number_of(step, 2) == NO_SLOT) != (number_of(step, 3) == NO_SLOT))
        return "an upper directory and a work directory go together";
    return NULL;
}

static const char *check_supervise(const struct step *step) {
    if (step->optional)
        return "this step cannot be optional";
    return step->field[2].text.length && step->field[9].text.length
               ? "a log goes to a file or to a journal, not to both"
               : NULL;
}

static const char *check_hand_over(const struct step *step) {
    const struct numbers *preserved = &step->field[2].numbers;
    if (step->optional)
        return "this step cannot be optional";
    for (uint32_t i = 0; i < preserved->count; i++)
        if (!is_slot(preserved->items[i]))
            return "no such slot";
    return NULL;
}

static const char *check_filter(const struct step *step) {
    if (step->field[1].text.length % FILTER_BYTES || step->field[1].text.length == 0)
        return "a filter is not a whole number of instructions";
    if (number_of(step, 2) > NO_SLOT || number_of(step, 3) > NO_SLOT)
        return "no such slot";
    return (number_of(step, 2) == NO_SLOT) == (number_of(step, 3) == NO_SLOT)
               ? NULL
               : "an agent and what it is told go together";
}

static const char *check_netlink(const struct step *step) {
    const struct blob *messages = &step->field[0].text;
    const struct numbers *pids = &step->field[1].numbers;
    if (!netlink_count(messages->bytes, messages->length))
        return "these are not netlink messages";
    for (uint32_t i = 0; step->opcode == STEP_SEND_NETLINK && i < pids->count; i++)
        if (pids->items[i] > messages->length ||
            messages->length - pids->items[i] < sizeof(uint32_t))
            return "a pid's place lies outside the messages";
    return NULL;
}

static const char *check_sockets(const struct step *step) {
    const struct list *sockets = &step->field[0].list;
    struct endpoint endpoint;
    if (step->optional)
        return "this step cannot be optional";
    if (sockets->count == 0 || sockets->count > MAX_SOCKETS)
        return "too many sockets, or none";
    for (uint32_t i = 0; i < sockets->count; i++)
        if (parse_endpoint(sockets->items[i], &endpoint) < 0)
            return "not an address to bind to";
    return NULL;
}

/* What is wrong with the step by itself; NULL: nothing. */
static const char *check_step(const struct step *step) {
    switch (step->opcode) {
    case STEP_OPEN_TREE:
    case STEP_TAKE_TREE:
    case STEP_IDMAP_TREE:
    case STEP_ATTACH_ROOT:
    case STEP_BIND_TREE:
        return is_slot(number_of(step, 0)) ? NULL : "no such slot";
    case STEP_CONNECT_AGENT:
        return is_slot(number_of(step, 0)) && is_slot(number_of(step, 1)) ? NULL : "no such slot";
    case STEP_OPEN_PEER_TREE:
    case STEP_MAKE_NODE:
        /* one that fails half way may have left the monitor elsewhere */
        if (step->optional)
            return "this step cannot be optional";
        return is_slot(number_of(step, 0)) ? NULL : "no such slot";
    case STEP_CLONE_INTO:
        return step->optional ? "this step cannot be optional" : check_clone(step);
    case STEP_MOUNT_OVERLAY:
        return check_overlay(step);
    case STEP_SUPERVISE:
        return check_supervise(step);
    case STEP_HAND_OVER:
        return check_hand_over(step);
    case STEP_HOLD:
        if (step->optional)
            return "this step cannot be optional";
        return is_slot(number_of(step, 0)) ? NULL : "no such slot";
    case STEP_SEND_NETLINK:
    case STEP_CONFIGURE_NETWORK:
        return check_netlink(step);
    case STEP_BIND_SOCKETS:
        return check_sockets(step);
    case STEP_JOIN_CGROUPS:
    case STEP_OPEN_TERMINAL:
        return step->optional ? "this step cannot be optional" : NULL;
    case STEP_LOAD_SECCOMP:
        return check_filter(step);
    case STEP_EXECUTE:
        if (step->optional)
            return "this step cannot be optional";
        return step->field[0].list.count && step->field[2].list.count ? NULL : "nothing to execute";
    default:
        return NULL;
    }
}

static int needs_child(uint16_t opcode) {
    return opcode == STEP_WRITE_ID_MAPS || opcode == STEP_IDMAP_TREE ||
           opcode == STEP_SET_RLIMIT || opcode == STEP_SEND_NETLINK ||
           opcode == STEP_RUN_HOST_HOOK || opcode == STEP_CONNECT_AGENT ||
           opcode == STEP_SET_SCHEDULER || is_of_init(opcode);
}

/* Which steps have come so far. */
struct seen {
    int clone, terminal, sockets, hold;
};

static int wants_terminal(const struct plan *plan) {
    return number_of(&plan->steps[0], plan->steps[0].opcode == STEP_SUPERVISE ? 4 : 0) != 0;
}

/* What is wrong with the step's place in the plan; NULL: nothing. */
static const char *check_place(const struct plan *plan, uint32_t index, const struct seen *seen) {
    uint16_t opcode = plan->steps[index].opcode;
    int first = opcode == STEP_SUPERVISE || opcode == STEP_HAND_OVER;
    if (first != (index == 0))
        return "the first step is neither SUPERVISE nor HAND_OVER, or there are two";
    if ((opcode == STEP_EXECUTE) != (index == plan->count - 1))
        return "EXECUTE is not the last step";
    if (opcode == STEP_CLONE_INTO && seen->clone)
        return "a second CLONE_INTO";
    if (opcode == STEP_BIND_SOCKETS && seen->sockets)
        return "a second BIND_SOCKETS";
    if (opcode == STEP_HOLD && (seen->hold || plan->steps[0].opcode != STEP_HAND_OVER))
        return "a second HOLD, or one without HAND_OVER";
    if (seen->hold && !is_of_init(opcode))
        return "a step of the monitor comes after HOLD";
    if (needs_child(opcode) && !seen->clone)
        return "a step of the child comes before CLONE_INTO";
    if ((opcode == STEP_SET_TIME_OFFSETS || opcode == STEP_JOIN_CGROUPS) && seen->clone)
        return "comes too late, after CLONE_INTO";
    if (opcode == STEP_EXECUTE && !seen->terminal != !wants_terminal(plan))
        return "the first step and OPEN_TERMINAL disagree about a terminal";
    return NULL;
}

static const char *take_step(struct cursor *cursor, struct step *step) {
    uint16_t opcode = (uint16_t)take_integer(cursor, 2);
    uint16_t flags = (uint16_t)take_integer(cursor, 2);
    uint32_t length = take_u32(cursor);
    if (cursor->wrong)
        return cursor->wrong;
    if (opcode >= STEP_LIMIT || !TABLE[opcode].name)
        return "unknown step";
    step->opcode = opcode;
    step->optional = flags & FLAG_OPTIONAL;
    if (flags & ~FLAG_OPTIONAL)
        return "unknown flags";
    if (length > left(cursor))
        return "a step is cut short";
    struct cursor payload = {cursor->at, cursor->at + length, NULL};
    take_fields(&payload, step);
    if (payload.wrong)
        return payload.wrong;
    if (payload.at != payload.end)
        return "a step is longer than its fields";
    cursor->at = payload.end;
    return check_step(step);
}

static const char *take_steps(struct cursor *cursor, struct plan *plan, uint32_t *index) {
    struct seen seen = {0};
    for (*index = 0; *index < plan->count; ++*index) {
        struct step *step = &plan->steps[*index];
        const char *wrong = take_step(cursor, step);
        if (!wrong)
            wrong = check_place(plan, *index, &seen);
        if (wrong)
            return wrong;
        if (step->opcode == STEP_CLONE_INTO)
            plan->clone_index = *index;
        seen.clone |= step->opcode == STEP_CLONE_INTO;
        seen.terminal |= step->opcode == STEP_OPEN_TERMINAL;
        seen.sockets |= step->opcode == STEP_BIND_SOCKETS;
        seen.hold |= step->opcode == STEP_HOLD;
    }
    return cursor->at == cursor->end ? NULL : "bytes after the last step";
}

int decode_plan(const uint8_t *bytes, size_t size, struct plan *plan, struct failure *failure) {
    struct cursor cursor = {bytes, bytes + size, NULL};
    uint32_t index = 0;
    const char *wrong = NULL;
    *plan = (struct plan){0};
    if (size < MAGIC_BYTES || memcmp(bytes, MAGIC, MAGIC_BYTES) != 0) {
        wrong = "this is not a plan, or one of another version";
    } else {
        cursor.at += MAGIC_BYTES;
        plan->count = take_count(&cursor, STEP_HEADER_BYTES);
        wrong = cursor.wrong ? cursor.wrong : plan->count ? NULL : "a plan without steps";
    }
    if (!wrong) {
        plan->steps = calloc(plan->count, sizeof *plan->steps);
        wrong = plan->steps ? take_steps(&cursor, plan, &index) : "out of memory";
    }
    if (!wrong)
        return 0;
    failure->step = index;
    failure->opcode = plan->steps && index < plan->count ? plan->steps[index].opcode : 0;
    free_plan(plan);
    errno = EBADMSG;
    return fail(failure, "decode", "%s", wrong);
}

void free_plan(struct plan *plan) {
    for (uint32_t i = 0; plan->steps && i < plan->count; i++) {
        const char *signature = TABLE[plan->steps[i].opcode].signature;
        for (unsigned j = 0; signature && signature[j]; j++) {
            if (signature[j] == 'l')
                free(plan->steps[i].field[j].list.items);
            if (signature[j] == 'n')
                free(plan->steps[i].field[j].numbers.items);
        }
    }
    free(plan->steps);
    *plan = (struct plan){0};
}

const char *step_name(unsigned opcode) {
    return opcode < STEP_LIMIT && TABLE[opcode].name ? TABLE[opcode].name : "?";
}
