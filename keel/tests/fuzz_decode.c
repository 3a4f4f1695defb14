/* Mutated plans and file heads against the decoder and the interpreter search, under ASan and
 * UBSan. `fuzz_decode [seconds] [seed]`; the seed of a crash is on the last line printed. */
#include <string.h>
#include <time.h>

#include "../decode.h"
#include "../explain.h"
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
            begin_plan(&buffer, steps + 3);
            put_supervise(&buffer, draw(2));
            put_clone(&buffer, draw(300), -1);
            for (; steps > 0; steps--)
                put_random_step(&buffer);
            put_execute(&buffer, "x", draw(3));
        }
        mutate(&buffer);
        decode_once(&buffer);
    }
    printf("%llu plans\n", (unsigned long long)rounds);
    return 0;
}
