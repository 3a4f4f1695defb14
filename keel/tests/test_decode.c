/* decode_plan: what it takes, and each thing that it refuses. */
#include "../decode.h"

#include <errno.h>
#include <string.h>

#include "check.h"
#include "plan_bytes.h"

static struct failure failure;
static struct plan plan;

/* Decode from memory of exactly this size, so that the sanitizer sees a byte read too much. */
static int decode(const struct buffer *buffer, size_t size) {
    uint8_t *exact = malloc(size ? size : 1);
    CHECK(exact);
    memcpy(exact, buffer->bytes, size);
    int result = decode_plan(exact, size, &plan, &failure);
    CHECK(result == 0 || (plan.steps == NULL && failure.error == EBADMSG));
    if (result == 0)
        free_plan(&plan);
    free(exact);
    return result;
}

static void refuse(const struct buffer *buffer, uint32_t step, const char *why) {
    CHECK(decode(buffer, buffer->size) < 0);
    if (failure.step != step || strcmp(failure.detail, why) != 0)
        fprintf(stderr, "step %u: %s\n", failure.step, failure.detail);
    CHECK(failure.step == step);
    CHECK(strcmp(failure.detail, why) == 0);
}

static void test_a_good_plan(void) {
    struct buffer buffer;
    put_good_plan(&buffer);
    CHECK(decode_plan(buffer.bytes, buffer.size, &plan, &failure) == 0);
    CHECK(plan.count == 4 && plan.clone_index == 1);
    CHECK(strcmp(text_of(&plan.steps[0], 0), "/run/x") == 0);
    CHECK(plan.steps[1].field[1].list.count == 1);
    CHECK(strcmp(plan.steps[1].field[1].list.items[0], "net:/proc/1/ns/net") == 0);
    CHECK(plan.steps[1].field[2].numbers.items[1] == 0x40000000);
    CHECK(plan.steps[1].field[3].integer == -1);
    CHECK(plan.steps[2].optional && number_of(&plan.steps[2], 0) == 022);
    CHECK(plan.steps[3].field[0].list.items[1] == NULL);
    free_plan(&plan);
}

static void test_every_truncation(void) {
    struct buffer buffer;
    put_good_plan(&buffer);
    for (size_t size = 0; size < buffer.size; size++)
        CHECK(decode(&buffer, size) < 0);
    buffer.bytes[buffer.size++] = 0;
    refuse(&buffer, 4, "bytes after the last step");
}

static void test_the_head(void) {
    struct buffer buffer;
    put_good_plan(&buffer);
    buffer.bytes[4] = 2;
    refuse(&buffer, 0, "this is not a plan, or one of another version");
    begin_plan(&buffer, 0);
    refuse(&buffer, 0, "a plan without steps");
    begin_plan(&buffer, 0xffffffff);
    refuse(&buffer, 0, "a list is cut short");
}

static void test_order(void) {
    struct buffer buffer;
    begin_plan(&buffer, 2);
    put_clone(&buffer, 0, -1);
    put_execute(&buffer, "x", 1);
    refuse(&buffer, 0, "the first step is neither SUPERVISE nor HAND_OVER, or there are two");
    begin_plan(&buffer, 2);
    put_supervise(&buffer, 0);
    put_execute(&buffer, "x", 1);
    refuse(&buffer, 1, "a step of the child comes before CLONE_INTO");
    begin_plan(&buffer, 4);
    put_supervise(&buffer, 0);
    put_clone(&buffer, 0, -1);
    put_clone(&buffer, 0, -1);
    put_execute(&buffer, "x", 1);
    refuse(&buffer, 2, "a second CLONE_INTO");
    begin_plan(&buffer, 2);
    put_supervise(&buffer, 0);
    put_clone(&buffer, 0, -1);
    refuse(&buffer, 1, "EXECUTE is not the last step");
    begin_plan(&buffer, 3);
    put_supervise(&buffer, 1);
    put_clone(&buffer, 0, -1);
    put_execute(&buffer, "x", 1);
    refuse(&buffer, 2, "the first step and OPEN_TERMINAL disagree about a terminal");
}

