/* Mutated plans and file heads against the decoder and the interpreter search, under ASan and
 * UBSan. `fuzz_decode [seconds] [seed]`; the seed of a crash is on the last line printed. */
#include <string.h>
#include <time.h>

#include "../decode.h"
#include "../explain.h"
#include "../netlink.h"
#include "check.h"
#include "plan_bytes.h"

static uint64_t state;

static uint32_t draw(uint32_t below) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (uint32_t)(state >> 11) % below;
}

static void put_random_step(struct buffer *buffer) {
    begin_step(buffer, draw(44), draw(2));
    for (uint32_t i = draw(6); i > 0; i--) {
        switch (draw(3)) {
        case 0:
            put(buffer, draw(4) ? draw(300) : ((uint64_t)draw(1u << 31) << 33) + draw(9), 8);
            break;
        case 1:
            put_text(buffer, draw(2) ? "text" : "");
            break;
        default:
            put(buffer, draw(3), 4);
        }
    }
    end_step(buffer);
}

/* Whole netlink messages, a pid's place in them, and sockets. */
static void put_network_steps(struct buffer *buffer) {
    static const char *const sockets[] = {"udp:127.0.0.11:53", "tcp:[fd00::1:2]:53"};
    uint32_t messages = 1 + draw(3);
    begin_step(buffer, 10, 0);
    put(buffer, messages * 20, 4);
    for (uint32_t i = 0; i < messages; i++) {
        put(buffer, 20, 4);
        put(buffer, 2, 4); /* NLMSG_ERROR: it will be looked at as an answer, too */
        put(buffer, draw(4), 8);
        put(buffer, draw(1u << 30), 4);
    }
    put(buffer, 0, 1);
    put(buffer, 1, 4);
    put(buffer, draw(70), 8);
    end_step(buffer);
    begin_step(buffer, 42, 0);
    put(buffer, 2, 4);
    for (uint32_t i = 0; i < 2; i++)
        put_text(buffer, sockets[draw(2)]);
    end_step(buffer);
}

/* An answer of the kernel's, with words, with or without an echo of the request. */
static void put_answer(struct buffer *buffer) {
    uint32_t echoed = draw(2) * 16, words = draw(24);
    buffer->size = 0;
    put(buffer, 36 + echoed + 4 + words, 4);
    put(buffer, 2, 2);
    put(buffer, 0x200u | (echoed ? 0 : 0x100u), 2);
    put(buffer, 7, 8);
    put(buffer, draw(2) ? 0 : 0xffffffef, 4);
    put(buffer, 16 + echoed, 4);
    for (uint32_t i = 0; i < 12 + echoed; i++)
        put(buffer, draw(256), 1);
    put(buffer, 4 + words, 2);
    put(buffer, 1 + draw(2), 2);
    for (uint32_t i = 0; i < words; i++)
        put(buffer, draw(4) ? 'w' : 0, 1);
}

static void answer_once(const struct buffer *buffer) {
    char words[16];
    int error = 0;
    char *exact = malloc(buffer->size ? buffer->size : 1);
    CHECK(exact);
    memcpy(exact, buffer->bytes, buffer->size);
    if (netlink_answer(exact, buffer->size, 7, &error, words, sizeof words))
        CHECK(memchr(words, 0, sizeof words));
    netlink_count(exact, buffer->size);
    free(exact);
}

static void mutate(struct buffer *buffer) {
    static const uint8_t edges[] = {0, 1, 0x7f, 0x80, 0xfe, 0xff};
    for (uint32_t i = draw(6); i > 0 && buffer->size > 0; i--) {
        size_t at = draw((uint32_t)buffer->size);
        switch (draw(4)) {
        case 0:
            buffer->bytes[at] = edges[draw(sizeof edges)];
            break;
        case 1:
            buffer->bytes[at] ^= (uint8_t)(1u << draw(8));
            break;
        case 2:
            buffer->size = at;
            break;
        default:
            memmove(buffer->bytes + at, buffer->bytes + at + 1, buffer->size - at - 1);
            buffer->size--;
        }
    }
}

static void decode_once(const struct buffer *buffer) {
    static struct failure failure;
    struct plan plan;
    char name[32];
    uint8_t *exact = malloc(buffer->size + 1);
    CHECK(exact);
    memcpy(exact, buffer->bytes, buffer->size);
    exact = realloc(exact, buffer->size ? buffer->size : 1);
    CHECK(exact);
    if (decode_plan(exact, buffer->size, &plan, &failure) == 0) {
        CHECK(plan.steps[0].opcode == STEP_SUPERVISE);
        CHECK(plan.steps[plan.count - 1].opcode == STEP_EXECUTE);
        CHECK(plan.steps[plan.clone_index].opcode == STEP_CLONE_INTO);
        free_plan(&plan);
    }
    if (buffer->size > 6)
        memcpy(exact, draw(2) ? "\177ELF\2\1" : "\177ELF\1\1", 6);
    find_interpreter(exact, buffer->size, name, sizeof name);
    free(exact);
}

int main(int argc, char **argv) {
    time_t end = time(NULL) + (argc > 1 ? atoi(argv[1]) : 10);
    uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 0) : (uint64_t)time(NULL) * 2654435761u + 1;
    uint64_t rounds = 0;
    static struct buffer buffer;
    printf("seed %#llx\n", (unsigned long long)seed);
    fflush(stdout);
    state = seed | 1;
    for (; rounds % 1024 || time(NULL) < end; rounds++) {
        if (draw(2)) {
            put_good_plan(&buffer);
        } else {
            uint32_t steps = draw(6);
            uint32_t network = draw(2) * 2;
            begin_plan(&buffer, steps + network + 3);
            put_supervise(&buffer, draw(2));
            put_clone(&buffer, draw(300), -1);
            if (network)
                put_network_steps(&buffer);
            for (; steps > 0; steps--)
                put_random_step(&buffer);
            put_execute(&buffer, "x", draw(3));
        }
        mutate(&buffer);
        decode_once(&buffer);
        put_answer(&buffer);
        mutate(&buffer);
        answer_once(&buffer);
    }
    printf("%llu plans\n", (unsigned long long)rounds);
    return 0;
}