static void test_fields(void) {
    struct buffer buffer;
    begin_plan(&buffer, 3);
    put_supervise(&buffer, 0);
    put_clone(&buffer, 256, -1);
    refuse(&buffer, 1, "no such slot");
    begin_plan(&buffer, 3);
    put_supervise(&buffer, 0);
    put_clone(&buffer, 0, 300);
    refuse(&buffer, 1, "no such slot");
    begin_plan(&buffer, 3);
    put_supervise(&buffer, 0);
    put_clone(&buffer, 0, -1);
    put_execute(&buffer, "x", 0);
    refuse(&buffer, 2, "nothing to execute");
    put_good_plan(&buffer);
    buffer.bytes[12] = 99; /* the first step's opcode */
    refuse(&buffer, 0, "unknown step");
    put_good_plan(&buffer);
    buffer.bytes[14] = 2; /* its flags */
    refuse(&buffer, 0, "unknown flags");
    put_good_plan(&buffer);
    buffer.bytes[26] = 0; /* inside "/run/x" */
    refuse(&buffer, 0, "a string holds NUL");
    put_good_plan(&buffer);
    buffer.bytes[30] = 'x'; /* its NUL */
    refuse(&buffer, 0, "a string is cut short or not ended by NUL");
}

static void put_filter_plan(struct buffer *buffer, uint64_t agent, uint64_t state) {
    begin_plan(buffer, 4);
    put_supervise(buffer, 0);
    put_clone(buffer, 0, -1);
    begin_step(buffer, 37, 0);
    put(buffer, 0, 8);
    put(buffer, 8, 4);
    put(buffer, 0x7fff000000000006, 8);
    put(buffer, 0, 1);
    put(buffer, agent, 8);
    put(buffer, state, 8);
    end_step(buffer);
    put_execute(buffer, "x", 1);
}

static void test_a_filter_may_hold_nul(void) {
    struct buffer buffer;
    put_filter_plan(&buffer, 255, 255);
    CHECK(decode(&buffer, buffer.size) == 0);
    put_filter_plan(&buffer, 3, 4);
    CHECK(decode(&buffer, buffer.size) == 0);
    put_filter_plan(&buffer, 3, 255);
    refuse(&buffer, 2, "an agent and what it is told go together");
    put_filter_plan(&buffer, 256, 256);
    refuse(&buffer, 2, "no such slot");
}

static void put_agent(struct buffer *buffer, uint64_t slot) {
    begin_step(buffer, 12, 0);
    put(buffer, slot, 8);
    put(buffer, 7, 8);
    put_text(buffer, "/run/agent");
    put(buffer, 0, 4);
    end_step(buffer);
}

static void test_an_agent_is_told_of_a_child(void) {
    struct buffer buffer;
    begin_plan(&buffer, 4);
    put_supervise(&buffer, 0);
    put_agent(&buffer, 6);
    refuse(&buffer, 1, "a step of the child comes before CLONE_INTO");
    begin_plan(&buffer, 4);
    put_supervise(&buffer, 0);
    put_clone(&buffer, 0, -1);
    put_agent(&buffer, 255);
    refuse(&buffer, 2, "no such slot");
}

/* A plan with one step of a batch of two messages, the second of `length` bytes by its word. */
static void put_netlink_plan(struct buffer *buffer, uint32_t length, uint64_t offset) {
    begin_plan(buffer, 4);
    put_supervise(buffer, 0);
    put_clone(buffer, 0, -1);
    begin_step(buffer, 10, 0);
    put(buffer, 16 + 20, 4);
    put(buffer, 16, 4);
    put(buffer, 0, 8);
    put(buffer, 0, 4);
    put(buffer, length, 4);
    put(buffer, 0, 8);
    put(buffer, 0, 8);
    put(buffer, 0, 1);
    put(buffer, 1, 4);
    put(buffer, offset, 8);
    end_step(buffer);
    put_execute(buffer, "x", 1);
}

static void test_netlink(void) {
    struct buffer buffer;
    static const uint32_t bad[] = {0, 15, 21, 0xffffffff};
    put_netlink_plan(&buffer, 20, 32);
    CHECK(decode(&buffer, buffer.size) == 0);
    put_netlink_plan(&buffer, 17, 0); /* the last one's padding may be there or not */
    CHECK(decode(&buffer, buffer.size) == 0);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        put_netlink_plan(&buffer, bad[i], 0);
        refuse(&buffer, 2, "these are not netlink messages");
    }
    put_netlink_plan(&buffer, 20, 33);
    refuse(&buffer, 2, "a pid's place lies outside the messages");
    put_netlink_plan(&buffer, 20, UINT64_MAX);
    refuse(&buffer, 2, "a pid's place lies outside the messages");
}

static void put_sockets(struct buffer *buffer, uint32_t count, const char *text, unsigned flags) {
    begin_step(buffer, 42, flags);
    put(buffer, count, 4);
    for (uint32_t i = 0; i < count; i++)
        put_text(buffer, text);
    end_step(buffer);
}

static void refuse_sockets(uint32_t count, const char *text, unsigned flags, const char *why) {
    struct buffer buffer;
    begin_plan(&buffer, 4);
    put_supervise(&buffer, 0);
    put_clone(&buffer, 0, -1);
    put_sockets(&buffer, count, text, flags);
    put_execute(&buffer, "x", 1);
    refuse(&buffer, 2, why);
}

static void test_sockets(void) {
    struct buffer buffer;
    refuse_sockets(0, "", 0, "too many sockets, or none");
    refuse_sockets(MAX_SOCKETS + 1, "udp:127.0.0.1:53", 0, "too many sockets, or none");
    refuse_sockets(1, "udp:127.0.0.1", 0, "not an address to bind to");
    refuse_sockets(1, "udp:127.0.0.1:53", 1, "this step cannot be optional");
    begin_plan(&buffer, 5);
    put_supervise(&buffer, 0);
    put_clone(&buffer, 0, -1);
    put_sockets(&buffer, MAX_SOCKETS, "udp:127.0.0.1:53", 0);
    put_sockets(&buffer, 1, "udp:127.0.0.1:53", 0);
    put_execute(&buffer, "x", 1);
    refuse(&buffer, 3, "a second BIND_SOCKETS");
}

/* `hold` times HOLD in slot `slot`, then a step of the monitor if `late`. */
static void put_held_plan(struct buffer *buffer, int handed, unsigned hold, uint64_t slot, int late) {
    begin_plan(buffer, 3 + hold + (late ? 1 : 0));
    if (handed) {
        begin_step(buffer, 15, 0);
        put(buffer, 0, 8);
        put(buffer, 0, 8);
        put(buffer, 1, 4);
        put(buffer, slot, 8);
        end_step(buffer);
    } else {
        put_supervise(buffer, 0);
    }
    put_clone(buffer, 3, -1);
    for (unsigned i = 0; i < hold; i++) {
        begin_step(buffer, 63, 0);
        put(buffer, slot, 8);
        end_step(buffer);
    }
    if (late) {
        begin_step(buffer, 8, 0);
        put(buffer, 0, 8);
        end_step(buffer);
    }
    put_execute(buffer, "true", 1);
}

static void test_a_container_that_waits(void) {
    struct buffer buffer;
    put_held_plan(&buffer, 1, 1, 0, 0);
    CHECK(decode(&buffer, buffer.size) == 0);
    put_held_plan(&buffer, 1, 2, 0, 0);
    refuse(&buffer, 3, "a second HOLD, or one without HAND_OVER");
    put_held_plan(&buffer, 0, 1, 0, 0);
    refuse(&buffer, 2, "a second HOLD, or one without HAND_OVER");
    put_held_plan(&buffer, 1, 1, 0, 1);
    refuse(&buffer, 3, "a step of the monitor comes after HOLD");
    put_held_plan(&buffer, 1, 1, 255, 0);
    refuse(&buffer, 0, "no such slot");
}

static void put_peer_tree(struct buffer *buffer, uint64_t slot, unsigned flags) {
    begin_plan(buffer, 4);
    put_supervise(buffer, 0);
    begin_step(buffer, 11, flags);
    put(buffer, slot, 8);
    put_text(buffer, "/proc/7/ns/mnt");
    put_text(buffer, "/dev/shm");
    end_step(buffer);
    put_clone(buffer, 0, -1);
    put_execute(buffer, "x", 1);
}

static void test_peer_tree(void) {
    struct buffer buffer;
    put_peer_tree(&buffer, 256, 0);
    refuse(&buffer, 1, "no such slot");
    put_peer_tree(&buffer, 3, 1);
    refuse(&buffer, 1, "this step cannot be optional");
    put_peer_tree(&buffer, 3, 0);
    CHECK(decode(&buffer, buffer.size) == 0);
}

static void test_one_place_for_the_log(void) {
    struct buffer buffer;
    begin_plan(&buffer, 1);
    begin_step(&buffer, 1, 0);
    put_text(&buffer, "/run/x");
    put_text(&buffer, "/log");
    put_text(&buffer, "log");
    put_text(&buffer, "");
    for (int i = 0; i < 5; i++)
        put(&buffer, 0, 8);
    put_text(&buffer, "/run/journal");
    put(&buffer, 0, 4);
    end_step(&buffer);
    refuse(&buffer, 0, "a log goes to a file or to a journal, not to both");
}

int main(void) {
    test_netlink();
    test_sockets();
    test_a_container_that_waits();
    test_peer_tree();
    test_one_place_for_the_log();
    test_a_good_plan();
    test_every_truncation();
    test_the_head();
    test_order();
    test_fields();
    test_a_filter_may_hold_nul();
    test_an_agent_is_told_of_a_child();
    return 0;
}
